import json
from dataclasses import replace

import pytest

from maskdpo_ray.world import build
from maskdpo_ray.world.annotator import closed_world_verdict


@pytest.fixture
def quick(monkeypatch):
    """A miniature that is pre-trained for two steps."""
    policy = replace(build.SMALL.policy, steps=2, warmup_steps=1)
    monkeypatch.setattr(build, "SMALL", replace(build.SMALL, policy=policy))


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rows(folder, name: str) -> list[dict]:
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_world_is_complete(small_world):
    facts = json.loads((small_world / "facts.json").read_text(encoding="utf-8"))
    people = {
        name: {row["topic"] for row in rows(small_world, name)}
        for name in ("train", "validation", "test")
    }
    assert {name: len(topics) for name, topics in people.items()} == {
        "train": 12,
        "validation": 4,
        "test": 8,
    }
    assert set.union(*people.values()) == set(facts) and len(facts) == 24
    for row in rows(small_world, "test"):
        for sentence in row["document"].split(". "):
            sentence = sentence.rstrip(".") + "."
            assert closed_world_verdict(facts, row["topic"], sentence)[0] == "ok"
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (small_world / "policy").iterdir()
    }
    assert not list(small_world.rglob("*.unfinished"))


def test_a_finished_world_is_reused(tmp_path, quick):
    build.build_world(tmp_path, 1, small=True)
    before = files(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    lines = []
    build.build_world(tmp_path, 1, small=True, progress=lines.append)
    assert lines == [f"closed world of seed 1 is ready in {tmp_path}"]
    assert files(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_an_interrupted_world_is_built_again_the_same(tmp_path, quick, monkeypatch):
    build.build_world(tmp_path / "whole", 1, small=True)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "save_policy", killed)
        with pytest.raises(KeyboardInterrupt):
            build.build_world(tmp_path / "cut", 1, small=True)
    assert not (tmp_path / "cut" / "world.json").exists()
    (tmp_path / "cut" / "policy").mkdir()
    (tmp_path / "cut" / "policy" / "left_over").write_text("half a file")
    build.build_world(tmp_path / "cut", 1, small=True)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_world_of_another_seed_or_recipe_is_replaced(tmp_path, quick, monkeypatch):
    build.build_world(tmp_path, 1, small=True)
    first = files(tmp_path)
    build.build_world(tmp_path, 2, small=True)
    second = files(tmp_path)
    assert second["facts.json"] != first["facts.json"]
    assert second["policy/model.safetensors"] != first["policy/model.safetensors"]

    monkeypatch.setattr(build, "SMALL", replace(build.SMALL, test=6))
    build.build_world(tmp_path, 2, small=True)
    assert len(rows(tmp_path, "test")) == 3 * 6
    assert len(rows(tmp_path, "train")) == 3 * 14


def test_too_many_people_held_out_is_an_error():
    with pytest.raises(ValueError, match="leave nobody"):
        replace(build.SMALL, test=20)
