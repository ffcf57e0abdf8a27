"""How far a sentence says what correct sentences say too (an extension, docs/method.md).

"He was born in Rome." is incorrect beside "He was born in Paris.", but not in its first four words.
Learning to avoid these teaches a policy to avoid the sentence, and with it the correct one.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.token_spans import MaskError, Span, token_spans
from maskdpo_ray.preference.weights import owning_sentences, sentence_weights
from maskdpo_ray.records import NO_SENTENCE, Candidate

Key = tuple[int | str, ...]
"""A sentence by its tokens: their texts without white space behind, and the first without any. For
what stands around a sentence differs: the first of an answer has no space in front, the last no
line break behind it, and tokens hold both. A token within a character is told by its id."""


def sentence_keys(
    token_ids: Sequence[int], spans: Sequence[Span], response: str, owners: Sequence[int]
) -> dict[int, Key]:
    """The key of every sentence of a response, by its position; blanks at its end are left out.

    Args:
        token_ids, spans, owners: one of each per token, see ``token_spans`` and
            ``weights.owning_sentences``.
    """
    keys: dict[int, list[int | str]] = {}
    edges = [(0, 0), *spans, (len(response), len(response))]
    for number, (token, owner) in enumerate(zip(token_ids, owners, strict=True)):
        if owner == NO_SENTENCE:
            continue
        (_, before), (start, end), (after, _) = edges[number : number + 3]
        text = response[start:end].rstrip()
        key = keys.setdefault(owner, [])
        key.append(token if start < before or end > after else text if key else text.lstrip())
    for key in keys.values():
        while len(key) > 1 and key[-1] == "":
            key.pop()
    return {owner: tuple(key) for owner, key in keys.items()}


class Openings:
    """The openings of some sentences.

    Args:
        sentences: their keys.
    """

    def __init__(self, sentences: Iterable[Key]) -> None:
        self._next: dict = {}
        for key in sentences:
            place = self._next
            for token in key:
                place = place.setdefault(token, {})

    def shared(self, sentence: Key) -> int:
        """How many tokens ``sentence`` has in common with the beginning of any of them."""
        place = self._next
        for number, token in enumerate(sentence):
            if token not in place:
                return number
            place = place[token]
        return len(sentence)

    def left_out(
        self, weights: Sequence[float], keys: dict[int, Key], owners: Sequence[int]
    ) -> list[float]:
        """The weights of a response, zero as long as a sentence says what these openings say.

        Args:
            weights, owners: one of each per token.
            keys: of the response, from :func:`sentence_keys`.
        """
        left: dict[int, float] = {}
        for owner, key in keys.items():
            shared = self.shared(key)
            left[owner] = math.inf if shared == len(key) else shared  # the blanks behind it, too
        result = list(weights)
        for number, owner in enumerate(owners):
            if left.get(owner, 0):
                left[owner] -= 1
                result[number] = 0.0
        return result


def correct_openings(
    candidates: Iterable[Candidate], tokenizer: Any, settings: PreferenceConfig
) -> Openings:
    """Those of the correct sentences of annotated candidates: of those that weigh something on the
    chosen side.

    A candidate whose tokens do not spell its text tells nothing here.
    """
    keys: list[Key] = []
    for candidate in candidates:
        response, sentences = candidate["response"], candidate["sentences"]
        try:
            spans = token_spans(
                tokenizer, candidate["token_ids"], response, candidate.get("reasoning")
            )
            owners = owning_sentences(spans, response, sentences)
        except MaskError:
            continue
        correct = sentence_weights(sentences, "chosen", settings)
        found = sentence_keys(candidate["token_ids"], spans, response, owners)
        keys += [key for owner, key in found.items() if correct[owner]]
    return Openings(keys)
