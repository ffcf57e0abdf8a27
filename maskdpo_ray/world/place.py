"""Where a run keeps its closed world: beside it, and on this machine where it was built."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from maskdpo_ray.config import WorldConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.model_files import cache_folder
from maskdpo_ray.storage import Folder
from maskdpo_ray.world.build import stands


@dataclass(frozen=True)
class WorldPlace:
    """``built`` is a local folder that the driver reads; all nodes reach ``shared``."""

    built: Path
    shared: Folder


def world_of(run: Folder, world: WorldConfig, run_seed: int, build: bool = True) -> WorldPlace:
    """Build the world of a run, or take the one that stands there.

    A run directory in an object store gets a copy: the questions are read by the driver alone, the
    policy and the facts by actors on any node.

    Raises:
        UserError: there is none yet, and it is not to be built.
    """
    seed = run_seed if world.seed is None else world.seed
    name = f"{'small' if world.small else 'full'}-{seed}"
    shared = run / "world" / name
    built = Path(shared.uri) if run.is_local else cache_folder().parent / "worlds" / name
    if not build:
        if not (built / "world.json").is_file():
            raise UserError(f"{run}: the closed world is not there yet")
        return WorldPlace(built, shared)
    if not stands(built, seed, world.small):
        # A process of its own gives the cores back to the engines when it is done.
        command = [sys.executable, "-m", "maskdpo_ray.world", str(built), "--seed", str(seed)]
        own = {"DS_ACCELERATOR": "cpu", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        subprocess.run(command + ["--small"] * world.small, check=True, env={**os.environ, **own})
    if not run.is_local:
        _upload(built, shared)
    return WorldPlace(built, shared)


def world_knowledge(place: WorldPlace, build: bool = True) -> str:
    """Address of the world's database of pages: each person's document under the person's name.

    It is made when it is first asked for, and named by its content.
    """
    from maskdpo_ray.knowledge.database import write_pages

    pages = sorted(_pages(place.built).items())
    name = f"knowledge-{hashlib.sha256(json.dumps(pages).encode()).hexdigest()[:16]}.db"
    file = place.built / name
    if build and not file.exists():
        write_pages(file, pages, Counter(), search=False)  # every topic has its page
    if build and not place.shared.is_local and not place.shared.exists(name):
        place.shared.write(name, file.read_bytes())
    return f"{place.shared}/{name}"


def _pages(built: Path) -> dict[str, str]:
    pages = {}
    for name in ("train", "validation", "test"):
        lines = (built / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        pages |= {row["topic"]: row["document"] for row in map(json.loads, lines)}
    return pages


def _upload(built: Path, shared: Folder) -> None:
    """Copy what actors read. The recipe, which the builder writes last, goes last here too."""
    recipe = (built / "world.json").read_bytes()
    if shared.exists("world.json") and shared.read("world.json") == recipe:
        return
    policy = shared / "policy"
    for file in sorted((built / "policy").iterdir()):
        policy.write(file.name, file.read_bytes())
    shared.write("facts.json", (built / "facts.json").read_bytes())
    shared.write("world.json", recipe)
