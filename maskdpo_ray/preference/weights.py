"""From verdicts on sentences to a weight for every token (paper, equations 5 and 6).

Chosen side: one for the tokens of correct sentences. Rejected side: one for the tokens of
incorrect ones. Zero elsewhere. Vanilla DPO is all ones.
"""

from bisect import bisect_right
from typing import Literal

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.token_spans import MaskError, Span
from maskdpo_ray.preference.verdicts import learnt_as
from maskdpo_ray.records import NO_SENTENCE, Sentence, Side

SideName = Literal["chosen", "rejected"]


def token_weights(
    owners: list[int], sentences: list[Sentence], side: SideName, settings: PreferenceConfig
) -> list[float]:
    """Weight of every token of one side of a pair: that of its sentence. The end of turn, which
    stands in none, weighs one on both sides, or nothing (``eos``); what writes nothing before the
    end (the space that Llama 2 puts before a text) weighs nothing.

    Args:
        owners: sentence of every token (:func:`owning_sentences`).

    Raises:
        MaskError, ValueError: as :func:`sentence_weights`.
    """
    weights = spread(sentence_weights(sentences, side, settings), owners)
    ends = next((n for n, owner in enumerate(reversed(owners)) if owner != NO_SENTENCE), 0)
    return weights[: len(owners) - ends] + [1.0 if settings.eos == "keep" else 0.0] * ends


def silent_at_end(spans: list[Span]) -> int:
    """How many tokens end the turn: those behind the last that writes something."""
    return next((n for n, (start, end) in enumerate(reversed(spans)) if start < end), 0)


def sentence_weights(
    sentences: list[Sentence], side: SideName, settings: PreferenceConfig
) -> list[float]:
    """Weight of every sentence of one side: one where it is learnt from on this side, or the
    confidence of its verdict (``weights``); else zero.

    Raises:
        MaskError: ``confidence_missing`` where it is needed.
        ValueError: a verdict that is ``error`` or unknown.
    """
    learnt = 1 if side == "chosen" else -1
    values = [float(learnt_as(s["verdict"], settings) == learnt) for s in sentences]
    if settings.weights == "confidence":
        pairs = zip(values, sentences, strict=True)
        values = [value and value * _confidence(sentence) for value, sentence in pairs]
    return values


def spread(values: list[float], owners: list[int]) -> list[float]:
    """The value of its sentence for every token; zero for those that stand in none."""
    return [0.0 if owner == NO_SENTENCE else values[owner] for owner in owners]


def owning_sentences(spans: list[Span], response: str, sentences: list[Sentence]) -> list[int]:
    """Index of the sentence each token belongs to: the one that owns its last non-space character,
    or its last character where it is white space alone. ``NO_SENTENCE`` for a token that writes
    nothing.

    Args:
        spans: character span of every token (``token_spans``).
        sentences: tile ``response``.

    Raises:
        MaskError: ``mask_spans_do_not_tile``.
    """
    check_tiling(response, sentences)
    starts = [sentence["start"] for sentence in sentences]
    owners: list[int] = []
    for start, end in spans:
        last = start + len(response[start:end].rstrip()) - 1
        position = last if last >= start else end - 1
        owners.append(bisect_right(starts, position) - 1 if end > start else NO_SENTENCE)
    return owners


def _confidence(sentence: Sentence) -> float:
    found = sentence.get("confidence")
    if found is None:
        raise MaskError(
            "confidence_missing",
            f"the verdict {sentence['verdict']!r} has no confidence: let its annotator tell one "
            "(docs/annotators.md; of labels `confidence` beside each `label`), or set "
            "preference.weights=verdict",
        )
    return found


def check_tiling(response: str, sentences: list[Sentence]) -> None:
    """Raise ``MaskError`` unless the sentences tile the response (docs/design.md, contract 2)."""
    position = 0
    for number, sentence in enumerate(sentences):
        if sentence["start"] != position or sentence["end"] <= position:
            raise MaskError(
                "mask_spans_do_not_tile",
                f"sentence {number} spans {sentence['start']}:{sentence['end']} and should begin "
                f"at {position}: split the response again",
            )
        position = sentence["end"]
    if position != len(response):
        raise MaskError(
            "mask_spans_do_not_tile",
            f"the sentences end at character {position} of {len(response)}: "
            "split the response again",
        )


def tile_sentences(response: str, sentences: list[Sentence]) -> list[Sentence]:
    """Sentences given without their outer white space, widened until they tile the response.

    White space after a sentence becomes its own, white space before the first sentence goes to
    that one: as the splitter does it. No sentences stay none: such a response is not annotated.

    Raises:
        MaskError: ``mask_spans_invalid`` where spans are empty, overlap, are out of order or
            outside the response; ``mask_text_outside_sentences`` where text is in no sentence.
    """
    if not sentences:
        return []
    position = 0
    for number, sentence in enumerate(sentences):
        start, end = sentence["start"], sentence["end"]
        if not position <= start < end <= len(response):
            raise MaskError(
                "mask_spans_invalid",
                f"sentence {number} spans {start}:{end} after {position} in a response of "
                f"{len(response)} characters: give ordered spans that do not overlap",
            )
        _check_blank(response, position, start)
        position = end
    _check_blank(response, position, len(response))
    edges = [0, *(sentence["start"] for sentence in sentences[1:]), len(response)]
    return [
        {**sentence, "start": start, "end": end}
        for sentence, start, end in zip(sentences, edges, edges[1:], strict=False)
    ]


def _check_blank(response: str, start: int, end: int) -> None:
    if response[start:end].strip():
        raise MaskError(
            "mask_text_outside_sentences",
            f"characters {start}:{end} {response[start:end][:40]!r} belong to no sentence: "
            "give every part of the response a verdict",
        )


def truncate(side: Side, max_tokens: int) -> Side:
    """The first ``max_tokens`` tokens with what is aligned with them.

    Response, sentences and score stay whole: they tell what was judged.
    """
    aligned = ("token_ids", "weights", "owners", "correct")
    known = (name for name in aligned if side.get(name) is not None)
    return {**side, **{name: side[name][:max_tokens] for name in known}}
