"""Weighted preference pairs as rows of a file: pairs of anyone's making in, every run's pairs out.

A row says what is learnt, token by token; nobody selects or judges anything:

    prompt             chat messages, or token ids
    chosen, rejected   a text, a list of one assistant's message, or token ids
    *_ids              of prompt, chosen, rejected: token ids beside the text
    *_spans            of an answer: ``{"start", "end", "weight"?, "correct"?}``, what is learnt
    *_weights          of an answer: one number for each token id, in place of spans
    *_owners           of an answer: the sentence that each token id belongs to, -1 for none
    *_correct          of an answer: what each token id weighs in the anchor
    weight             a factor on the pair's loss, 1 unless given
    id, topic

Weights lie between 0 and 1. Without spans and weights every token weighs one.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from maskdpo_ray.digests import fingerprint
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import (
    NO_SENTENCE,
    LearntSpan,
    Message,
    Pair,
    Side,
    WeightedPair,
    WeightedSide,
)

T = TypeVar("T")
ALIGNED = ("weights", "owners", "correct")  # of an answer: a number for each token id
WEIGHING = (
    "weight",
    *(f"{side}_{key}" for side in ("chosen", "rejected") for key in (*ALIGNED, "spans")),
)
OF_PUBLIC_PAIRS = ("chosen_item", "rejected_item")
LARGEST = 2**31 - 1  # token ids and offsets are stored in 32 bits


def from_weighted(record: Mapping[str, Any], row_id: str, place: str) -> WeightedPair:
    """A record, its values known to be what the format says.

    Args:
        row_id: names the pair.
        place: of the record, for errors.

    Raises:
        RowRejected: ``malformed_pair``, ``spans_invalid`` or ``not_unicode``, naming place and key.
    """
    given = {key: value for key, value in record.items() if value is not None}
    try:
        _check_keys(given)
        messages, prompt_ids = _prompt(given)
        sides = [_side(given, name) for name in ("chosen", "rejected")]
        weight = _number(given.get("weight", 1.0), "weight")
        if not 0 < weight < math.inf:
            raise ValueError(f"'weight' is {weight}, a factor on the loss: give one above zero")
        topic = given.get("topic", "")
        if not isinstance(topic, str):
            raise TypeError(f"'topic' must be a string, not {type(topic).__name__}")
    except (TypeError, ValueError) as error:
        raise RowRejected("malformed_pair", f"{place}: {error}") from None
    except RowRejected as rejected:
        raise RowRejected(rejected.reason, f"{place}: {rejected.detail}") from None
    turns = [message["content"] for message in messages or [] if message["role"] == "user"]
    row: WeightedPair = {
        "id": row_id,
        # Pairs with one prompt are of one topic; a last turn alone says too little to be a name.
        "topic": topic if topic.strip() else _topic(messages, turns, prompt_ids),
        "question": turns[-1] if turns else "",
        "prompt": messages,
        "prompt_ids": prompt_ids,
        "chosen": sides[0],
        "rejected": sides[1],
        "weight": weight,
    }
    for text in (row["topic"], *_texts(messages or []), *(each["response"] for each in sides)):
        if text and any("\ud800" <= char <= "\udfff" for char in text):
            raise RowRejected("not_unicode", f"{place}: a lone surrogate; re-encode the text")
    return row


def to_weighted(pair: Pair, prompt: list[Message] | None) -> dict[str, Any]:
    """A pair as one record: read again, it has the same token ids, weights and sentences.

    Args:
        prompt: the messages that its prompt was built from, where they are known.
    """
    record: dict[str, Any] = {"id": pair["id"], "topic": pair["topic"]}
    if prompt is not None:
        record["prompt"] = prompt
    sides = ("chosen", "rejected")
    for name in sides:
        record[name] = [{"role": "assistant", "content": _spelled(pair[name])}]
    record["prompt_ids"] = pair["prompt_ids"]
    for key, field in (("ids", "token_ids"), *((each, each) for each in ALIGNED)):
        known = (name for name in sides if pair[name].get(field) is not None)
        record |= {f"{name}_{key}": pair[name][field] for name in known}
    return record | {"weight": pair["weight"]}


def _spelled(side: Side) -> str:
    """What the token ids decode to."""
    return f"{side.get('reasoning') or ''}{side['response']}"


# -- what a record holds ------------------------------------------------------------------------


def _check_keys(given: Mapping[str, Any]) -> None:
    """Other keys are left alone, but a weight under a name that is nearly right would be lost."""
    for key in given.keys() - set(WEIGHING):
        if key in OF_PUBLIC_PAIRS:
            raise ValueError(f"{key!r} is of pairs in the published form: set data.format=pairs")
        if near := difflib.get_close_matches(key, WEIGHING, n=1, cutoff=0.85):
            raise ValueError(f"{key!r} is no key: did you mean {near[0]!r}?")


def _prompt(given: Mapping[str, Any]) -> tuple[list[Message] | None, list[int] | None]:
    prompt, ids = given.get("prompt"), given.get("prompt_ids")
    if _is_ids(prompt):
        if ids is not None:
            raise ValueError("'prompt' holds token ids already: remove 'prompt_ids'")
        prompt, ids = None, prompt
    if prompt is None and ids is None:
        raise ValueError("'prompt' is missing: a list of chat messages, or of token ids")
    messages = None if prompt is None else _messages(prompt)
    return messages, None if ids is None else _ids(ids, "prompt_ids")


def _messages(prompt: Any) -> list[Message]:
    if not isinstance(prompt, list):
        raise TypeError(
            "'prompt' must be a list of chat messages or of token ids, not "
            f'{type(prompt).__name__}: a question is [{{"role": "user", "content": question}}]'
        )
    messages = [_message(each, f"message {n} of 'prompt'") for n, each in enumerate(prompt)]
    if not messages or messages[-1]["role"] == "assistant":
        raise ValueError("'prompt' must end with what the answers reply to, a user's message")
    if not messages[-1]["content"].strip():
        raise ValueError("the last message of 'prompt' is empty")
    return messages


def _message(given: Any, what: str) -> Message:
    given = {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given
    match given:
        case {"role": str(role), "content": str(content)} if len(given) == 2 and role:
            return {"role": role, "content": content}
    raise TypeError(f"{what} must have a 'role' and a 'content', both texts, and no other key")


def _side(given: Mapping[str, Any], name: str) -> WeightedSide:
    answer, ids = given.get(name), given.get(f"{name}_ids")
    if _is_ids(answer):
        if ids is not None:
            raise ValueError(f"{name!r} holds token ids already: remove '{name}_ids'")
        answer, ids = None, answer
    if answer is None and ids is None:
        raise ValueError(f"{name!r} is missing: a text, or a list of token ids")
    ids = None if ids is None else _ids(ids, f"{name}_ids")
    response = None if answer is None else _response(answer, name)
    aligned = {key: given[f"{name}_{key}"] for key in ALIGNED if f"{name}_{key}" in given}
    spans = given.get(f"{name}_spans")
    for key, values in aligned.items():
        if ids is None:
            raise ValueError(
                f"'{name}_{key}' are of token ids: give '{name}_ids' too, or '{name}_spans'"
            )
        if not isinstance(values, list) or len(values) != len(ids):
            raise ValueError(f"'{name}_{key}' must be a list of {len(ids)}, one for each token id")
    if spans is not None and aligned:
        raise ValueError(
            f"'{name}_spans' say what tokens weigh: remove '{name}_{next(iter(aligned))}'"
        )
    if aligned and "weights" not in aligned:
        key = next(iter(aligned))
        raise ValueError(f"'{name}_{key}' are of weighted tokens: give '{name}_weights' too")
    return {
        "response": response,
        "token_ids": ids,
        "weights": _each(_share, aligned.get("weights"), f"{name}_weights"),
        "owners": _each(_owner, aligned.get("owners"), f"{name}_owners"),
        "correct": _each(_share, aligned.get("correct"), f"{name}_correct"),
        "spans": None if spans is None else _spans(spans, name, response),
    }


def _response(answer: Any, name: str) -> str:
    if isinstance(answer, list) and len(answer) == 1:
        message = _message(answer[0], f"the message of {name!r}")
        if message["role"] != "assistant":
            raise ValueError(f"{name!r} must be an assistant's message, not of {message['role']!r}")
        answer = message["content"]
    if not isinstance(answer, str):
        raise TypeError(
            f"{name!r} must be a text, a list of one assistant's message, or of token ids"
        )
    if not answer:
        raise ValueError(f"{name!r} is empty")
    return answer


def _spans(given: Any, name: str, response: str | None) -> list[LearntSpan]:
    if not isinstance(given, list):
        raise TypeError(f"'{name}_spans' must be a list, not {type(given).__name__}")
    spans: list[LearntSpan] = []
    position = 0
    for number, span in enumerate(given):
        what = f"span {number} of '{name}_spans'"
        if not isinstance(span, dict) or not {"start", "end"} <= set(span):
            raise TypeError(f"{what} must be an object with 'start' and 'end'")
        start, end = (_whole(span[key], f"{key} of {what}") for key in ("start", "end"))
        if not position <= start < end <= (LARGEST if response is None else len(response)):
            length = "" if response is None else f" of {len(response)} characters"
            raise RowRejected(
                "spans_invalid",
                f"{what} is {start}:{end} after {position} in an answer{length}: give spans in "
                "their order, that do not overlap and do not reach over its end",
            )
        position = end
        weight, correct = (
            None if span.get(key) is None else _share(span[key], f"{key} of {what}")
            for key in ("weight", "correct")
        )
        weight = 1.0 if weight is None else weight
        spans.append({"start": start, "end": end, "weight": weight, "correct": correct})
    if len({span["correct"] is None for span in spans}) == 2:
        raise ValueError(f"'{name}_spans': give 'correct' of every span, or of none")
    return spans


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and type(value[0]) is int


def _ids(value: Any, what: str) -> list[int]:
    if not isinstance(value, list) or not value:
        raise TypeError(f"{what!r} must be a list of token ids, at least one")
    return [_whole(each, f"a token id of {what!r}") for each in value]


def _each(checked: Callable[[Any, str], T], values: list | None, what: str) -> list[T] | None:
    return None if values is None else [checked(each, what) for each in values]


def _whole(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"{what} must be a whole number of at least 0, not {str(value)[:40]!r}")
    return value


def _owner(value: Any, what: str) -> int:
    return NO_SENTENCE if value == NO_SENTENCE else _whole(value, f"a number of {what!r}")


def _number(value: Any, what: str) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{what!r} must be a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{what!r} is too large") from None


def _share(value: Any, what: str) -> float:
    if not 0 <= _number(value, what) <= 1:
        raise ValueError(f"{what!r} holds {value}: a weight lies between 0 and 1")
    return float(value)


def _topic(messages: list[Message] | None, turns: list[str], ids: list[int] | None) -> str:
    if messages is None:
        return f"prompt-{fingerprint(ids)}"
    others = [each for each in messages if each["role"] not in ("system", "user")]
    if len(turns) == 1 and not others:
        return turns[0]
    return f"conversation-{fingerprint([list(map(ascii, each.values())) for each in messages])}"


def _texts(messages: list[Message]) -> list[str]:
    return [text for message in messages for text in message.values()]
