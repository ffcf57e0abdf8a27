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
    with pytest.raises(UserError, match=f"line 2: id '{first[0]}' stands in line 1 already"):
        list(read_questions(write(file, lines[0], lines[0])))


def make_store(tmp_path, name, *rows):
    path = write(tmp_path / f"{name}.jsonl", *rows)
    store = StageStore(Folder(tmp_path / name), name, "k", {}, QUESTION_SCHEMA)
    import_questions(str(path), DataConfig(), store, 8, {})
    return store


def test_import_counts_every_row(tmp_path):
    rows = [row(id=f"q{n}", question="" if n == 3 else "Who?") for n in range(20)]
    store = make_store(tmp_path, "questions", *rows)
    assert store.manifest()["counts"] == {"in": 20, "out": 19, "rejected": {"empty_question": 1}}
    assert [len(block.ids) for block in store.blocks(set())] == [8, 8, 3]


def test_a_topic_or_question_in_both_files_is_refused(tmp_path):
    train = make_store(tmp_path, "train", row())
    check_disjoint(train, make_store(tmp_path, "fine", row(topic="Bo", question="Who is Bo?")))
    with pytest.raises(UserError, match="share a topic with data.train, first ' ada'"):
        check_disjoint(train, make_store(tmp_path, "t", row(topic=" ada", question="Other?")))
    with pytest.raises(UserError, match="share a question"):
        check_disjoint(train, make_store(tmp_path, "u", row(topic="Bo")))


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
