"""The closed world of a run directory in an object store: actors anywhere reach what they read."""

import json
from pathlib import Path

import models

from maskdpo_ray.annotation.annotators.closed_world import read_facts
from maskdpo_ray.config import WorldConfig
from maskdpo_ray.identity import model_identity
from maskdpo_ray.storage import Folder
from maskdpo_ray.world import place
from maskdpo_ray.world.place import world_of

FACTS = {"Ada Lowick": {"occupation": "baker"}}


def build(command, **_) -> None:
    """In the place of the builder, which takes half a minute: the files that it leaves."""
    folder = Path(command[3])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "policy").exists():
        models.build_tiny_llama(folder / "policy")
    (folder / "facts.json").write_text(json.dumps(FACTS))
    (folder / "world.json").write_text(json.dumps({"seed": command[5]}))


def test_actors_find_policy_and_facts_behind_the_url(bucket, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(place.subprocess, "run", build)
    made = world_of(Folder(bucket), WorldConfig(small=True), 7)
    assert str(made.shared) == f"{bucket}/world/small-7"
    assert read_facts(made.shared) == FACTS
    assert model_identity(f"{made.shared}/policy") == model_identity(f"{made.built}/policy")

    def uploads() -> int:
        return sum(method in ("PUT", "POST") for method, *_ in s3.requests)

    before = uploads()
    world_of(Folder(bucket), WorldConfig(small=True), 7)
    assert uploads() == before, "a world that is there is not uploaded again"
