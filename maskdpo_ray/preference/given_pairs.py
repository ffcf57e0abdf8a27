"""The ``pair`` stage of pairs that bring their weights along (``data.format: weighted_pairs``)."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from maskdpo_ray.config import ModelConfig, PreferenceConfig, TrainingConfig
from maskdpo_ray.engine.chat import (
    answer_token_ids,
    chat_token_ids,
    conversation,
    end_of_turn_id,
    load_tokenizer,
    response_text,
)
from maskdpo_ray.engine.vocabulary import special_ids
from maskdpo_ray.errors import RowRejected, UserError, first_line
from maskdpo_ray.preference.pairs import token_digest
from maskdpo_ray.preference.processor import check_context
from maskdpo_ray.preference.token_spans import MaskError, Span, token_spans
from maskdpo_ray.preference.weights import silent_at_end, truncate
from maskdpo_ray.records import (
    NO_SENTENCE,
    LearntSpan,
    Message,
    Pair,
    Side,
    WeightedPair,
    WeightedSide,
)

CORRECT, SENTENCES = "correct", "sentences"


def read_of_sides(settings: Iterable[TrainingConfig]) -> list[str]:
    """What these losses read of a pair's sides beside the weights of tokens."""
    read = set()
    for each in settings:
        if each.anchor_weight:
            read.add(CORRECT)
        if each.rejected_floor is not None and each.rejected_floor_per == "sentence":
            read.add(SENTENCES)
    return sorted(read)


class GivenPairs:
    """Takes pairs as they are: texts become the policy's token ids, spans become weights.

    Prompts are built, and answers end, as those that are sampled; the ids of an answer must decode
    to its text. Of ``preference`` the end of turn and the length are read, nothing else.

    Args:
        read: what losses read beside the weights (``read_of_sides``): a pair that does not tell it
            is left out.
    """

    def __init__(
        self, model: ModelConfig, preference: PreferenceConfig, read: Sequence[str] = ()
    ) -> None:
        self.model = model
        self.preference = preference
        self.read = read
        self.tokenizer = load_tokenizer(model)
        self.vocabulary = check_context(model, preference.max_length)

    async def __call__(self, rows: list[WeightedPair]) -> list[Pair | RowRejected]:
        return [self._taken(row) for row in rows]

    def _taken(self, row: WeightedPair) -> Pair | RowRejected:
        try:
            return self._pair(row)
        except RowRejected as error:
            return RowRejected(error.reason, f"pair {row['id']!r}: {error.detail}")

    def _pair(self, row: WeightedPair) -> Pair:
        prompt_ids = self._prompt_ids(row["prompt"], row["prompt_ids"])
        room = self.preference.max_length - len(prompt_ids)
        if room < 1:
            raise RowRejected(
                "prompt_too_long",
                f"its prompt has {len(prompt_ids)} tokens: shorten it or raise "
                f"preference.max_length above {self.preference.max_length}",
            )
        chosen, rejected = (self._side(row, name, room) for name in ("chosen", "rejected"))
        self._check_told(chosen, rejected)
        self._check_known([*prompt_ids, *chosen["token_ids"], *rejected["token_ids"]])
        if all(chosen[key] == rejected[key] for key in ("token_ids", "weights")):
            raise RowRejected(
                "identical_text", "both answers, and their weights, are the same: nothing to prefer"
            )
        return {
            "id": row["id"],
            "question_id": row["id"],
            "topic": row["topic"],
            "question": row["question"],
            "prompt_ids": prompt_ids,
            "chosen": chosen,
            "rejected": rejected,
            "digest": token_digest(prompt_ids, chosen["token_ids"], rejected["token_ids"]),
            "weight": row["weight"],
            "dropped": [],
        }

    def _prompt_ids(self, messages: list[Message] | None, given: list[int] | None) -> list[int]:
        if messages is None:
            return list(given)
        built = self._chat_ids(messages)
        if given is not None and given != built:
            raise RowRejected(
                "prompt_ids_differ",
                "'prompt_ids' are not what this model's tokenizer and chat template make of "
                "'prompt': remove the ids, weights and owners of a pair from another model, and "
                "give spans; or remove 'prompt'",
            )
        return built

    def _chat_ids(self, messages: list[Message]) -> list[int]:
        try:
            asked = conversation(messages, self.model.system_prompt)
            return chat_token_ids(self.tokenizer, asked, self.model.chat_template_kwargs)
        except UserError as error:
            if self.tokenizer.chat_template is None:
                raise
            raise RowRejected("prompt_refused", str(error)) from None
        except RowRejected:
            raise
        except Exception as error:  # a template is a program: roles that it does not foresee
            raise RowRejected(
                "prompt_refused", f"the chat template fails on its messages: {first_line(error)}"
            ) from None

    @cached_property
    def _end(self) -> int:
        return end_of_turn_id(self.tokenizer, self.model.chat_template_kwargs)

    def _side(self, row: WeightedPair, name: str, room: int) -> Side:
        given = row[name]
        response, ids = given["response"], given["token_ids"]
        if ids is None:
            ids = [*answer_token_ids(self.tokenizer, response), self._end]
            spelled = response_text(self.tokenizer, ids)
            fits = spelled == response
        else:
            spelled = response_text(self.tokenizer, ids)
            response = spelled if response is None else response
            # A run writes whole answers beside ids that were cut, perhaps within a character.
            begun = spelled.rstrip("\ufffd")
            fits = response == spelled or (begun and response.startswith(begun))
        if not fits:
            raise MaskError(
                "mask_text_differs",
                f"the token ids of {name!r} decode to {spelled[:40]!r}..., its text reads "
                f"{response[:40]!r}...: give the ids that the text was decoded from, or a text "
                "that this model's tokenizer encodes and decodes without change",
            )
        side: Side = {
            "index": int(name == "rejected"),
            "response": response,
            "token_ids": list(ids),
            **self._aligned(given, name, ids, response, spelled),
            "sentences": [],
            "score": None,
        }
        kept = truncate(side, room)
        if not any(kept["weights"]):
            raise RowRejected(
                f"zero_weight_{name}",
                f"no token of {name!r} weighs anything among its first {len(kept['token_ids'])} of "
                f"{len(ids)}: give spans or weights above zero, or raise preference.max_length",
            )
        return kept

    def _aligned(
        self, given: WeightedSide, name: str, ids: list[int], response: str, spelled: str
    ) -> dict[str, list | None]:
        """Weights, owners and weights in the anchor, of every token."""
        silent, spans = special_ids(self.tokenizer), given["spans"]
        if spans is None:
            # Nobody says where a sentence ends: the answer is one.
            owners = given["owners"] or [NO_SENTENCE if i in silent else 0 for i in ids]
            plain = [self._outside if i in silent else 1.0 for i in ids]
            weights = given["weights"] or plain
            return {"weights": weights, "owners": owners, "correct": given["correct"]}
        if spans and spans[-1]["end"] > len(response):
            raise MaskError(
                "spans_invalid",
                f"the last of '{name}_spans' ends at {spans[-1]['end']} of {len(response)} "
                "characters: give spans of the text that the ids decode to",
            )
        written = token_spans(self.tokenizer, ids, spelled)
        owners = span_owners(written, response, spans)
        weights = [0.0 if owner == NO_SENTENCE else spans[owner]["weight"] for owner in owners]
        for number in range(len(written) - silent_at_end(written), len(written)):
            weights[number] = self._outside
        correct = None
        if spans and spans[0]["correct"] is not None:
            correct = [0.0 if owner == NO_SENTENCE else spans[owner]["correct"] for owner in owners]
        return {"weights": weights, "owners": owners, "correct": correct}

    @property
    def _outside(self) -> float:
        """What a token weighs that writes nothing, as the end of turn."""
        return 1.0 if self.preference.eos == "keep" else 0.0

    def _check_told(self, chosen: Side, rejected: Side) -> None:
        correct = [side["correct"] for side in (chosen, rejected)]
        if CORRECT in self.read and not (None not in correct and any(map(any, correct))):
            raise RowRejected(
                "correct_missing",
                "training.anchor_weight holds correct sentences up, and this pair tells of none: "
                "give 'correct' of the spans of both answers, or '*_correct' beside weights",
            )
        if SENTENCES in self.read and all(each == NO_SENTENCE for each in rejected["owners"]):
            raise RowRejected(
                "sentences_missing",
                "training.rejected_floor bounds sentences, and this pair tells none of its "
                "rejected answer: give 'rejected_owners' that are not all -1, or leave them out",
            )

    def _check_known(self, ids: list[int]) -> None:
        if (highest := max(ids)) >= self.vocabulary:
            raise RowRejected(
                "token_unknown",
                f"token id {highest} is beyond the {self.vocabulary} words of {self.model.path}: "
                "the ids are of another model",
            )


def span_owners(written: list[Span], response: str, spans: list[LearntSpan]) -> list[int]:
    """Position of the span that each token belongs to: the one that holds its last non-space
    character, or its last character where it is white space alone; ``NO_SENTENCE`` where none does.

    White space behind a span is part of it, and so is white space that opens the response before
    the first, as with sentences (``weights.tile_sentences``).

    Args:
        written: character span of every token (``token_spans``).
    """
    # Ids that were cut within a character may spell more than the response.
    owner_of = [NO_SENTENCE] * max([len(response), *(end for _, end in written)])
    for number, span in enumerate(spans):
        start, end = span["start"], span["end"]
        if not response[:start].strip():
            start = 0
        rest = response[end:]
        end += len(rest) - len(rest.lstrip())
        owner_of[start:end] = [number] * (end - start)
    owners = []
    for start, end in written:
        last = start + len(response[start:end].rstrip()) - 1
        position = last if last >= start else end - 1
        owners.append(owner_of[position] if end > start else NO_SENTENCE)
    return owners
