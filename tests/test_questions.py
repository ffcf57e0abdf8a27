import json

import pytest

from maskdpo_ray.config import DataConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.questions import check_disjoint, import_questions, read_questions
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder


def row(**changes) -> dict:
    return {"id": "q1", "topic": "Ada", "question": "Who is Ada?"} | changes


def write(path, *rows):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "q.jsonl"


def only(path):
    ((_, outcome),) = read_questions(path)
    return outcome


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (['{"id": '], "line 1 is not JSON"),
        ([row(), "", "[1]"], "line 3 must be a JSON object, not list"),
        ([row(), row(topic="B")], "line 2: id 'q1' stands in line 1 already"),
        ([{"id": "a", "topic": "b"}], "line 1: key 'question' is missing"),
        ([row(id=None)], "line 1: 'id' must be a string, not NoneType"),
        ([row(question=7)], "line 1: 'question' must be a string, not int"),
        ([row(id=" ")], "line 1: 'id' is empty"),
        ([row(document=["d"])], "line 1: 'document' must be a string"),
        ([""], "holds no question"),
        ([row(), f'{{"question": "?", "n": {"9" * 5000}}}'], "line 2 holds a whole number of thou"),
        ([row(), f'{{"question": {"[" * 200_000}'], "line 2 is nested too deeply"),
        ([row(), '{"question": "a", "question": "b"}'], "line 2: 'question' stands twice in one"),
        (['{"question": "a", "x": [{"b": 1, "b": 1}]}'], "line 1: 'b' stands twice in one object"),
        ([row(id="\u200b")], "line 1: 'id' is empty"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(file, rows, words):
    with pytest.raises(UserError) as caught:
        list(read_questions(write(file, *rows)))
    assert words in str(caught.value) and str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no question file at"):
        list(read_questions(tmp_path / "none.jsonl"))


def test_bytes_that_are_not_utf8(file):
    file.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(UserError, match="line 1 is not UTF-8"):
        list(read_questions(file))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": "  "}, "empty_question"),
        ({"language": "fr"}, "unknown_language"),
        ({"question": "\ud800"}, "not_unicode"),
        ({"candidates": [{"text": "no response"}]}, "malformed_candidate"),
        ({"candidates": [{"response": "a \ud800"}]}, "not_unicode"),
        ({"candidates": [{"response": "a", "sentences": [{"start": 0}]}]}, "malformed_candidate"),
        ({"candidates": "abc"}, "malformed_candidate"),
        ({"candidates": [{"response": None}]}, "malformed_candidate"),
        ({"candidates": [{"response": ["a"]}]}, "malformed_candidate"),
        ({"candidates": [{"response": "a", "model": 7}]}, "malformed_candidate"),
        ({"candidates": [{"response": "a", "sentences": ["ok"]}]}, "malformed_candidate"),
        (
            {"candidates": [{"response": "a", "sentences": [{"start": 0, "end": 1, "label": 1}]}]},
            "malformed_candidate",
        ),
        (
            {"candidates": [{"response": "a", "sentences": [{"start": 0, "end": 1.0}]}]},
            "malformed_candidate",
        ),
        ({"candidates": ["abc"]}, "malformed_candidate"),
        (
            {
                "candidates": [
                    {"response": "a", "sentences": [{"start": 0, "end": 5 * 10**9, "label": "ok"}]}
                ]
            },
            "malformed_candidate",
        ),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason(file, changes, reason):
    outcome = only(write(file, row(**changes)))
    assert isinstance(outcome, RowRejected)
    assert outcome.reason == reason
    assert "line 1" in outcome.detail


def test_candidates_and_their_labels_come_along(file):
    given = {"model": "m", "response": "A b.", "sentences": [{"start": 0, "end": 4, "label": "ok"}]}
    outcome = only(write(file, row(candidates=[given], language="zh", other=1)))
    (candidate,) = outcome["candidates"]
    assert outcome["language"] == "zh"
    assert (candidate["model"], candidate["response"]) == ("m", "A b.")
    assert candidate["sentences"][0]["verdict"] == "ok"


def test_a_line_with_a_question_alone_is_named_by_its_content(file):
    lines = [{"question": "Who is Ada?"}, {"question": "Who is Bea?", "document": "d"}]
    first, second = read_questions(write(file, *lines))
    assert first[1]["topic"] == "Who is Ada?"
    assert first[0] == first[1]["id"] != second[0]
    ((again, _),) = read_questions(write(file, lines[1]))
    assert again == second[0], "wherever it stands"


def test_a_blank_topic_is_none(file):
    blank = (
        {"topic": " "},
        {"topic": ""},
        {"topic": "\u3000\n", "document": "Bea.\nShe ran."},
        {},
        {"topic": "\u200b\ufeff"},
    )
    lines = [{"question": f"Who is {n}?", **topic} for n, topic in enumerate(blank)]
    rows = [row for _, row in read_questions(write(file, *lines))]
    assert [row["topic"] for row in rows] == [
        "Who is 0?",
        "Who is 1?",
        "Bea.",
        "Who is 3?",
        "Who is 4?",
    ]


def test_a_line_without_an_id_that_stands_twice_is_counted_as_repeated(file):
    line = {"question": "Who is Ada?", "document": "d"}
    (first, kept), *again = read_questions(write(file, line, line, {"question": "Who?"}, line))
    assert kept["question"] == "Who is Ada?"
    (second, repeated), (_, other), (third, _) = again
    assert len({first, second, third}) == 3 and other["question"] == "Who?"
    assert repeated.reason == "repeated"
    assert "line 2: the same as line 1" in repeated.detail
    answered = line | {"candidates": [{"response": "A."}]}
    with pytest.raises(UserError, match=f"line 2: id '{first}' stands in line 1 already"):
        list(read_questions(write(file, line, answered)))


def test_a_whole_number_may_name_a_row(file):
    rows = list(read_questions(write(file, row(id=7), row(id=0))))
    assert [row_id for row_id, _ in rows] == ["7", "0"] == [r["id"] for _, r in rows]
    with pytest.raises(UserError, match="line 2: id '7' stands in line 1 already"):
        list(read_questions(write(file, row(id=7), row(id="7"))))
    with pytest.raises(UserError, match="'id' must be a string, not bool"):
        list(read_questions(write(file, row(id=True))))


def test_the_released_evaluation_file_comes_in_as_it_is(file):
    """Rows of {question, document, language, topic?}, no id."""
    ada = "\n Ada Lovelace \nwas a mathematician."
    lines = [
        {"question": "Who was Ada?", "document": ada, "language": "en"},
        {"question": "When was she born?", "document": ada, "language": "en"},
        {"question": "她是谁？", "document": "艾达是数学家。" * 50, "language": "zh"},
        {"question": "Who was Bo?", "document": "Bo.", "language": "en", "topic": "Bo Diddley"},
        {"question": "Who was Cy?", "document": "", "language": "en", "topic": None},
    ]
    rows = [row for _, row in read_questions(write(file, *lines))]
    assert [r["topic"] for r in rows] == [
        "Ada Lovelace",
        "Ada Lovelace",
        ("艾达是数学家。" * 50)[:100],
        "Bo Diddley",
        "Who was Cy?",
    ]
    assert [r["document"] for r in rows] == [line["document"] for line in lines]
    assert len({r["id"] for r in rows}) == 5


def make_store(tmp_path, name, *rows, part="train", **data):
    path = write(tmp_path / f"{name}.jsonl", *rows)
    store = StageStore(Folder(tmp_path / name), name, "k", {}, QUESTION_SCHEMA)
    import_questions(str(path), DataConfig(**data), store, 8, {}, part)
    return store


def test_import_counts_every_row(tmp_path):
    rows = [row(id=f"q{n}", question="" if n == 3 else "Who?") for n in range(20)]
    store = make_store(tmp_path, "questions", *rows)
    assert store.manifest()["counts"] == {"in": 20, "out": 19, "rejected": {"empty_question": 1}}
    assert [len(block.ids) for block in store.blocks(set())] == [8, 8, 3]


def test_a_topic_or_question_in_both_files_is_refused():
    train = [row()]
    check_disjoint(train, [row(topic="Bo", question="Who is Bo?")])
    with pytest.raises(UserError, match="share a topic with data.train, first ' ada'"):
        check_disjoint(train, [row(topic=" ada", question="Other?")])
    with pytest.raises(UserError, match="share a topic with data.train"):
        check_disjoint(train, [row(topic="Ａda\u00a0", question="Else?")])
    with pytest.raises(UserError, match="share a question"):
        check_disjoint(train, [row(topic="Bo")])


def test_a_split_takes_whole_topics_and_every_row_once(tmp_path):
    rows = [
        row(id=f"q{n}", topic=f"T{n % 40}", question="" if n in (3, 13) else f"Who {n}?")
        for n in range(120)
    ]
    parts = {
        part: make_store(tmp_path, part, *rows, part=part, split={"test": 0.25})
        for part in ("train", "test")
    }
    check_disjoint(parts["train"].rows(), parts["test"].rows(), split=True)
    topics = {part: {r["topic"] for r in store.rows()} for part, store in parts.items()}
    assert topics["train"] and topics["test"]
    assert topics["train"] | topics["test"] == {f"T{n}" for n in range(40)}
    counts = [store.manifest()["counts"] for store in parts.values()]
    assert sum(each["in"] for each in counts) == 120
    assert sum(each["rejected"].get("empty_question", 0) for each in counts) == 2
    more = [*rows, *(row(id=f"r{n}", topic=f"U{n}", question=f"More {n}?") for n in range(50))]
    grown = make_store(tmp_path, "grown", *more, part="test", split={"test": 0.25})
    assert {r["topic"] for r in grown.rows() if r["topic"] in topics["train"]} == set()


def test_a_split_whose_parts_share_a_question_is_refused(tmp_path):
    rows = [row(id=f"q{n}", topic=f"T{n}", question="Who is it?") for n in range(40)]
    parts = [
        make_store(tmp_path, part, *rows, part=part, split={"test": 0.25})
        for part in ("train", "test")
    ]
    with pytest.raises(UserError, match="data.split: .* share a question with training rows of an"):
        check_disjoint(*(part.rows() for part in parts), split=True)


def test_a_split_that_leaves_a_part_empty_is_refused(tmp_path):
    with pytest.raises(UserError, match="none of the topics of .* falls to test with a test share"):
        make_store(tmp_path, "one", row(), part="test", split={"test": 0.001})


def test_pairs_of_the_public_format_come_in_labelled(tmp_path):
    item = {"sents": ["Ada wrote.", "She sang."], "type": ["no_hallucination", "hallucination"]}
    line = {
        "prompt": [{"role": "user", "content": "Who is Ada?"}],
        "chosen": [{"role": "assistant", "content": "Ada wrote. She sang."}],
        "chosen_item": item,
        "rejected": [{"role": "assistant", "content": "She sang."}],
        "rejected_item": {"sents": ["She sang."], "type": ["hallucination"]},
    }
    path = write(tmp_path / "p.jsonl", line, line)
    store = StageStore(Folder(tmp_path / "s"), "questions-train", "k", {}, QUESTION_SCHEMA)
    import_questions(str(path), DataConfig(format="pairs"), store, 8, {})
    rows = list(store.rows())
    assert len(rows) == 2
    verdicts = [s["verdict"] for s in rows[0]["candidates"][0]["sentences"]]
    assert verdicts == ["ok", "unverifiable"]
    with pytest.raises(UserError, match="no pair file at"):
        import_questions(
            f"{tmp_path}/none", DataConfig(format="pairs"),
            StageStore(Folder(tmp_path / "t"), "q", "k", {}, QUESTION_SCHEMA), 8, {},
        )  # fmt: skip
