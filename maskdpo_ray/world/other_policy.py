"""A second policy of a closed world, pre-trained on another printing of its encyclopedia.

It knows the same people, has made its errors elsewhere, and writes in the same wordings: another
model whose answers can be set beside the policy's.

    python -m maskdpo_ray.world.other_policy WORLD
"""

import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

from maskdpo_ray.world.build import TOKENIZER_PAGES
from maskdpo_ray.world.facts import make_people
from maskdpo_ray.world.policy import (
    PolicySettings,
    encyclopedia,
    pretrain,
    save_policy,
    train_tokenizer,
)

APART = 1_000_000  # between the seeds of the two printings


def build_other_policy(world: Path) -> Path:
    """Its folder in the world's, pre-trained first if need be."""
    folder = world / "other-policy"
    if not folder.exists():
        # A process of its own gives the cores back to the engines when it is done.
        subprocess.run([sys.executable, "-m", __name__, str(world)], check=True)
    return folder


def main(world: Path) -> None:
    recipe = json.loads((world / "world.json").read_text(encoding="utf-8"))
    settings = PolicySettings(**recipe["settings"]["policy"])
    people = make_people(recipe["settings"]["people"], recipe["seed"])
    seed = recipe["seed"] + APART
    pages = islice(encyclopedia(people, seed), TOKENIZER_PAGES)
    tokenizer = train_tokenizer((text for page in pages for text in page), settings)
    model = pretrain(tokenizer, encyclopedia(people, seed), settings, seed, print)
    unfinished = world / "other-policy.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    save_policy(model, tokenizer, unfinished, settings.context)
    unfinished.rename(world / "other-policy")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
