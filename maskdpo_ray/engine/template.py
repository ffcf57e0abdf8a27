"""Chat templates: rendered with a clock that stands still, and tried out before any work."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from maskdpo_ray.engine.vocabulary import template_of
from maskdpo_ray.errors import RowRejected, UserError, first_line

Messages = list[dict[str, str]]  # {"role": "system" | "user" | "assistant", "content": text}
TemplateKwargs = Mapping[str, Any]

# The day that templates are told, whichever way they ask. A run that lasts over midnight, or is
# resumed another day, must build the same prompts. `chat_template_kwargs.date_string` is another
# day for templates that read it.
CLOCK = datetime(2024, 7, 26)
NO_KWARGS: TemplateKwargs = {}
PROBES = ("Where was Ada Lovelace born?", "Answer as a historian would.", "In London.")


def render(
    tokenizer: Any, messages: Messages, *, reply: bool, template_kwargs: TemplateKwargs = NO_KWARGS
) -> str:
    """A conversation as text, with the header of the reply to come where ``reply``.

    Raises:
        UserError: the tokenizer has no chat template, or it fails.
        RowRejected: ``not_unicode``, a message holds a lone surrogate.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: "
            "set chat_template in the model's section to a file with one"
        )
    import jinja2

    for message in messages:
        check_unicode(message["content"], f"the {message['role']}'s text")
    clocks = {"date_string": CLOCK.strftime("%d %b %Y"), "strftime_now": CLOCK.strftime}
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=reply, **clocks | dict(template_kwargs)
        )
    # What a template does with its arguments can end in an error of Python too.
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} fails: {first_line(error)}; "
            "correct it or set chat_template in the model's section"
        ) from None


def check_template(
    tokenizer: Any,
    template_kwargs: TemplateKwargs = NO_KWARGS,
    *,
    system: bool = False,
    turns: bool = False,
) -> None:
    """Try out what a run will ask of a chat template.

    Args:
        system: the run has a system prompt.
        turns: it holds conversations of several turns.

    Raises:
        UserError: a variable that the template does not read, or a text that it loses; the
            tokenizer loses it.
    """
    source = template_of(tokenizer)
    where = f"the chat template of {tokenizer.name_or_path!r}"
    for name in template_kwargs:
        if not re.search(rf"\b{re.escape(name)}\b", source):
            raise UserError(f"chat_template_kwargs.{name}: {where} reads no such variable")
    question, of_system, answer = PROBES
    messages = [{"role": "system", "content": of_system}] if system else []
    messages.append({"role": "user", "content": question})
    if turns:
        messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": f"{question} When?"})
    rendered = render(tokenizer, messages, reply=True, template_kwargs=template_kwargs)
    for message in messages:
        if message["content"] not in rendered:
            raise UserError(
                f"{where} loses what the {message['role']} says: correct it or set chat_template "
                "in the model's section"
            )
    _check_text_survives(tokenizer, rendered, question)


def _check_text_survives(tokenizer: Any, rendered: str, text: str) -> None:
    ids = tokenizer.encode(rendered, add_special_tokens=False)
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if text.casefold() in back.casefold() or tokenizer.unk_token_id in ids:
        return
    raise UserError(
        f"the tokenizer of {tokenizer.name_or_path!r} loses text: {text!r} does not come back from "
        f"its ids ({back[-len(text) - 40 :]!r}). Transformers takes it for another kind than "
        "tokenizer.json says: set tokenizer_class to PreTrainedTokenizerFast in the model's "
        "tokenizer_config.json"
    )


def check_unicode(text: str, what: str) -> None:
    """Raise ``RowRejected`` when ``text`` cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowRejected(
            "not_unicode",
            f"{what} holds a lone surrogate at character {error.start}: re-encode the input",
        ) from None
