"""An annotator that errs at a set rate, and knows how sure it may be."""

import asyncio

import pytest

from maskdpo_ray.annotation.annotator import Verdict
from maskdpo_ray.annotation.erring import Erring

SENTENCES = 20_000
QUESTION = {"id": "q"}


class Says:
    def __init__(self, *verdicts):
        self.verdicts = verdicts

    async def verdict(self, question, sentence):
        verdict = self.verdicts[int(sentence) % len(self.verdicts)]
        return Verdict(verdict, "known")


def judged(annotator, question=QUESTION, count=SENTENCES):
    async def all_of_them():
        return [await annotator.verdict(question, str(n)) for n in range(count)]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4])
def test_it_errs_at_its_rate_and_is_as_often_right_as_it_is_confident(rate):
    said = judged(Erring(Says("ok", "unverifiable"), rate))
    right = [s.verdict == ("ok", "unverifiable")[n % 2] for n, s in enumerate(said)]
    assert 1 - sum(right) / SENTENCES == pytest.approx(rate, abs=0.012)
    assert all(0.5 <= s.confidence <= 1 for s in said)
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        both = zip(right, (s.confidence for s in said), strict=True)
        of_bin = [(r, c) for r, c in both if low <= c < low + 0.1]
        if len(of_bin) > 500:
            share = sum(r for r, _ in of_bin) / len(of_bin)
            sure = sum(c for _, c in of_bin) / len(of_bin)
            assert share == pytest.approx(sure, abs=0.05)


def test_a_turned_verdict_is_the_opposite_and_tells_what_it_was():
    said = judged(Erring(Says("ok", "nofact", "contradictory", "unverifiable"), 0.3), count=400)
    for n, (verdict, detail, _) in enumerate(said):
        was = ("ok", "nofact", "contradictory", "unverifiable")[n % 4]
        if detail == "known":
            assert verdict == was
        else:
            assert detail == f"turned: {was}, known"
            assert verdict == ("contradictory" if n % 4 < 2 else "ok")


def test_the_same_sentence_errs_the_same_way_and_another_question_another_way():
    erring = Erring(Says("ok"), 0.3)
    first = judged(erring, count=200)
    assert judged(erring, count=200) == first
    assert judged(erring, {"id": "r"}, count=200) != first


def test_a_failure_stays_a_failure():
    assert set(judged(Erring(Says("error"), 0.4), count=100)) == {Verdict("error", "known")}
