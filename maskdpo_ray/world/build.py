"""Build a closed world into a folder, once.

    policy/            the pre-trained policy, a Hugging Face folder
    facts.json         full name -> kind of fact -> true value
    train.jsonl        questions about the people that alignment learns from
    validation.jsonl   questions about people to choose settings on
    test.jsonl         questions about people to report on
    world.json         what it was built from; written last, so it marks a finished world

The policy has read about all people; alignment sees those of ``train.jsonl`` alone.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random

from maskdpo_ray.world.facts import Person, make_people, questions
from maskdpo_ray.world.policy import (
    PolicySettings,
    encyclopedia,
    pretrain,
    save_policy,
    train_tokenizer,
)

TOKENIZER_PAGES = 5_000  # pages that the tokenizer learns its merges from


@dataclass(frozen=True)
class WorldSettings:
    """Size of a world. People who are neither validation nor test people are for alignment."""

    people: int = 400
    validation: int = 40
    test: int = 80
    policy: PolicySettings = PolicySettings()

    def __post_init__(self) -> None:
        if self.validation + self.test >= self.people:
            raise ValueError(
                f"{self.validation} validation and {self.test} test people leave nobody of "
                f"{self.people} people to align on; hold out fewer"
            )


FULL = WorldSettings()
SMALL = WorldSettings(
    people=24,
    validation=4,
    test=8,
    policy=PolicySettings(
        vocabulary=600,
        hidden=64,
        layers=2,
        heads=2,
        steps=300,
        batch=16,
        learning_rate=5e-3,
    ),
)


def stands(folder: Path, seed: int, small: bool) -> bool:
    """Whether this very world lies in ``folder``, whole."""
    marker = folder / "world.json"
    recipe = recipe_of(SMALL if small else FULL, seed)
    return marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == recipe


def build_world(
    folder: str | Path,
    seed: int,
    *,
    small: bool = False,
    progress: Callable[[str], None] = print,
) -> None:
    """Write the world of this seed into ``folder``; return at once when it stands there already.

    A world of other settings, another seed or other library versions is replaced, and so is one
    whose building was interrupted.

    Args:
        small: a miniature for tests, of the same code, in a few seconds; its policy knows little.
        progress: called with one line per report of the pre-training.
    """
    settings = SMALL if small else FULL
    folder = Path(folder)
    marker = folder / "world.json"
    if stands(folder, seed, small):
        progress(f"closed world of seed {seed} is ready in {folder}")
        return
    recipe = recipe_of(settings, seed)  # of the code that builds it, whatever changes meanwhile
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    shutil.rmtree(folder / "policy", ignore_errors=True)

    people = make_people(settings.people, seed)
    write_text(folder / "facts.json", json.dumps({p.name: p.facts for p in people}, indent=1))
    for name, part in split_people(people, settings, seed).items():
        rows = [json.dumps(row) + "\n" for person in part for row in questions(person)]
        write_text(folder / f"{name}.jsonl", "".join(rows))

    build_policy(folder / "policy", people, settings.policy, seed, progress)
    write_text(marker, json.dumps(recipe, indent=1))


def build_policy(
    folder: Path,
    people: list[Person],
    settings: PolicySettings,
    seed: int,
    progress: Callable[[str], None],
) -> None:
    """Pre-train a policy on the encyclopedia of this seed about ``people``, into ``folder``."""
    pages = islice(encyclopedia(people, seed), TOKENIZER_PAGES)
    tokenizer = train_tokenizer((text for page in pages for text in page), settings)
    model = pretrain(tokenizer, encyclopedia(people, seed), settings, seed, progress)
    save_policy(model, tokenizer, folder, settings.context)


def split_people(
    people: list[Person], settings: WorldSettings, seed: int
) -> dict[str, list[Person]]:
    """Each person into one of ``train``, ``validation``, ``test``."""
    shuffled = Random(f"split {seed}").sample(people, len(people))
    held_out = settings.validation + settings.test
    return {
        "validation": shuffled[: settings.validation],
        "test": shuffled[settings.validation : held_out],
        "train": shuffled[held_out:],
    }


def recipe_of(settings: WorldSettings, seed: int) -> dict:
    """Everything that the files of a world depend on, as JSON gives it back."""
    here = Path(__file__).parent
    sources = b"".join((here / name).read_bytes() for name in ("facts.py", "policy.py", "build.py"))
    return {
        "seed": seed,
        "settings": asdict(settings),
        "versions": {name: version(name) for name in ("tokenizers", "torch", "transformers")},
        "code": hashlib.sha256(sources).hexdigest(),
    }


def write_text(path: Path, text: str) -> None:
    """Write whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
