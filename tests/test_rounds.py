"""Two on-policy rounds through the graph, stage by stage, on the miniature world."""

import json
from pathlib import Path

import pytest

from maskdpo_ray.config import read_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.pipeline import VERBS
from maskdpo_ray.stages import Stages

SMOKE = Path(__file__).parents[1] / "jobs" / "configs" / "smoke.yaml"
MAKING_PAIRS = ("sample", "annotate", "pair", "reference")


def stages(run_dir: Path, rounds: int) -> Stages:
    settings = [f"run_dir={run_dir}", f"rounds={rounds}", "data.limit=16", "training.epochs=3"]
    return Stages(read_config(SMOKE, settings), rerun=True)


def losses(store) -> list[float]:
    return [json.loads(line)["loss"] for line in store.folder.read("metrics.jsonl").splitlines()]


@pytest.mark.usefixtures("ray_cluster")
def test_a_second_round_starts_from_the_first_and_leaves_it_alone(run_dir):
    one = stages(run_dir, rounds=1)
    for verb in (*MAKING_PAIRS, "train"):
        VERBS[verb](one)
    first = {p: p.stat().st_mtime_ns for p in run_dir.glob("*/*/*") if p.is_file()}

    two = stages(run_dir, rounds=2)
    with pytest.raises(UserError, match="stage pair-mask_dpo is not finished"):
        VERBS["train"](two)
    for verb in (*MAKING_PAIRS, "train"):
        VERBS[verb](two)
    assert {p: p.stat().st_mtime_ns for p in first} == first

    start = two.start("mask_dpo", 2)
    assert start == one.trained("mask_dpo")
    assert two.training_job("mask_dpo", 2).model.path == f"{one.train('mask_dpo').folder}/model"
    # The policy of a round is its own reference when it begins.
    for round in (1, 2):
        assert losses(two.train("mask_dpo", round))[0] == pytest.approx(0.6931472, abs=1e-5)
    assert two.trained("mask_dpo", 2).name == "mask_dpo-round2"

    def answers(store) -> dict[str, list[str]]:
        return {row["id"]: [c["response"] for c in row["candidates"]] for row in store.rows()}

    before, after = answers(two.sample().store), answers(two.sample(start).store)
    assert before.keys() == after.keys() and before != after
    models = {c["model"] for row in two.sample(start).store.rows() for c in row["candidates"]}
    assert models == {start.path}
