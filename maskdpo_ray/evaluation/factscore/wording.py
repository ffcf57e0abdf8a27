"""What fact writer and verifier are shown: one YAML file, checked before anybody is asked."""

from pathlib import Path
from typing import Any

from maskdpo_ray.annotation.wording import (
    Templates,
    check_apart,
    check_wording,
    our_file,
    read_templates,
)
from maskdpo_ray.errors import UserError

Wording = Templates  # of each language: what templates/factscore.yaml explains
KEYS = {"instruction", "sentence", "nothing", "demonstrations", "verification"}
PACKAGE, WORDING = "maskdpo_ray.evaluation.factscore", "factscore.yaml"  # ours
WORDS = ("supported", "not_supported")


def read_wording(path: str | None = None) -> Wording:
    """The wording from a user's file or our own.

    Raises:
        UserError: names the file and the entry that is missing or of no use.
    """
    wording = read_templates(path, WORDING, PACKAGE, "evaluation.factscore.templates")
    for language, of in wording.languages.items():
        place = f"{wording.file}: {language}"
        if unknown := sorted(set(of) - KEYS):
            raise UserError(f"{place}.{unknown[0]} is read by nothing: remove it")
        check_wording(of.get("instruction"), f"{place}.instruction", ())
        check_wording(of.get("sentence"), f"{place}.sentence", ("sentence",))
        check_wording(of.get("nothing"), f"{place}.nothing", ())
        _check_demonstrations(of.get("demonstrations"), f"{place}.demonstrations")
        _check_verification(of.get("verification"), f"{place}.verification")
    return wording


def wording_file(path: str | None = None) -> Path:
    """The file that ``read_wording`` reads."""
    return Path(path) if path else our_file(WORDING, PACKAGE)


def _check_demonstrations(demonstrations: Any, place: str) -> None:
    if not isinstance(demonstrations, list) or not demonstrations:
        raise UserError(f"{place} must list sentences with their facts")
    for number, shown in enumerate(demonstrations, start=1):
        entry = shown if isinstance(shown, dict) else {}
        sentence, facts = entry.get("sentence"), entry.get("facts")
        texts = isinstance(facts, list) and all(isinstance(f, str) and f.strip() for f in facts)
        if set(entry) != {"sentence", "facts"} or not isinstance(sentence, str) or not texts:
            raise UserError(f"{place}, number {number}: needs a sentence and a list of facts")


def _check_verification(verification: Any, place: str) -> None:
    if not isinstance(verification, dict) or set(verification) != {"prompt", *WORDS}:
        raise UserError(f"{place} must hold prompt, {', '.join(WORDS)}")
    check_wording(verification["prompt"], f"{place}.prompt", ("passages", "fact"), ("topic",))
    check_apart([verification[key] for key in WORDS], place)
