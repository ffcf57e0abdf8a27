"""What a section may tell its model's chat template."""

from typing import Annotated, Literal

from pydantic import AfterValidator, JsonValue

# Arguments of the rendering itself.
OURS = (
    "messages",
    "conversation",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
    "strftime_now",
    "raise_exception",
    "tools",
    "documents",
)


def _not_ours(given: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if taken := [name for name in given if name in OURS]:
        raise ValueError(
            f"{taken[0]} is decided by the run: give variables that the template reads of its own, "
            "such as enable_thinking"
        )
    return given


ReasoningSetting = Literal["auto", "none"] | tuple[str, str]
ChatTemplateKwargs = Annotated[dict[str, JsonValue], AfterValidator(_not_ours)]
