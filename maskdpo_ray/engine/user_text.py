"""Text of people and documents inside a rendered prompt, where it can never be a control token.

A web page may hold ``<|eot_id|>`` or ``</s>``. Rendered into a prompt and encoded, it would end the
user's turn. So while the template is rendered, such a piece of text is a single private character,
which no template takes apart or strips. Then what the *template* wrote is given secret names, the
text of people comes back, and the whole is encoded by a copy of the tokenizer that knows its
control tokens by their secret names alone. All else about it (normalizer, prefix of a piece,
merges) is the tokenizer's own; a prompt without such text is encoded by the tokenizer itself.
"""

import gc
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from typing import Any

from maskdpo_ray.engine.vocabulary import control_tokens
from maskdpo_ray.errors import RowRejected

Messages = list[dict[str, str]]

SECRET = "\U0010fffd"  # encloses the secret names
PRIVATE = 0xF0000  # from here on, characters that no text is expected to have
# The system prompt is the configuration's: its author may mean control tokens.
OTHERS = ("user", "assistant", "tool")


class Disguise:
    """Control tokens that stand in messages, and the characters that stand for them."""

    def __init__(self, tokenizer: Any, messages: Messages) -> None:
        self._tokenizer = tokenizer
        self._control = control_tokens(tokenizer)
        self._pattern = _any_of(tuple(self._control))
        texts = [message["content"] for message in messages if message["role"] in OTHERS]
        found = {text for each in texts for text in self._pattern.findall(each)}
        found |= _found_normalized(tokenizer, self._pattern, texts)
        used = set().union(*map(set, texts)) if found else set()
        free = (chr(point) for point in count(PRIVATE) if chr(point) not in used)
        self.stands_for = {text: next(free) for text in sorted(found)}
        if found and (SECRET in used or not hasattr(tokenizer, "backend_tokenizer")):
            raise RowRejected(
                "control_token",
                f"the text spells the control token {min(found)!r}, which the tokenizer of "
                f"{tokenizer.name_or_path!r} cannot encode as text: take it out",
            )

    def __bool__(self) -> bool:
        return bool(self.stands_for)

    def applied(self, messages: Messages) -> Messages:
        return [
            {**message, "content": _replaced(self._pattern, message["content"], self.stands_for)}
            if message["role"] in OTHERS
            else message
            for message in messages
        ]

    def encode(self, rendered: str) -> list[int]:
        """The ids of what the template made of the ``applied`` messages."""
        secret = {text: f"{SECRET}{token_id}{SECRET}" for text, token_id in self._control.items()}
        rendered = _replaced(self._pattern, rendered, secret)
        for text, character in self.stands_for.items():
            rendered = rendered.replace(character, text)
        encoder, ids = _with_secret_names(self._tokenizer, tuple(self._control.items()))
        found = encoder.encode(rendered, add_special_tokens=False).ids
        return [ids.get(i, i) for i in found]


def escaped(text: str) -> str:
    """The text with a space in what looks like chat markup or a usual control token, for servers
    that render prompts themselves: ``<|eot_id|>`` becomes ``< |eot_id|>``.

    Which control tokens a server's tokenizer has is not known here, so this goes by their looks.
    """
    return LOOKS.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


LOOKS = re.compile(
    r"<\|[^<>\s]{1,60}\|>|<｜[^<>\s]{1,60}｜>"
    r"|</?(?:s|think|thinking|seed:think|tool_call|tool_response|bos|eos|pad|unk|mask)>"
    r"|<(?:start_of_turn|end_of_turn|start_of_image|end_of_image)>"
    r"|\[/?(?:INST|THINK|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|gMASK)\]"
    r"|<</?SYS>>|<\[(?:SEP|PLHD|PAD)\]>|◁/?think▷"
)


@lru_cache(maxsize=16)
def _any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _replaced(pattern: re.Pattern[str], text: str, by: Mapping[str, str]) -> str:
    return pattern.sub(lambda match: by.get(match[0], match[0]), text)


def _found_normalized(tokenizer: Any, pattern: re.Pattern[str], texts: Sequence[str]) -> set[str]:
    """Control tokens that a text spells only after normalization (``＜｜`` under NFKC)."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    matched_after = any(token.normalized for token in tokenizer.added_tokens_decoder.values())
    if normalizer is None or not matched_after:
        return set()
    normal = (normalizer.normalize_str(text) for text in texts)
    return {found for text in normal for found in pattern.findall(text)}


@lru_cache(maxsize=8)
def _with_secret_names(tokenizer: Any, control: tuple[tuple[str, int], ...]) -> Any:
    """A copy of the tokenizer in which control tokens have other names, and their ids there."""
    from tokenizers import Tokenizer

    known = dict(control)
    secret = {text: f"{SECRET}{token_id}{SECRET}" for text, token_id in control}
    with _collecting_nothing():
        copy = Tokenizer.from_str(_renamed(tokenizer.backend_tokenizer.to_str(), secret))
    return copy, {copy.token_to_id(name): known[text] for text, name in secret.items()}


def _renamed(tokenizer: str, names: Mapping[str, str]) -> str:
    """A tokenizer's JSON with other names for some of its tokens."""
    state = json.loads(tokenizer)
    state |= {"post_processor": None, "truncation": None, "padding": None}
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    if isinstance(vocabulary := model.get("vocab"), dict):
        model["vocab"] = {names.get(text, text): i for text, i in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if merges := model.get("merges"):
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges)
        model["merges"] = [
            (a, b) for a, b in pairs if a not in names and b not in names and a + b not in names
        ]
    return json.dumps(state)


@contextmanager
def _collecting_nothing() -> Iterator[None]:
    """Python would look through millions of fresh lists again and again: half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
