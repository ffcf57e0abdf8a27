"""Labels of people in the place of verdicts."""

from maskdpo_ray.preference.overrides import LABELLED, overridden

ANSWER = "She was born. She died."
SENTENCES = [
    {"start": 0, "end": 14, "verdict": "ok", "detail": "by a judge", "confidence": 0.6},
    {"start": 14, "end": 23, "verdict": "error", "detail": "no reply", "confidence": None},
]
ROW = {"id": "q", "candidates": [{"response": ANSWER, "sentences": SENTENCES}]}


def test_a_labelled_sentence_has_its_label():
    out = overridden(ROW, {("q", "She died."): "contradictory", ("other", "She was born."): "ok"})
    first, second = out["candidates"][0]["sentences"]
    assert first == SENTENCES[0]
    told = {"verdict": "contradictory", "detail": LABELLED, "confidence": 1.0}
    assert second == {"start": 14, "end": 23, **told}
    assert ROW["candidates"][0]["sentences"] == SENTENCES, "the annotated row stays what it was"


def test_a_question_without_labels_is_the_same_row():
    assert overridden(ROW, {("other", "She died."): "ok"}) is ROW
    assert overridden(ROW, {}) is ROW
