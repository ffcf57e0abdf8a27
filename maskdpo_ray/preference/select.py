"""Best and worst candidate of a question as a preference pair (docs/method.md, section 1)."""

import hashlib
import json
from collections import Counter
from typing import Any, NamedTuple

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.openings import Openings, correct_openings, sentence_keys
from maskdpo_ray.preference.ranking import Ranking, Tally
from maskdpo_ray.preference.token_spans import MaskError, token_spans
from maskdpo_ray.preference.weights import (
    SideName,
    owning_sentences,
    sentence_weights,
    spread,
    token_weights,
    truncate,
)
from maskdpo_ray.records import (
    ERROR_VERDICT,
    NO_SENTENCE,
    SKIPPED_VERDICT,
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
    """Positions in the list of candidates."""

    best: int
    worst: int


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
    return takes_part(candidate) and not {ERROR_VERDICT, SKIPPED_VERDICT} & set(verdicts)


def takes_part(candidate: Candidate) -> bool:
    """Whether a candidate can be chosen or rejected as far as is known before annotation."""
    return bool(candidate["token_ids"] and candidate["sentences"])


def ranking_of(candidates: list[Candidate], settings: PreferenceConfig) -> Ranking:
    """How these candidates are compared; their sentences may lack verdicts yet."""
    sizes = [len(each["sentences"]) for each in candidates if takes_part(each)]
    return Ranking(settings, sizes)


def why_left_out(candidate: Candidate, ranking: Ranking) -> str | None:
    """Why a candidate can be neither chosen nor rejected: ``no_answer``, no tokens or no sentences;
    ``error``, a sentence on which the annotator failed; ``no_checkable_sentence``, none that
    counts as correct or incorrect. None for the others.

    A candidate that pruning left half-annotated is not known to be left out.
    """
    if not takes_part(candidate):
        return "no_answer"
    verdicts = _verdicts(candidate)
    if ERROR_VERDICT in verdicts:
        return "error"
    return None if sum(ranking.tally(verdicts)) else "no_checkable_sentence"


def _verdicts(candidate: Candidate) -> list[str]:
    return [sentence["verdict"] for sentence in candidate["sentences"]]


def select_pair(candidates: list[Candidate], settings: PreferenceConfig | None = None) -> Selection:
    """The best candidate that has a correct sentence, and the worst that has an incorrect one.

    Among equally best ones the one with most correct sentences, among equally worst ones the one
    with most incorrect sentences, then the first.

    Raises:
        NoPair: ``too_few_candidates``, fewer than two are usable; ``identical_text``;
            ``equal_scores``; ``no_correct_sentence`` or ``no_incorrect_sentence`` in the best or
            worst, with no other pair to take.
        PrunedTooFar: sentences that were skipped could change the answer.
        ValueError: an unknown verdict.
    """
    ranking = ranking_of(candidates, settings or PreferenceConfig())
    reasons = [why_left_out(candidate, ranking) for candidate in candidates]
    tallies = {
        n: ranking.tally(_verdicts(candidate))
        for n, candidate in enumerate(candidates)
        if reasons[n] is None
    }
    usable = {n: counts for n, counts in tallies.items() if not counts.skipped}

    def best_of(group: list[int]) -> int | None:
        return max(group, key=lambda n: ranking.as_best(tallies[n], n), default=None)

    def worst_of(group: list[int]) -> int | None:
        return min(group, key=lambda n: ranking.as_worst(tallies[n], n), default=None)

    best = best_of([n for n, counts in usable.items() if counts.correct])
    worst = worst_of([n for n, counts in usable.items() if counts.incorrect])
    for n, counts in tallies.items():
        if counts.skipped and (
            best is None
            or worst is None
            or ranking.as_best(counts, n) > ranking.as_best(tallies[best], best)
            or ranking.as_worst(counts, n) < ranking.as_worst(tallies[worst], worst)
        ):
            raise PrunedTooFar(
                f"candidate {n} of {len(candidates)} has {counts.skipped} skipped sentences and "
                "could still be best or worst: annotate with annotation.prune=false"
            )
    if len(usable) < 2:
        left_out = Counter(reason for reason in reasons if reason)
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise NoPair(
            "too_few_candidates",
            f"{len(usable)} of {len(candidates)} candidates can take part, a pair needs 2; left "
            f"out: {told or 'none'}: see the details of their `error` verdicts, or sample more",
        )
    if len({candidates[n]["response"] for n in usable}) == 1:
        raise NoPair("identical_text", f"all {len(usable)} candidates read the same")
    scores = {n: ranking.score(counts.correct, counts.incorrect) for n, counts in usable.items()}
    if len(set(scores.values())) == 1:
        one = float(scores.popitem()[1])
        raise NoPair("equal_scores", f"all {len(usable)} candidates score {one:.4f}")
    if best is None or worst is None or scores[best] <= scores[worst]:
        raise _nothing_to_learn(usable[best_of(list(usable))])
    if candidates[best]["response"] == candidates[worst]["response"]:
        raise NoPair("identical_text", f"best and worst of {len(usable)} candidates read the same")
    return Selection(best, worst)


def _nothing_to_learn(best: Tally) -> NoPair:
    """Of candidates with different scores: the best has nothing correct, or the worst nothing
    incorrect (two conditions of the paper), and neither has any other that is better or worse."""
    if not best.correct:
        return NoPair("no_correct_sentence", "the best candidate has no correct sentence")
    return NoPair("no_incorrect_sentence", "the worst candidate has no incorrect sentence")


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
        best, worst = select_pair(row["candidates"], settings)
        openings = None
        if settings.shared_openings == "mask":
            usable = [each for each in row["candidates"] if is_usable(each)]
            openings = correct_openings(usable, tokenizer, settings)
        chosen, rejected = (
            _side(row["candidates"][n], name, tokenizer, room, settings, openings)
            for n, name in ((best, "chosen"), (worst, "rejected"))
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


def _side(
    candidate: Candidate,
    name: SideName,
    tokenizer: Any,
    room: int,
    settings: PreferenceConfig,
    openings: Openings | None,
) -> Side:
    token_ids, response = candidate["token_ids"], candidate["response"]
    sentences = candidate["sentences"]
    try:
        spans = token_spans(tokenizer, token_ids, response)
        owners = owning_sentences(spans, response, sentences)
        weights = token_weights(owners, sentences, name, settings)
        # The end of turn stands in no sentence.
        correct = spread(sentence_weights(sentences, "chosen", settings), owners)
    except MaskError as error:
        raise MaskError(
            error.reason, f"candidate {candidate['index']} ({name}): {error.detail}"
        ) from None
    if openings is not None and name == "rejected":
        keys = sentence_keys(token_ids, spans, response, owners)
        weights = openings.left_out(weights, keys, owners)
    tally = Ranking(settings).tally(_verdicts(candidate))
    side: Side = {
        "index": candidate["index"],
        "response": response,
        "token_ids": list(token_ids),
        "weights": weights,
        "owners": owners,
        "correct": correct,
        "sentences": sentences,
        "score": tally.correct / (tally.correct + tally.incorrect),
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
