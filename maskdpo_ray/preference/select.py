"""Best and worst candidate of a question as a preference pair (docs/method.md, section 1)."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.openings import Openings, correct_openings, sentence_keys
from maskdpo_ray.preference.ranking import Tally, as_best, as_worst, tally
from maskdpo_ray.preference.token_spans import MaskError, token_spans
from maskdpo_ray.preference.weights import SideName, owning_sentences, token_weights, truncate
from maskdpo_ray.records import (
    ERROR_VERDICT,
    NO_SENTENCE,
    Candidate,
    Pair,
    Question,
    Sentence,
    Side,
    is_correct,
)


class NoPair(RowRejected):
    """This question gives no preference pair. It is counted under the reason."""


class PrunedTooFar(ValueError):
    """A candidate that was left half-annotated could still be best or worst. A fault of the
    pruning, not of the input."""


class Selection(NamedTuple):
    """Positions in the list of candidates, and how many candidates are known not to be usable.

    A candidate that pruning left half-annotated is not known to be either, and not counted.
    """

    best: int
    worst: int
    left_out: int


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
    """Whether a candidate can take part: it has tokens, and a verdict on every sentence."""
    counts = _tally(candidate)
    return counts is not None and not counts.skipped


def _tally(candidate: Candidate) -> Tally | None:
    """None for a candidate that cannot take part, whatever the verdict on a skipped sentence."""
    verdicts = [sentence["verdict"] for sentence in candidate["sentences"]]
    if not candidate["token_ids"] or not verdicts or ERROR_VERDICT in verdicts:
        return None
    return tally(verdicts)


def select_pair(candidates: list[Candidate]) -> Selection:
    """The best and the worst candidate.

    Among equally best ones the one with most correct sentences, among equally worst ones the one
    with most incorrect sentences, then the first. That the best has a correct sentence and the
    worst an incorrect one, as the paper asks too, follows from their unequal scores.

    Raises:
        NoPair: ``too_few_candidates``, fewer than two are usable; ``identical_text``;
            ``equal_scores``.
        PrunedTooFar: sentences that were skipped could change the answer.
        ValueError: an unknown verdict.
    """
    tallies = {n: counts for n, c in enumerate(candidates) if (counts := _tally(c)) is not None}
    usable = [n for n, counts in tallies.items() if not counts.skipped]
    best = max(usable, key=lambda n: as_best(tallies[n], n), default=None)
    worst = min(usable, key=lambda n: as_worst(tallies[n], n), default=None)
    for n, counts in tallies.items():
        if counts.skipped and (
            best is None
            or as_best(counts, n) > as_best(tallies[best], best)
            or as_worst(counts, n) < as_worst(tallies[worst], worst)
        ):
            raise PrunedTooFar(
                f"candidate {n} of {len(candidates)} has {counts.skipped} skipped sentences and "
                "could still be best or worst: annotate with annotation.prune=false"
            )
    if len(usable) < 2:
        raise NoPair(
            "too_few_candidates",
            f"{len(usable)} of {len(candidates)} candidates are annotated and free of errors, "
            "a pair needs 2: see the details of their `error` verdicts, or sample more",
        )
    texts = {candidates[n]["response"] for n in (usable if best == worst else (best, worst))}
    if len(texts) == 1:
        raise NoPair("identical_text", f"best and worst of {len(usable)} candidates read the same")
    scores = {score(candidates[n]["sentences"]) for n in (best, worst)}
    if len(scores) == 1:
        raise NoPair("equal_scores", f"all {len(usable)} candidates score {scores.pop():.4f}")
    return Selection(best, worst, left_out=len(candidates) - len(tallies))


def build_pair(
    row: Question, tokenizer: Any, prompt_ids: list[int], settings: PreferenceConfig
) -> Pair:
    """The preference pair of an annotated question, with token weights.

    Prompt and response together keep ``settings.max_length`` tokens; the response's tail is cut.

    Raises:
        NoPair: as ``select_pair``; ``prompt_too_long``, no room for a response;
            ``zero_weight_chosen`` or ``zero_weight_rejected``, none of the tokens that were kept
            belongs to a sentence to learn from.
        MaskError: the mask of either side cannot be built exactly.
        ValueError: an unknown verdict.
    """
    room = settings.max_length - len(prompt_ids)
    if room < 1:
        raise NoPair(
            "prompt_too_long",
            f"question {row['id']!r} has a prompt of {len(prompt_ids)} tokens: shorten it or raise "
            f"preference.max_length above {settings.max_length}",
        )
    try:
        selection = select_pair(row["candidates"])
        openings = None
        if settings.shared_openings == "mask":
            usable = [each for each in row["candidates"] if is_usable(each)]
            openings = correct_openings(usable, tokenizer, _weighing(settings))
        chosen, rejected = (
            _side(row["candidates"][n], name, tokenizer, room, settings, openings)
            for n, name in ((selection.best, "chosen"), (selection.worst, "rejected"))
        )
    except (NoPair, MaskError) as error:
        raise type(error)(error.reason, f"question {row['id']!r}: {error.detail}") from None
    return {
        "id": row["id"],
        "topic": row["topic"],
        "question": row["question"],
        "prompt_ids": list(prompt_ids),
        "chosen": chosen,
        "rejected": rejected,
        "digest": token_digest(prompt_ids, chosen["token_ids"], rejected["token_ids"]),
        "weight": 1.0,
    }


def token_digest(prompt: list[int], chosen: list[int], rejected: list[int]) -> str:
    """A name for the token ids of a pair, whatever its weights (docs/design.md, contract 4)."""
    return hashlib.sha256(json.dumps([list(prompt), chosen, rejected]).encode()).hexdigest()


def _weighing(settings: PreferenceConfig) -> Callable[..., list[float]]:
    return partial(token_weights, no_fact=settings.no_fact, weights=settings.weights)


def _side(
    candidate: Candidate,
    name: SideName,
    tokenizer: Any,
    room: int,
    settings: PreferenceConfig,
    openings: Openings | None,
) -> Side:
    token_ids, response = candidate["token_ids"], candidate["response"]
    sentences, weigh = candidate["sentences"], _weighing(settings)
    try:
        spans = token_spans(tokenizer, token_ids, response)
        owners = owning_sentences(spans, response, sentences)
        weights = weigh(owners, sentences, side=name, eos=settings.eos)
        # The end of turn stands in no sentence.
        correct = weigh(owners, sentences, side="chosen", eos="mask")
    except MaskError as error:
        raise MaskError(
            error.reason, f"candidate {candidate['index']} ({name}): {error.detail}"
        ) from None
    if openings is not None and name == "rejected":
        keys = sentence_keys(token_ids, spans, response, owners)
        weights = openings.left_out(weights, keys, owners)
    side: Side = {
        "index": candidate["index"],
        "response": response,
        "token_ids": list(token_ids),
        "weights": weights,
        "owners": owners,
        "correct": correct,
        "sentences": sentences,
        "score": score(sentences),
    }
    kept = truncate(side, room)
    # The end of turn alone teaches nothing about facts, whatever its weight.
    learnt = zip(kept["weights"], kept["owners"], strict=True)
    if not any(weight for weight, owner in learnt if owner != NO_SENTENCE):
        raise NoPair(
            f"zero_weight_{name}",
            f"candidate {candidate['index']} has no token to learn from among its first "
            f"{len(kept['token_ids'])} of {len(side['token_ids'])}: raise preference.max_length"
            + (", or set preference.shared_openings=keep" if openings else ""),
        )
    return kept
