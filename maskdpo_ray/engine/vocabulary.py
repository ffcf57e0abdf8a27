"""What a tokenizer's ids are: text, control tokens, or nothing that it knows."""

import re
from functools import lru_cache
from typing import Any

# What chat markup looks like: `<|im_start|>`, `<｜User｜>`, `</think>`. Not every tokenizer calls
# it special, nor does every template write it.
MARKUP = re.compile(
    r"<\|[^<>]*\|>|<｜[^<>]*｜>"
    r"|</?(?:\w+:)?think(?:ing)?>|◁/?think▷|\[/?THINK\]|</?tool_\w+>"
)


@lru_cache(maxsize=16)
def special_ids(tokenizer: Any) -> frozenset[int]:
    """What ``skip_special_tokens`` leaves out."""
    return frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)


def is_known(tokenizer: Any, token_id: int) -> bool:
    """Whether a token has this id: weights are often padded beyond the vocabulary, and a model can
    sample what stands there."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return 0 <= token_id < len(tokenizer)
    return backend.id_to_token(token_id) is not None


def template_of(tokenizer: Any) -> str:
    """The source of the chat template; empty where there is none."""
    try:
        return tokenizer.get_chat_template() or ""
    except (AttributeError, ValueError):  # none, or several and no default
        return ""


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """The tokens that build a conversation, by their text: special ones, added ones that the chat
    template writes (``<start_of_turn>``), and added ones that look like chat markup (``</think>``).

    Other added tokens are text that happens to have a token of its own (Gemma's ``<h1>``, runs of
    line ends).
    """
    return _control_tokens(tokenizer, template_of(tokenizer))


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: Any, template: str) -> dict[str, int]:
    added = {str(token): (i, token.special) for i, token in tokenizer.added_tokens_decoder.items()}
    found = {
        text: i
        for text, (i, special) in added.items()
        if special or (text.strip() and (text in template or MARKUP.fullmatch(text)))
    }
    # Some tokenizers name special tokens that are no added ones.
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return found | {text: i for text, i in named if i is not None}
