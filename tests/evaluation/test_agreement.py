"""Agreement of an annotator with labels, on tables worked out by hand and on real labels."""

import asyncio
import random

import pytest

from maskdpo_ray.annotation.annotate import AnnotateLabelled
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.evaluation.agreement import agreement
from maskdpo_ray.questions import read_questions


def question(topic: str, *verdicts: str) -> dict:
    sentences = [
        {"start": 10 * n, "end": 10 * n + 9, "verdict": verdict, "detail": ""}
        for n, verdict in enumerate(verdicts)
    ]
    return {"id": topic, "topic": topic, "candidates": [{"sentences": sentences}]}


def compare(examined: list[str], believed: list[str], **options) -> dict:
    pairs = [(question("t", *examined), question("t", *believed))]
    return agreement(pairs, **options)


def test_a_table_by_hand():
    """20 both, 5 false alarms, 10 missed, 15 neither: the textbook example of kappa = 0.4."""
    examined = ["contradictory"] * 25 + ["ok"] * 25
    believed = ["unverifiable"] * 20 + ["nofact"] * 5 + ["contradictory"] * 10 + ["ok"] * 15
    found = compare(examined, believed)
    assert found["precision"][0] == pytest.approx(20 / 25)
    assert found["recall"][0] == pytest.approx(20 / 30)
    assert found["f1"][0] == pytest.approx(40 / 55)
    assert found["accuracy"][0] == pytest.approx(0.7)
    assert found["kappa"][0] == pytest.approx(0.4)
    assert (found["hallucinated_examined"], found["hallucinated_believed"]) == (25, 30)
    assert found["sentences"] == 50
    assert found["verdicts"] == {
        "ok": {"ok": 15, "contradictory": 10},
        "contradictory": {"nofact": 5, "unverifiable": 20},
    }


def test_sentences_without_two_verdicts_are_counted_and_left_out():
    found = compare(["error", "ok", "ok", "skipped"], ["ok", "error", "unverifiable", "error"])
    assert (found["sentences"], found["errors_examined"], found["errors_believed"]) == (1, 2, 2)
    with pytest.raises(UserError, match="no sentence of 1 questions has two verdicts"):
        compare(["error"], ["ok"])


def test_what_is_undefined_is_none():
    found = compare(["ok"], ["ok"])
    assert found["precision"] is found["recall"] is found["f1"] is found["kappa"] is None
    assert found["accuracy"] == [1.0, None, None], "one topic tells nothing about others"


def test_intervals_are_over_topics():
    agree = [(question(f"a{n}", "ok", "unverifiable"),) * 2 for n in range(10)]
    differ = [
        (question(f"d{n}", "ok", "unverifiable"), question(f"d{n}", "unverifiable", "ok"))
        for n in range(10)
    ]
    value, low, high = agreement(agree + differ)["accuracy"]
    assert value == 0.5 and 0.2 < low < 0.35 and 0.65 < high < 0.8
    assert agreement(agree + differ) == agreement(agree + differ)
    alike = agreement(agree)
    assert alike["kappa"] == [1.0, None, None]
    lowest = pytest.approx(10 / (10 + 1.96**2), abs=1e-4)  # Wilson's, of ten of ten
    assert alike["accuracy"] == alike["recall"] == [1.0, lowest, 1.0]
    # Hallucinations stand in one topic: what is told of them is told of it alone.
    one = [(question(f"r{n}", "ok"),) * 2 for n in range(9)] + agree[:1]
    assert agreement(one)["recall"] == [1.0, None, None]
    assert agreement(one)["accuracy"][1] < 1


def test_other_sentences_are_refused():
    with pytest.raises(ValueError, match="not the same"):
        other = question("t", "ok")
        other["candidates"][0]["sentences"][0]["end"] = 3
        agreement([(question("t", "ok"), other)])


class OftenRight:
    """Answers as the label does, but for a share of the sentences."""

    def __init__(self, labels: dict[str, str], wrong: float) -> None:
        self.labels, self.wrong, self.changed = labels, wrong, 0
        self.random = random.Random(0)

    async def verdict(self, question, sentence):
        label = self.labels[question["id"], sentence]
        if self.random.random() >= self.wrong:
            return label, ""
        self.changed += 1
        return ("ok" if label in ("contradictory", "unverifiable") else "contradictory"), ""


@pytest.mark.parametrize(("name", "sentences"), [("factscore_bio", 3_989), ("tofueval", 4_946)])
def test_an_annotator_that_errs_at_a_known_rate_on_human_labels(real_data, name, sentences):
    rows = [row for _, row in read_questions(real_data / f"{name}.jsonl")]
    labels = {
        (row["id"], c["response"][s["start"] : s["end"]].strip()): s["verdict"]
        for row in rows
        for c in row["candidates"]
        for s in c["sentences"]
    }
    judge = OftenRight(labels, wrong=0.1)
    judged = asyncio.run(AnnotateLabelled(judge)(rows))
    found = agreement(zip(judged, rows, strict=True))
    assert found["sentences"] == sentences and judge.changed > 300
    # The same sentence twice in a question, labelled differently, is asked once.
    assert found["accuracy"][0] == pytest.approx(0.9, abs=0.02)
    assert found["accuracy"][1] < 0.9 < found["accuracy"][2]
    right = sum(v for a, of in found["verdicts"].items() for b, v in of.items() if a == b)
    assert right / sentences == pytest.approx(0.9, abs=0.02)


def test_unlabelled_and_mislabelled_questions_leave_the_graph():
    bare = {**question("t"), "language": "en"}
    wrong = {**question("u", "true"), "language": "en"}
    rejected = asyncio.run(AnnotateLabelled(OftenRight({}, 0))([bare, wrong]))
    assert all(isinstance(row, RowRejected) for row in rejected)
    assert [row.reason for row in rejected] == ["labels_missing", "unknown_verdict"]
