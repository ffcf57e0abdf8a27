"""What servers that are nearly OpenAI's call things."""

from collections.abc import Mapping
from typing import Any

STOPPED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "completed", "finished")
CUT = ("length", "max_tokens", "max_length", "model_length", "max_output_tokens")
# What the client takes by name; anything else travels beside it.
OF_THE_CLIENT = (
    "messages", "temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "logprobs",
    "top_logprobs", "response_format", "n", "stop",
)  # fmt: skip


def named_parameters(
    parameters: Mapping[str, Any], names: Mapping[str, str | None]
) -> dict[str, Any]:
    """Parameters of a request under a server's names; without those that it refuses (None)."""
    given = {key: value for key, value in parameters.items() if key != "extra_body"}
    beside, named = parameters.get("extra_body", {}), {}
    for key, value in (given | beside).items():
        if (name := names.get(key, key)) is not None:
            named[name] = value
    found = {key: value for key, value in named.items() if key in OF_THE_CLIENT}
    rest = {key: value for key, value in named.items() if key not in OF_THE_CLIENT}
    return found | ({"extra_body": rest} if rest else {})


def choices_of(answer: Any) -> list[Any]:
    """The completions of an answer.

    Raises:
        ValueError: it has none.
    """
    choices = getattr(answer, "choices", None)
    if not (isinstance(choices, list) and choices):
        instead = getattr(answer, "error", None)
        raise ValueError(
            f"it has no choices{f', but an error: {instead}' if instead else ''}; does the server "
            "speak the OpenAI protocol?"
        )
    return choices


def tokens_of(answer: Any) -> int | None:
    """Tokens read and written for an answer; None where it does not tell."""
    tokens = getattr(getattr(answer, "usage", None), "total_tokens", None)
    return tokens if isinstance(tokens, int) else None


def read_choice(choice: Any) -> Any:
    """A choice of a chat in one form: parts of content are joined, and ``finish_reason`` is
    ``stop`` or ``length`` where it means that.

    Raises:
        ValueError: it has no message, or the text is no Unicode, a lone surrogate.
    """
    message = getattr(choice, "message", None)
    if not hasattr(message, "content"):
        raise ValueError("its choice has no message")
    for name in ("content", "reasoning", "reasoning_content", "refusal"):
        said = getattr(message, name, None)
        if said is not None:
            setattr(message, name, _unicode(_text(said)))
    choice.finish_reason = finish_of(choice.finish_reason, message.content is not None)
    return choice


def finish_of(reason: Any, complete: bool = True) -> Any:
    """``stop`` or ``length`` where a server's word means that; no word is ``stop`` for what is
    ``complete``."""
    if reason in STOPPED or (reason is None and complete):
        return "stop"
    return "length" if reason in CUT else reason


def _text(said: Any) -> str:
    """A text that may come in parts; what is thought is no part of what is said."""
    match said:
        case str():
            return said
        case list():
            return "".join(map(_text, said))
        case {"type": kind} if kind not in ("text", "output_text", "reasoning_text"):
            return ""
        case {"text": text} | {"value": text}:
            return _text(text)
        case None | {}:
            return ""
    raise ValueError("its text is none")


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it is no Unicode text: it holds a lone surrogate") from None
    return text
