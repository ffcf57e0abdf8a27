"""Prompts, and the way back from token ids to text.

Sampling and evaluation build their prompts here. The ids that candidates were sampled from are
stored with them and used by all that comes after, so that the policy is trained on exactly the ids
it was sampled from (docs/design.md, contract 1).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.engine.template import (
    NO_KWARGS,
    Messages,
    TemplateKwargs,
    check_template,
    check_unicode,
    render,
)
from maskdpo_ray.engine.user_text import Disguise
from maskdpo_ray.engine.vocabulary import control_tokens
from maskdpo_ray.errors import UserError, first_line
from maskdpo_ray.imports import lasting_imports
from maskdpo_ray.model_files import local_folder

__all__ = ["Messages", "check_unicode"]


def load_tokenizer(model: ModelConfig) -> Any:
    """The policy's tokenizer. Errors as ``open_tokenizer``."""
    if model.path is None:
        raise UserError("model.path is missing: a local folder or a hub id")
    return open_tokenizer(
        model.path,
        model.revision,
        model.chat_template,
        model.trust_remote_code,
        model.chat_template_kwargs,
        system=bool(model.system_prompt),
    )


def open_tokenizer(
    path: str,
    revision: str | None = None,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
    template_kwargs: TemplateKwargs = NO_KWARGS,
    *,
    system: bool = False,
    turns: bool = False,
) -> Any:
    """A Hugging Face tokenizer, its chat template tried out.

    Args:
        path: local folder, folder in an object store, or hub id.
        chat_template: file with a Jinja template that replaces the tokenizer's own.
        template_kwargs, system, turns: what the run asks of the template (``check_template``).

    Raises:
        UserError: the model cannot be reached, has no usable tokenizer, or the template is
            missing, broken or loses what it is given.
    """
    with lasting_imports():
        from transformers import AutoTokenizer

    path = local_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    # Transformers answers a wrong path or a broken tokenizer with any of these.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
        raise UserError(f"no tokenizer at {path!r}: {first_line(error)}") from None
    if not len(tokenizer):
        raise UserError(f"no tokenizer at {path!r}: its vocabulary is empty; check the path")
    if chat_template is not None:
        file = Path(chat_template)
        if not file.is_file():
            raise UserError(f"chat_template: no file at {chat_template}")
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    if tokenizer.chat_template is not None:
        check_template(tokenizer, template_kwargs, system=system, turns=turns)
    return tokenizer


def prompt_token_ids(
    tokenizer: Any,
    question: str,
    *,
    system_prompt: str | None = None,
    template_kwargs: TemplateKwargs = NO_KWARGS,
) -> list[int]:
    """The ids that a question becomes, up to the point where the assistant begins to speak.

    Raises:
        UserError: the tokenizer has no chat template, or the template fails.
        RowRejected: ``not_unicode``, the question holds a lone surrogate; ``control_token``, it
            spells one that this tokenizer cannot encode as text.
    """
    asked = conversation([{"role": "user", "content": question}], system_prompt)
    return chat_token_ids(tokenizer, asked, template_kwargs)


def conversation(messages: Messages, system_prompt: str | None) -> Messages:
    """The messages, behind the policy's system prompt unless they bring one of their own."""
    if not system_prompt or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def chat_token_ids(
    tokenizer: Any,
    messages: Messages,
    template_kwargs: TemplateKwargs = NO_KWARGS,
    encode: Callable[[str], list[int]] | None = None,
) -> list[int]:
    """The ids of a conversation and the header of the reply to come. Errors as above.

    Args:
        encode: a faster way to the tokenizer's ids of a text.
    """
    disguise = Disguise(tokenizer, messages)
    rendered = chat_text(tokenizer, disguise.applied(messages), template_kwargs)
    if disguise:
        return disguise.encode(rendered)
    return encode(rendered) if encode else tokenizer.encode(rendered, add_special_tokens=False)


def chat_text(
    tokenizer: Any, messages: Messages, template_kwargs: TemplateKwargs = NO_KWARGS
) -> str:
    """A conversation and the header of the reply to come, as text. Errors as above."""
    return render(tokenizer, messages, reply=True, template_kwargs=template_kwargs)


def end_of_turn_id(tokenizer: Any, template_kwargs: TemplateKwargs = NO_KWARGS) -> int:
    """The token that ends an assistant's turn.

    It is the first control token that the chat template writes after an assistant's text (Llama 3:
    ``<|eot_id|>``), wherever it stands there (a line end may come before it); where the template
    writes none, the tokenizer's end of sequence.

    Raises:
        UserError: there is neither.
    """
    text = "maskdpo"
    asked, said = {"role": "user", "content": "?"}, {"role": "assistant", "content": text}
    how = {"reply": False, "template_kwargs": template_kwargs}
    try:
        rendered = render(tokenizer, [asked, said], **how)
    except UserError:  # a template that wants the last word to be the user's
        rendered = render(tokenizer, [asked, said, asked], **how)
    closing = rendered.rpartition(text)[2]
    control = set(control_tokens(tokenizer).values())
    for token_id in tokenizer.encode(closing, add_special_tokens=False):
        if token_id in control:
            return token_id
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end of turn: give its chat_template one")
    return tokenizer.eos_token_id


def answer_token_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text as an answer, without the end of turn: such that decode to it, where there are
    some. SentencePiece's decoder drops a space in front, which its encoder adds to a text that has
    none: one more gives it back."""
    for given in (text, f" {text}"):
        ids = tokenizer.encode(given, add_special_tokens=False)
        if response_text(tokenizer, ids) == text:
            return ids
    return tokenizer.encode(text, add_special_tokens=False)


def response_text(tokenizer: Any, token_ids: list[int]) -> str:
    """The text of a response: special tokens left out, nothing cleaned up."""
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
