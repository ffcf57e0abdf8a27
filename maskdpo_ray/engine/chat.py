"""Prompts, and the way back from token ids to text.

Sampling, the reference, training and evaluation all build their prompts here, so that the policy
is trained on exactly the ids it was sampled from (docs/design.md, contract 1).
"""

from pathlib import Path
from typing import Any

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.errors import RowRejected, UserError, first_line
from maskdpo_ray.imports import lasting_imports
from maskdpo_ray.model_files import local_folder

Messages = list[dict[str, str]]  # {"role": "system" | "user" | "assistant", "content": text}

# Templates of the Llama 3 family write today's date into the prompt unless they are given one.
# A run that lasts over midnight, or is resumed another day, must build the same prompts.
DATE = "26 Jul 2024"


def load_tokenizer(model: ModelConfig) -> Any:
    """The policy's tokenizer. Errors as ``open_tokenizer``."""
    if model.path is None:
        raise UserError("model.path is missing: a local folder or a hub id")
    return open_tokenizer(model.path, model.revision, model.chat_template, model.trust_remote_code)


def open_tokenizer(
    path: str,
    revision: str | None = None,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A Hugging Face tokenizer.

    Args:
        path: local folder, folder in an object store, or hub id.
        chat_template: file with a Jinja template that replaces the tokenizer's own.

    Raises:
        UserError: the model cannot be reached, has no usable tokenizer, or the template is
            missing or broken.
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
        prompt_token_ids(tokenizer, "?")
    return tokenizer


def prompt_token_ids(
    tokenizer: Any, question: str, *, system_prompt: str | None = None
) -> list[int]:
    """The ids that a question becomes, up to the point where the assistant begins to speak.

    Raises:
        UserError: the tokenizer has no chat template, or the template fails.
        RowRejected: ``not_unicode``, the question holds a lone surrogate.
    """
    asked = conversation([{"role": "user", "content": question}], system_prompt)
    return chat_token_ids(tokenizer, asked)


def conversation(messages: Messages, system_prompt: str | None) -> Messages:
    """The messages, behind the policy's system prompt unless they bring one of their own."""
    if not system_prompt or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def chat_token_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """The ids of a conversation and the header of the reply to come. Errors as above."""
    return tokenizer.encode(chat_text(tokenizer, messages), add_special_tokens=False)


def chat_text(tokenizer: Any, messages: Messages) -> str:
    """A conversation and the header of the reply to come, as text. Errors as above."""
    return _render(tokenizer, messages, reply=True)


def end_of_turn_id(tokenizer: Any) -> int:
    """The token that ends an assistant's turn.

    It is the special token that the chat template writes right after an assistant's text (Llama 3:
    ``<|eot_id|>``); where the template writes none there, the tokenizer's end of sequence.

    Raises:
        UserError: there is neither.
    """
    text = "maskdpo"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]
    closing = _render(tokenizer, messages, reply=False).rpartition(text)[2]
    ids = tokenizer.encode(closing, add_special_tokens=False)
    if ids and ids[0] in _special_ids(tokenizer):
        return ids[0]
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end of turn: give its chat_template one")
    return tokenizer.eos_token_id


def response_text(tokenizer: Any, token_ids: list[int]) -> str:
    """The text of a response: special tokens left out, nothing cleaned up."""
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def check_unicode(text: str, what: str) -> None:
    """Raise ``RowRejected`` when ``text`` cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowRejected(
            "not_unicode",
            f"{what} holds a lone surrogate at character {error.start}: re-encode the input",
        ) from None


def _render(tokenizer: Any, messages: Messages, *, reply: bool) -> str:
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: "
            "set chat_template in the model's section to a file with one"
        )
    import jinja2

    for message in messages:
        check_unicode(message["content"], f"the {message['role']}'s text")
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=reply, date_string=DATE
        )
    except jinja2.TemplateError as error:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} fails: {first_line(error)}; "
            "correct it or set chat_template in the model's section"
        ) from None


def _special_ids(tokenizer: Any) -> set[int]:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)
