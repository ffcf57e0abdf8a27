import asyncio
import json

import pytest

from maskdpo_ray.config import AnnotationConfig, build_config
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.questions import as_input, read_questions
from maskdpo_ray.records import VERDICTS
from maskdpo_ray.stages.annotating import build_annotator

TEXT = " One is. Two is. \n"


def sentence(start: int, end: int, verdict: str = "ok") -> dict:
    return {"start": start, "end": end, "verdict": verdict, "detail": "by hand"}


def row(*groups: list[dict]) -> dict:
    return {"id": "q0", "candidates": [{"response": TEXT, "sentences": group} for group in groups]}


def check(*rows: dict):
    return asyncio.run(build_annotator(AnnotationConfig.of(annotator="labels"))(list(rows)))


@pytest.mark.parametrize("verdict", VERDICTS)
def test_labels_become_sentences_that_tile_the_response(verdict):
    [out] = check(row([sentence(1, 8, verdict), sentence(9, 16)]))
    [candidate] = out["candidates"]
    assert candidate["sentences"] == [sentence(0, 9, verdict), sentence(9, len(TEXT))]


def test_an_unlabelled_candidate_stays_unlabelled():
    [out] = check(row([sentence(1, 8), sentence(9, 16)], []))
    assert [len(c["sentences"]) for c in out["candidates"]] == [2, 0]


@pytest.mark.parametrize("label", ["correct", "", "OK"])
def test_a_word_that_is_no_verdict_rejects_the_row_and_says_where(label):
    wrong = row([sentence(1, 8), sentence(9, 16)], [sentence(1, 8), sentence(9, 16, label)])
    rejected, kept = check(wrong, row([sentence(1, 8), sentence(9, 16)]))
    assert isinstance(rejected, RowRejected) and rejected.reason == "unknown_verdict"
    assert "question 'q0', candidate 1, sentence 1 is labelled" in rejected.detail
    assert kept["id"] == "q0"


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ([sentence(1, 8), sentence(9, 99)], "mask_spans_invalid"),
        ([sentence(1, 9), sentence(8, 16)], "mask_spans_invalid"),
        ([sentence(1, 8)], "mask_text_outside_sentences"),
    ],
)
def test_labels_that_do_not_cover_a_response_take_that_candidate_out(group, reason):
    fine = [sentence(1, 8), sentence(9, 16)]
    [out] = check(row(fine, group, fine))
    first, wrong, last = (candidate["sentences"] for candidate in out["candidates"])
    assert len(first) == len(last) == 2
    [whole] = wrong
    assert (whole["start"], whole["end"], whole["verdict"]) == (0, len(TEXT), "error")
    assert whole["detail"].startswith(reason)


def test_a_row_without_any_label_is_rejected():
    [rejected] = check(row([], []))
    assert isinstance(rejected, RowRejected) and rejected.reason == "labels_missing"


def test_labels_of_people_pass(biographies, tofueval):
    uncovered = 0
    for line in [*biographies, *tofueval]:
        candidates = [
            {
                "response": c["response"],
                "sentences": [sentence(s["start"], s["end"], s["label"]) for s in c["sentences"]],
            }
            for c in line["candidates"]
        ]
        [out] = check({"id": line["id"], "candidates": candidates})
        for given, candidate in zip(candidates, out["candidates"], strict=True):
            labels = [s["verdict"] for s in candidate["sentences"]]
            parts = [candidate["response"][s["start"] : s["end"]] for s in candidate["sentences"]]
            assert not parts or "".join(parts) == candidate["response"]
            if labels == ["error"]:
                uncovered += 1
            else:
                assert labels == [s["verdict"] for s in given["sentences"]]
    assert uncovered == 4  # four biographies have a passage that nobody labelled


def labelled(tmp_path, *confidences):
    cut = [(0, 7), (8, 15)]
    sentences = [
        {"start": start, "end": end, "label": label}
        | ({} if confidence is None else {"confidence": confidence})
        for (start, end), label, confidence in zip(
            cut, ("ok", "contradictory"), confidences, strict=True
        )
    ]
    candidate = {"response": "One is. Two is.", "sentences": sentences}
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "?", "candidates": [candidate]}))
    [(_, read)] = read_questions(str(tmp_path / "q.jsonl"))
    return read


def test_a_label_may_come_with_a_confidence(tmp_path):
    read = labelled(tmp_path, 0.75, None)
    assert as_input(read)["candidates"][0]["sentences"] == [
        {"start": 0, "end": 7, "label": "ok", "confidence": 0.75},
        {"start": 8, "end": 15, "label": "contradictory"},
    ]
    [out] = check(read)
    first, second = out["candidates"][0]["sentences"]
    assert first["confidence"] == 0.75 and second.get("confidence") is None
    for wrong in (1.5, -1, "high", True):
        refused = labelled(tmp_path, wrong, 1)
        assert isinstance(refused, RowRejected) and "a number from 0 to 1" in refused.detail


def test_labels_with_confidence_are_weights_and_pairs_in_the_published_form_have_none():
    given = {
        "run_dir": "x", "model": {"path": "m"}, "data": {"train": "q.jsonl"},
        "sampling": {"source": "input"}, "annotation": {"annotator": "labels"},
        "preference": {"weights": "confidence"},
    }  # fmt: skip
    assert build_config(given).annotation.confident
    with pytest.raises(UserError, match="remove preference.weights"):
        build_config({**given, "data": {"train": "q.jsonl", "format": "pairs"}})
