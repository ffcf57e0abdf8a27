"""A second policy of a closed world, pre-trained on another printing of its encyclopedia.

It knows the same people, has made its errors elsewhere, and writes in the same wordings: another
model whose answers can be set beside the policy's.

    python -m maskdpo_ray.world.other_policy WORLD FOLDER
"""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from maskdpo_ray.world.build import build_policy
from maskdpo_ray.world.facts import make_people
from maskdpo_ray.world.policy import PolicySettings

APART = 1_000_000  # between the seeds of the two printings


def build_other_policy(world: Path) -> Path:
    """Its folder in the world's, pre-trained first if need be; a world built anew has a new one."""
    recipe = hashlib.sha256((world / "world.json").read_bytes()).hexdigest()[:16]
    folder = world / f"other-policy-{recipe}"
    if not folder.exists():
        # A process of its own gives the cores back to the engines when it is done.
        subprocess.run([sys.executable, "-m", __name__, str(world), str(folder)], check=True)
    return folder


def main(world: Path, folder: Path) -> None:
    recipe = json.loads((world / "world.json").read_text(encoding="utf-8"))
    people = make_people(recipe["settings"]["people"], recipe["seed"])
    settings = PolicySettings(**recipe["settings"]["policy"])
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    build_policy(unfinished, people, settings, recipe["seed"] + APART, print)
    unfinished.rename(folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
