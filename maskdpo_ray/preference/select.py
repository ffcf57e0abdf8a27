"""Which candidates of a question make preference pairs (docs/method.md, section 1)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.ranking import Key, Ranking
from maskdpo_ray.preference.repetition import repetition
from maskdpo_ray.records import (
    ERROR_VERDICT,
    SKIPPED_VERDICT,
    Candidate,
    Question,
    Sentence,
    is_correct,
)
from maskdpo_ray.sampling.counts import is_unfinished


class NoPair(RowRejected):
    """This question gives no preference pair, or not this one. It is counted under the reason."""


class PrunedTooFar(ValueError):
    """A candidate that was left half-annotated could still be best or worst. A fault of the
    pruning, not of the input."""


class Selected(NamedTuple):
    """A pair as positions in the list of candidates."""

    best: int
    worst: int
    gap: Fraction  # between their scores, above zero


def score(sentences: list[Sentence]) -> float:
    """(sentences - hallucinated) / sentences (paper, section 2.2).

    Equal fractions are equal floats, so scores may be compared with ``==``.

    Raises:
        ValueError: no sentence, or a verdict that is ``error`` or unknown.
    """
    if not sentences:
        raise ValueError("a response without sentences has no score")
    correct = sum(is_correct(sentence["verdict"]) for sentence in sentences)
    return correct / len(sentences)


def is_usable(candidate: Candidate) -> bool:
    """Whether a candidate has tokens, and a verdict on every sentence."""
    verdicts = _verdicts(candidate)
    answers = bool(candidate["token_ids"] and verdicts)
    return answers and not {ERROR_VERDICT, SKIPPED_VERDICT} & set(verdicts)


def takes_part(candidate: Candidate, settings: PreferenceConfig) -> bool:
    """Whether a candidate can be chosen or rejected, as far as is known before annotation."""
    return _lacks(candidate, settings) is None


def _lacks(candidate: Candidate, settings: PreferenceConfig) -> str | None:
    most = settings.max_repetition
    if is_unfinished(candidate):
        return "unfinished_reasoning"
    if not candidate["token_ids"] or not candidate["sentences"]:
        return "no_answer"
    return "repetitive" if most is not None and repetition(candidate) > most else None


def ranking_of(candidates: Sequence[Candidate], settings: PreferenceConfig) -> Ranking:
    """How these candidates are compared; their sentences may lack verdicts yet."""
    sizes = [len(each["sentences"]) for each in candidates if takes_part(each, settings)]
    return Ranking(settings, sizes)


def why_left_out(candidate: Candidate, settings: PreferenceConfig) -> str | None:
    """Why a candidate can be neither chosen nor rejected; None for the others.

    ``unfinished_reasoning``: it never came to an answer; ``no_answer``: no tokens or no sentences;
    ``repetitive``: it says too much again and again; ``error``: the annotator failed on a sentence;
    ``no_checkable_sentence``: none counts as correct or incorrect. A candidate that pruning left
    half-annotated is not known to be left out.
    """
    if reason := _lacks(candidate, settings):
        return reason
    verdicts = _verdicts(candidate)
    if ERROR_VERDICT in verdicts:
        return "error"
    return None if sum(Ranking(settings).tally(verdicts)) else "no_checkable_sentence"


def count_left_out(rows: Iterable[Question], settings: PreferenceConfig) -> dict[str, int]:
    """Candidates of annotated questions that no pair could be made of, by reason."""
    reasons = (why_left_out(each, settings) for row in rows for each in row["candidates"])
    return dict(sorted(Counter(filter(None, reasons)).items()))


def _verdicts(candidate: Candidate) -> list[str]:
    return [sentence["verdict"] for sentence in candidate["sentences"]]


def select_pairs(
    candidates: Sequence[Candidate], settings: PreferenceConfig | None = None
) -> list[Selected]:
    """The pairs of a question, ``pairs_per_question`` at most (docs/method.md, section 1).

    The first is the best candidate that has a correct sentence and the worst that has an incorrect
    one; with a ``length_window``, of the pairs within it the one with the widest gap. Ties go to
    more correct sentences in the best, more incorrect ones in the worst, then to the first. Further
    pairs are found likewise among the answers that read like none of those taken.

    Raises:
        NoPair: ``too_few_candidates``, fewer than two take part; ``identical_text``;
            ``equal_scores``; ``no_correct_sentence`` or ``no_incorrect_sentence`` in the best or
            worst, with no other pair to take; ``no_pair_in_window``.
        PrunedTooFar: sentences that were skipped could change the answer.
        ValueError: an unknown verdict.
    """
    field = _Field(candidates, settings or PreferenceConfig())
    field.check_pruning()
    field.check_differences()
    pairs: list[Selected] = []
    while len(pairs) < field.settings.pairs_per_question and (pair := field.widest()):
        if candidates[pair.best]["response"] == candidates[pair.worst]["response"]:
            break
        pairs.append(pair)
        field.remove(pair)
    if not pairs:
        raise field.why_none()
    return pairs


class _Field:
    """The candidates of one question that are not taken yet."""

    def __init__(self, candidates: Sequence[Candidate], settings: PreferenceConfig) -> None:
        self.candidates, self.settings = candidates, settings
        self.ranking = ranking_of(candidates, settings)
        self.left_out = [why_left_out(candidate, settings) for candidate in candidates]
        tallies = {
            n: self.ranking.tally(_verdicts(candidate))
            for n, candidate in enumerate(candidates)
            if self.left_out[n] is None
        }
        self.open = {n: counts for n, counts in tallies.items() if counts.skipped}
        self.usable = {n: counts for n, counts in tallies.items() if not counts.skipped}
        self.scores = {
            n: self.ranking.score(c.correct, c.incorrect) for n, c in self.usable.items()
        }
        # Best first, worst first: who has nothing to learn from is neither.
        best, worst = self._as_best, self._as_worst
        self.best = sorted((n for n, c in self.usable.items() if c.correct), key=best, reverse=True)
        self.worst = sorted((n for n, c in self.usable.items() if c.incorrect), key=worst)

    def _as_best(self, n: int) -> Key:
        return self.ranking.as_best(self.usable[n], n)

    def _as_worst(self, n: int) -> Key:
        return self.ranking.as_worst(self.usable[n], n)

    def check_pruning(self) -> None:
        """Raise ``PrunedTooFar`` where a half-annotated candidate could stand in a pair."""
        wanted = self.settings.pairs_per_question
        tops, bottoms = (self._of_other_texts(group, wanted) for group in (self.best, self.worst))
        for n, counts in self.open.items():
            if (
                len(tops) < wanted
                or len(bottoms) < wanted
                or self.ranking.as_best(counts, n) > self._as_best(tops[-1])
                or self.ranking.as_worst(counts, n) < self._as_worst(bottoms[-1])
            ):
                raise PrunedTooFar(
                    f"candidate {n} of {len(self.candidates)} has {counts.skipped} skipped "
                    "sentences and could still stand in a pair: annotate with "
                    "annotation.prune=false"
                )

    def _of_other_texts(self, group: list[int], count: int) -> list[int]:
        """The first so many, each with a text of its own."""
        first: dict[str, int] = {}
        for n in group:
            first.setdefault(self.candidates[n]["response"], n)
        return list(first.values())[:count]

    def check_differences(self) -> None:
        """Raise ``NoPair`` where there are not two candidates that differ."""
        if len(self.usable) < 2:
            counted = Counter(reason for reason in self.left_out if reason)
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(counted.items()))
            raise NoPair(
                "too_few_candidates",
                f"{len(self.usable)} of {len(self.candidates)} candidates can take part, a pair "
                f"needs 2; left out: {told or 'none'}: see the details of their `error` verdicts, "
                "or sample more",
            )
        if len({self.candidates[n]["response"] for n in self.usable}) == 1:
            raise NoPair("identical_text", f"all {len(self.usable)} candidates read the same")
        if len(set(self.scores.values())) == 1:
            one = float(next(iter(self.scores.values())))
            told = f"all {len(self.usable)} candidates score {one:.4f}"
            raise NoPair("equal_scores", told + self._nothing_is_incorrect())

    def widest(self) -> Selected | None:
        """The pair to take next; None where nothing is better than anything else."""
        # Without a window the best and the worst of all make the widest gap.
        reach = None if self.settings.length_window else 1
        pairs = (
            Selected(best, worst, self.scores[best] - self.scores[worst])
            for best in self.best[:reach]
            for worst in self.worst[:reach]
            if self._in_window(best, worst)
        )
        widest = max(pairs, key=self._width, default=None)
        return widest if widest and widest.gap > 0 else None

    def _width(self, pair: Selected) -> tuple:
        best, worst = self.usable[pair.best], self.usable[pair.worst]
        return pair.gap, best.correct, worst.incorrect, -pair.best, -pair.worst

    def _in_window(self, *pair: int) -> bool:
        window = self.settings.length_window
        if window is None:
            return True
        unit = "token_ids" if window.by == "tokens" else "sentences"
        short, long = sorted(len(self.candidates[n][unit]) for n in pair)
        return long <= Fraction(str(window.ratio)) * short

    def remove(self, pair: Selected) -> None:
        """Take out the answers of a pair, and all that read like either."""
        taken = {self.candidates[n]["response"] for n in (pair.best, pair.worst)}
        for group in (self.best, self.worst):
            group[:] = [n for n in group if self.candidates[n]["response"] not in taken]

    def why_none(self) -> NoPair:
        """Of candidates with different scores, of which no pair was taken."""
        if not self.best or not self.worst or not self._gap_of_all() > 0:
            # The best of all has nothing correct or the worst of all nothing incorrect, which the
            # paper asks for, and no other is better or worse than what is there.
            best = max(self.usable, key=self._as_best)
            if not self.usable[best].correct:
                return NoPair("no_correct_sentence", "the best candidate has no correct sentence")
            told = "the worst candidate has no incorrect sentence"
            return NoPair("no_incorrect_sentence", told + self._nothing_is_incorrect())
        pair = self.widest()
        if pair is None:
            return NoPair(
                "no_pair_in_window",
                f"no candidate is better than one of about its length among {len(self.usable)}: "
                "widen preference.length_window, or sample more",
            )
        count = len(self.usable)
        return NoPair("identical_text", f"best and worst of {count} candidates read the same")

    def _nothing_is_incorrect(self) -> str:
        """Where a setting takes the only kind of incorrect sentence away, as of an annotator that
        has one word for whatever is wrong."""
        meaning = self.settings.unverifiable
        if meaning == "incorrect" or any(counts.incorrect for counts in self.usable.values()):
            return ""
        return (
            f"; under preference.unverifiable={meaning} only contradictory sentences are incorrect "
            "and there is none: where the annotator never says so, set "
            "preference.unverifiable=incorrect"
        )

    def _gap_of_all(self) -> Fraction:
        return self.scores[self.best[0]] - self.scores[self.worst[0]]
