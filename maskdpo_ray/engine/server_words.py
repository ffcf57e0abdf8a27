"""What servers that are nearly OpenAI's call things."""

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.engine.refusal import RequestRefused

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


def read_choice(choice: Any) -> None:
    """Bring one choice of an answer into one form: parts of content are joined, and
    ``finish_reason`` is ``stop`` or ``length`` where it means that.

    Raises:
        RequestRefused: the text is no Unicode, a lone surrogate.
    """
    message = choice.message
    if isinstance(message.content, list):
        message.content = "".join(map(_text, message.content))
    for text in (message.content, getattr(message, "reasoning_content", None)):
        if isinstance(text, str) and not _is_unicode(text):
            raise RequestRefused("the reply is no Unicode text: it holds a lone surrogate")
    reason = choice.finish_reason
    if reason in STOPPED or (reason is None and message.content is not None):
        choice.finish_reason = "stop"
    elif reason in CUT:
        choice.finish_reason = "length"


def _text(part: Any) -> str:
    """The text of a part of content; what is thought is no part of what is said."""
    if isinstance(part, str):
        return part
    said = isinstance(part, Mapping) and part.get("type", "text") in ("text", "output_text")
    return str(part.get("text") or "") if said else ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
