"""Disputed sentences out, labels back in: pure, without a run."""

import json

import pytest

from maskdpo_ray.cli import main
from maskdpo_ray.errors import UserError
from maskdpo_ray.questions import read_questions
from maskdpo_ray.review.anah import verdict_of
from maskdpo_ray.review.answers import render_answers
from maskdpo_ray.review.command import with_labels_of_before
from maskdpo_ray.review.disputed import disputed
from maskdpo_ray.review.label_studio import INTERFACE, tasks
from maskdpo_ray.review.labels import as_questions, digest, read_labels, verdict_of_each
from maskdpo_ray.storage import Folder

ANSWER = "Ada was born. Ada died. Ada was born. So."


def examined(*said: tuple[str, float | None]) -> dict:
    """One question with one answer of four sentences, of which the third repeats the first."""
    spans = [(0, 14), (14, 24), (24, 38), (38, 41)]
    said = (said[0], said[1], said[0], said[2])
    sentences = [
        {"start": start, "end": end, "verdict": verdict, "confidence": sure, "detail": "..."}
        for (start, end), (verdict, sure) in zip(spans, said, strict=True)
    ]
    return {
        "id": "q1", "topic": "Ada", "question": "Who?", "document": "Ada lived.", "language": "en",
        "candidates": [{"response": ANSWER, "sentences": sentences}],
    }  # fmt: skip


OURS = examined(("ok", 0.99), ("ok", 0.6), ("nofact", None))
THEIRS = examined(("unverifiable", None), ("ok", None), ("error", None))


def test_what_is_in_dispute_and_in_which_order():
    found = sorted(disputed({"a": OURS, "b": THEIRS}, "base", 0.2), reverse=True)
    assert [each.row["sentence"] for each in found] == ["Ada was born.", "So.", "Ada died."]
    assert [each.row["why"] for each in found] == [
        ["correct for a, incorrect for b"],
        ["b failed"],
        ["a is 60% confident"],
    ]
    first = found[0].row
    assert first["response"][first["start"] : first["end"]].strip() == first["sentence"]
    assert first["verdicts"]["b"]["verdict"] == "unverifiable" and first["label"] is None
    assert first["document"] == "Ada lived." and first["system"] == "base"


def test_who_of_several_decided_stands_beside_the_verdict():
    ours = examined(("ok", 0.5), ("ok", 1), ("ok", 1))
    ours["candidates"][0]["sentences"][0]["detail"] = '{"decided_by": "judge", "said": []}'
    [found] = disputed({"a": ours, "b": examined(("ok", 1), ("ok", 1), ("ok", 1))}, "base", 0.2)
    assert found.row["verdicts"]["a"]["decided_by"] == "judge"
    assert "decided_by" not in found.row["verdicts"]["b"]


def test_one_sure_examiner_disputes_nothing():
    sure = examined(("ok", 0.9), ("contradictory", 0.81), ("nofact", None))
    assert list(disputed({"a": sure}, "base", 0.2)) == []
    assert len(list(disputed({"a": sure}, "base", 0.15))) == 1


def test_an_examiner_that_cut_the_answer_otherwise_is_not_compared():
    other = examined(("unverifiable", None), ("ok", None), ("ok", None))
    other["candidates"][0]["sentences"][0]["end"] = 10
    [row] = [each.row for each in disputed({"a": OURS, "b": other}, "base", 0.2)]
    assert row["sentence"] == "Ada died."


def test_every_answer_can_be_read_with_its_verdicts_and_what_is_behind_them():
    ours = examined(("ok", None), ("contradictory", None), ("nofact", None))
    ours["candidates"][0] |= {"decoding": "greedy"}
    ours["candidates"][0]["sentences"][1]["detail"] = "she lives & <writes>"
    page = "".join(render_answers("base", [{"annotator": ours, "judge": THEIRS}]))
    assert "<h1>Answers of base</h1>" in page and "Ada: Who?" in page and "Ada lived." in page
    assert "<h3>greedy</h3>" in page
    read = page.split("Ada died.")[1]
    assert '<b class="contradictory">contradictory</b>' in read.split("</li>")[0]
    assert "she lives &amp; &lt;writes&gt;" in read.split("</li>")[0]
    assert "judge says ok: ..." in read.split("</li>")[0]


@pytest.fixture
def rows() -> list[dict]:
    return [each.row for each in disputed({"a": OURS, "b": THEIRS}, "base", 0.2)]


def written(path, rows) -> str:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_labels_come_back_from_a_review_file(rows, tmp_path):
    rows[0]["label"], rows[1]["label"] = "contradictory", "ok"
    labels, without = read_labels(written(tmp_path / "review.jsonl", rows))
    assert verdict_of_each(labels) == {
        ("q1", "Ada was born."): "contradictory",
        ("q1", "Ada died."): "ok",
    }
    assert without == {"not labelled": 1}


def exported(task: dict, *choices: str, cancelled: bool = False) -> dict:
    """A task as Label Studio 1.x exports it."""
    return {
        "id": 1, "project": 3, "predictions": [], **task,
        "annotations": [
            {
                "id": number, "completed_by": number, "was_cancelled": cancelled,
                "result": [
                    {
                        "from_name": "label", "to_name": "sentence", "type": "choices",
                        "value": {"choices": [choice]},
                    }
                ],
            }
            for number, choice in enumerate(choices)
        ],
    }  # fmt: skip


def test_labels_come_back_from_label_studio(rows, tmp_path):
    one, two, three = tasks(rows)
    assert one["data"]["dispute"] == "correct for a, incorrect for b"
    done = [exported(one, "ok", "ok"), exported(two, "ok", "nofact"), exported(three)]
    labels, without = read_labels(written(tmp_path / "export.json", done))
    assert verdict_of_each(labels) == {("q1", "Ada was born."): "ok"}
    assert without == {"labelled differently": 1, "not labelled": 1}
    skipped = exported(one, "ok", cancelled=True)
    assert read_labels(written(tmp_path / "skipped.json", [skipped]))[0] == []
    least = [{**one["data"], "label": "nofact", "annotator": 1, "lead_time": 2.5}]
    [label], _ = read_labels(written(tmp_path / "min.json", least))
    assert label.verdict == "nofact"
    for name in ("label", "ok", "nofact", "contradictory", "unverifiable"):
        assert f'"{name}"' in INTERFACE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": 0.0}, "line 1: 'start' must be int, not float"),
        ({"start": False}, "line 1: 'start' must be int, not bool"),
        ({"response": 5}, "line 1: 'response' must be str, not int"),
        ({"question_id": None}, "line 1: 'question_id' must be str, not NoneType"),
        ({"start": -1}, "no sentence of .* characters of response stands at -1:"),
        ({"end": 999}, "no sentence of .* characters of response stands at 0:999"),
        ({"start": 9, "end": 9}, "stands at 9:9: leave start, end and response as"),
    ],
)
def test_a_row_that_names_no_sentence_is_told(rows, tmp_path, changes, words):
    row = {**rows[0], "label": "ok", **changes}
    with pytest.raises(UserError, match=words):
        read_labels(written(tmp_path / "review.jsonl", [row]))


def test_a_label_may_be_written_in_capitals_and_an_odd_export_has_none(rows, tmp_path):
    [label], _ = read_labels(written(tmp_path / "a.jsonl", [{**rows[0], "label": " OK "}]))
    assert label.verdict == "ok"
    [task, *_] = tasks(rows)
    for annotations in (["x"], [{"result": None}], [{"result": [{"from_name": "label"}]}],
                        [{"result": [{"from_name": "label", "value": None}]}]):  # fmt: skip
        labels, without = read_labels(
            written(tmp_path / "b.json", [{**task, "annotations": annotations}])
        )
        assert labels == [] and without == {"not labelled": 1}


def test_labelled_answers_are_questions_for_judge_check(rows, tmp_path):
    for row, label in zip(rows, ("contradictory", "ok", "nofact"), strict=True):
        row["label"] = label
    file, out = written(tmp_path / "review.jsonl", rows), tmp_path / "labelled.jsonl"
    assert main(["import-labels", str(out), file]) == 0
    [(_, row)] = read_questions(out)
    assert (row["id"], row["topic"], row["document"]) == ("q1", "Ada", "Ada lived.")
    [candidate] = row["candidates"]
    assert candidate["response"] == ANSWER
    found = [(s["start"], s["verdict"]) for s in candidate["sentences"]]
    assert found == [(0, "contradictory"), (14, "ok"), (38, "nofact")]


def test_two_labels_of_one_sentence_are_refused_and_order_is_no_difference(rows, tmp_path):
    rows[0]["label"] = "ok"
    again = {**rows[0], "label": "nofact"}
    labels, _ = read_labels(written(tmp_path / "both.jsonl", [rows[0], again]))
    with pytest.raises(UserError, match="'Ada was born.' is labelled 'ok' and 'nofact'"):
        verdict_of_each(labels)
    rows[1]["label"] = "ok"
    one, other = (
        read_labels(written(tmp_path / "c.jsonl", order))[0] for order in (rows, rows[::-1])
    )
    assert digest(verdict_of_each(one)) == digest(verdict_of_each(other))


def test_a_review_that_is_written_again_keeps_what_people_wrote_into_it(rows, tmp_path):
    folder = Folder(tmp_path)
    assert with_labels_of_before(rows, folder) == (rows, 0)
    folder.write_jsonl("review.jsonl", rows)
    assert with_labels_of_before(rows, folder) == (rows, 0)
    labelled = [{**rows[0], "label": "ok"}, {**rows[1], "label": "nofact"}, rows[2]]
    folder.write_jsonl("review.jsonl", labelled)
    again, kept = with_labels_of_before(rows[1:], folder)
    assert [(row["id"], row["label"]) for row in again] == [
        (rows[1]["id"], "nofact"), (rows[2]["id"], None), (rows[0]["id"], "ok")
    ]  # fmt: skip
    assert kept == 2
    folder.write("review.jsonl", b"{")
    with pytest.raises(UserError, match="review.jsonl line 1 is not JSON"):
        with_labels_of_before(rows, folder)


def test_the_file_of_labels_is_not_written_over(rows, tmp_path, capsys):
    file = written(tmp_path / "r.jsonl", [{**rows[0], "label": "ok"}])
    assert main(["import-labels", file, file]) == 2
    assert "is one of the files of labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "?"}, "line 1 has no 'question_id'"),
        ({"label": "true"}, "line 1 is labelled 'true'; a label is one of ok"),
        ({"label": "error"}, "line 1 is labelled 'error'"),
    ],
)
def test_what_is_no_label_is_named(rows, row, words, tmp_path, capsys):
    given = {**rows[0], **row} if "label" in row else row
    file = written(tmp_path / "r.jsonl", [given])
    assert main(["import-labels", str(tmp_path / "out.jsonl"), file]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("annotation", "verdict"),
    [
        ("<Reference> She was a baker. <Hallucination> None", "ok"),
        ("<Hallucination> Contradictory\n<Reference> x\n<Correction> y", "contradictory"),
        ("<Hallucination>Unverifiable. ", "unverifiable"),
        ("<No Fact>", "nofact"),
        ("<幻觉>无法验证", "unverifiable"),
        ("<参考>x<幻觉>矛盾<改正>y", "contradictory"),
        ("<幻觉>无", "ok"),
        ("<无事实>", "nofact"),
        ("<Hallucination> Perhaps", None),
        ("<Hallucination> None <Hallucination> Contradictory", None),
        ("", None),
    ],
)
def test_public_anah_annotations_are_read(annotation, verdict):
    assert verdict_of(annotation) == verdict


def test_a_topic_of_the_public_anah_data_set(tmp_path):
    topic = {
        "name": "Ada", "documents": ["Ada was a baker.", "She died in 1900."],
        "selected_questions": ["Who?", "When?"],
        "GPT3.5_answers_D": ["Ada baked. She sang.", "In 1900."],
        "human_GPT3.5_answers_D_ann": [
            ["<Hallucination> None", "<Hallucination> Unverifiable"],
            ["<Hallucination> None", "<No Fact>"],
        ],
    }  # fmt: skip
    labels, without = read_labels(written(tmp_path / "anah.jsonl", [topic]))
    assert without == {"an answer with more or fewer sentences than annotations": 1}
    [question] = as_questions(labels)
    assert question["question"] == "Who?" and question["document"].endswith("1900.")
    [candidate] = question["candidates"]
    assert [s["label"] for s in candidate["sentences"]] == ["ok", "unverifiable"]
    assert candidate["model"] == "GPT3.5_answers_D"
