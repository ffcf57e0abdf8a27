"""From selected candidates to pairs with token weights (docs/method.md, sections 1 and 3)."""

import hashlib
import json
from typing import Any

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.openings import Openings, correct_openings, sentence_keys
from maskdpo_ray.preference.ranking import Ranking
from maskdpo_ray.preference.select import NoPair, is_usable, select_pairs
from maskdpo_ray.preference.token_spans import MaskError, token_spans
from maskdpo_ray.preference.trimming import without_wrong_end
from maskdpo_ray.preference.weights import (
    SideName,
    owning_sentences,
    sentence_weights,
    spread,
    token_weights,
    truncate,
)
from maskdpo_ray.records import NO_SENTENCE, Candidate, Pair, Question, Side


def build_pairs(
    row: Question, tokenizer: Any, prompt_ids: list[int], settings: PreferenceConfig
) -> list[Pair]:
    """The preference pairs of an annotated question, with token weights; one at least.

    Prompt and response together keep ``settings.max_length`` tokens; the response's tail is cut.
    A pair that cannot be built is dropped; the first of the others says why.

    Raises:
        NoPair: as ``select_pairs``; ``prompt_too_long``, no room for a response;
            ``zero_weight_chosen`` or ``zero_weight_rejected``, none of the tokens that were kept
            belongs to a sentence to learn from.
        MaskError: the mask of either side cannot be built exactly.
        ValueError: an unknown verdict.
    """
    room = room_for_response(row, prompt_ids, settings)
    candidates, pairs, dropped = row["candidates"], [], []
    try:
        selected = select_pairs(candidates, settings)
        openings = openings_of(row, tokenizer, settings)
        for number, (best, worst, gap) in enumerate(selected, start=1):
            try:
                chosen, rejected = (
                    _learnt_side(candidates[n], name, tokenizer, room, settings, openings)
                    for n, name in ((best, "chosen"), (worst, "rejected"))
                )
            except (NoPair, MaskError) as error:
                dropped.append(error)
                continue
            pair = pair_of(row, prompt_ids, chosen, rejected)
            if settings.pairs_per_question > 1:
                pair["id"] = f"{row['id']}#{number}"
            if settings.pair_weight == "gap":
                pair["weight"] = float(gap)
            pairs.append(pair)
        if not pairs:
            raise dropped[0]
    except (NoPair, MaskError) as error:
        raise type(error)(error.reason, f"question {row['id']!r}: {error.detail}") from None
    pairs[0]["dropped"] = [error.reason for error in dropped]
    return pairs


def room_for_response(row: Question, prompt_ids: list[int], settings: PreferenceConfig) -> int:
    """How many tokens of a response are kept behind this prompt.

    Raises:
        NoPair: ``prompt_too_long``, none.
    """
    room = settings.max_length - len(prompt_ids)
    if room < 1:
        raise NoPair(
            "prompt_too_long",
            f"question {row['id']!r} has a prompt of {len(prompt_ids)} tokens: shorten it or raise "
            f"preference.max_length above {settings.max_length}",
        )
    return room


def openings_of(row: Question, tokenizer: Any, settings: PreferenceConfig) -> Openings | None:
    """Those of the correct sentences of the question's candidates, where they are left out."""
    if settings.shared_openings == "keep":
        return None
    usable = [each for each in row["candidates"] if is_usable(each)]
    return correct_openings(usable, tokenizer, settings)


def pair_of(row: Question, prompt_ids: list[int], chosen: Side, rejected: Side) -> Pair:
    """The row of the only pair of a question."""
    return {
        "id": row["id"],
        "question_id": row["id"],
        "topic": row["topic"],
        "question": row["question"],
        "prompt_ids": list(prompt_ids),
        "chosen": chosen,
        "rejected": rejected,
        "digest": token_digest(prompt_ids, chosen["token_ids"], rejected["token_ids"]),
        "weight": 1.0,
        "dropped": [],
    }


def token_digest(prompt: list[int], chosen: list[int], rejected: list[int]) -> str:
    """A name for the token ids of a pair, whatever its weights (docs/design.md, contract 4)."""
    return hashlib.sha256(json.dumps([list(prompt), chosen, rejected]).encode()).hexdigest()


def side_of(
    candidate: Candidate,
    name: SideName,
    tokenizer: Any,
    room: int,
    settings: PreferenceConfig,
    openings: Openings | None,
) -> Side:
    """A usable candidate as a side of a pair: its first ``room`` tokens with their weights.

    Raises:
        MaskError: the mask cannot be built exactly.
    """
    token_ids, response = candidate["token_ids"], candidate["response"]
    sentences = candidate["sentences"]
    try:
        spans = token_spans(tokenizer, token_ids, response, candidate.get("reasoning"))
        owners = owning_sentences(spans, response, sentences)
        weights = token_weights(owners, sentences, name, settings)
        if settings.reasoning == "keep" and candidate.get("reasoning"):
            before = next(n for n, owner in enumerate(owners) if owner != NO_SENTENCE)
            weights[:before] = [1.0] * before
        # The end of turn stands in no sentence.
        correct = spread(sentence_weights(sentences, "chosen", settings), owners)
    except MaskError as error:
        raise MaskError(
            error.reason, f"candidate {candidate['index']} ({name}): {error.detail}"
        ) from None
    if openings is not None and name == "rejected":
        keys = sentence_keys(token_ids, spans, response, owners)
        weights = openings.left_out(weights, keys, owners)
    tally = Ranking(settings).tally(sentence["verdict"] for sentence in sentences)
    side: Side = {
        "index": candidate["index"],
        "reasoning": candidate.get("reasoning"),
        "response": response,
        "token_ids": list(token_ids),
        "weights": weights,
        "owners": owners,
        "correct": correct,
        "sentences": sentences,
        "score": tally.correct / (tally.correct + tally.incorrect),
    }
    if settings.trim_chosen and name == "chosen":
        side = without_wrong_end(side, spans, settings)
    return truncate(side, room)


def _learnt_side(candidate: Candidate, name: SideName, *how: Any) -> Side:
    """``side_of``, where there is anything to learn from it."""
    kept, whole, openings = side_of(candidate, name, *how), candidate["token_ids"], how[-1]
    # The end of turn alone teaches nothing about facts, whatever its weight.
    learnt = zip(kept["weights"], kept["owners"], strict=True)
    if not any(weight for weight, owner in learnt if owner != NO_SENTENCE):
        raise NoPair(
            f"zero_weight_{name}",
            f"candidate {candidate['index']} has no token to learn from among its first "
            f"{len(kept['token_ids'])} of {len(whole)}: raise preference.max_length"
            + (", or set preference.shared_openings=keep" if openings else ""),
        )
    return kept
