"""What a chat model is asked to choose between: the wording, and what its choice means."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maskdpo_ray.annotation.annotators.judge import Choices
from maskdpo_ray.annotation.wording import (
    Templates,
    check_choices,
    check_wording,
    fill,
    our_file,
    read_templates,
)
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.records import ERROR_VERDICT


@dataclass(frozen=True)
class ChoiceWording:
    """A file of ``prompt`` and ``choices`` (a word for each) by language.

    Attributes:
        setting: names a file that replaces ours.
        ours: name of ours in ``package``.
        choices: what there is to choose between.
        shown: placeholders that the prompt has; it may have those of ``may_show``.
    """

    setting: str
    ours: str
    package: str
    choices: tuple[str, ...]
    shown: tuple[str, ...]
    may_show: tuple[str, ...] = ()

    def path(self, given: str | None = None) -> Path:
        """The file that ``read`` reads."""
        return Path(given) if given else our_file(self.ours, self.package)

    def read(self, given: str | None = None) -> Templates:
        """The wording, from a file or our own.

        Raises:
            UserError: a placeholder is missing, or the words do not stand for the choices one to
                one.
        """
        templates = read_templates(given, self.ours, self.package, self.setting)
        for language, template in templates.languages.items():
            place = f"{templates.file}: {language}"
            check_wording(template.get("prompt"), f"{place}.prompt", self.shown, self.may_show)
            check_choices(template.get("choices"), f"{place}.choices", self.choices)
        return templates


async def choose(model: Choices, template: Mapping, values: Mapping[str, str]) -> tuple[str, str]:
    """The choice of a model, or an error; and its reply, or why there is none.

    Args:
        values: what fills the prompt.
    """
    prompt = [{"role": "user", "content": fill(template["prompt"], values)}]
    meaning = {word: choice for choice, word in template["choices"].items()}
    try:
        reply = await model.reply(prompt, choices=list(meaning))
    except RequestRefused as error:
        return ERROR_VERDICT, str(error)
    if not reply.complete or reply.text not in meaning:  # a cut one may begin a longer word
        return ERROR_VERDICT, f"no choice: {reply.text}"
    return meaning[reply.text], reply.text
