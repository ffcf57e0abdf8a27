"""Every usable candidate of a question, for a loss that takes every sentence by itself (``fkto``).

Nothing is selected and nothing compared: questions whose answers are all as good, or all as bad,
are learnt from too. Rows are those of pairs, so that the reference, the batch plan and training are
the same: two answers of a question share a row.
"""

from typing import Any

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.pairs import openings_of, pair_of, room_for_response, side_of
from maskdpo_ray.preference.select import NoPair, why_left_out
from maskdpo_ray.preference.token_spans import MaskError
from maskdpo_ray.records import NO_SENTENCE, Pair, Question, Side

NO_ANSWER: Side = {
    "index": -1,
    "response": "",
    "token_ids": [],
    "weights": [],
    "owners": [],
    "correct": [],
    "sentences": [],
    "score": None,
}
"""Stands beside the last of an odd number of answers."""


def build_units(
    row: Question, tokenizer: Any, prompt_ids: list[int], settings: PreferenceConfig
) -> list[Pair]:
    """The usable candidates of an annotated question, two in a row, in their order.

    Which of them is called chosen and which rejected says nothing. On both sides tokens of correct
    and of incorrect sentences have a weight, and ``correct`` tells those of correct ones.

    Raises:
        NoPair: ``prompt_too_long``; ``nothing_to_learn``, no candidate has a sentence that counts.
        MaskError: of the first of several candidates, where the mask of none can be built exactly.
        ValueError: an unknown verdict.
    """
    room = room_for_response(row, prompt_ids, settings)
    openings = openings_of(row, tokenizer, settings)
    sides, dropped = [], []
    for candidate in row["candidates"]:
        if why_left_out(candidate, settings):
            continue
        try:
            side = side_of(candidate, "rejected", tokenizer, room, settings, openings)
        except MaskError as error:
            dropped.append(error)
            continue
        if any(_weigh_both(side)):
            sides.append(side)
    if not sides and dropped:
        raise MaskError(dropped[0].reason, f"question {row['id']!r}: {dropped[0].detail}")
    if not sides:
        raise _nothing(row)
    units = []
    for at in range(0, len(sides), 2):
        first, second = (*sides[at : at + 2], NO_ANSWER)[:2]
        units.append(pair_of(row, prompt_ids, first, second) | {"id": f"{row['id']}#{at // 2 + 1}"})
    units[0]["dropped"] = [error.reason for error in dropped]
    return units


def _weigh_both(side: Side) -> list[float]:
    """Give the tokens of correct sentences of a rejected side their weights, too, and those of no
    sentence none."""
    side["weights"] = [
        0.0 if owner == NO_SENTENCE else max(weights)
        for owner, *weights in zip(side["owners"], side["weights"], side["correct"], strict=True)
    ]
    return side["weights"]


def _nothing(row: Question) -> NoPair:
    return NoPair(
        "nothing_to_learn",
        f"question {row['id']!r}: none of {len(row['candidates'])} candidates has a sentence that "
        "counts as correct or incorrect: see the details of their `error` verdicts, or sample more",
    )
