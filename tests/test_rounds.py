"""Two on-policy rounds through the graph on the miniature world, the second killed twice."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from maskdpo_ray.config import read_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.pipeline import VERBS
from maskdpo_ray.stages import Stages
from maskdpo_ray.training.batch_plan import global_batch

SMOKE = Path(__file__).parents[1] / "jobs" / "configs" / "smoke.yaml"
MAKING_PAIRS = ("sample", "annotate", "pair", "reference")


STEPS = 24  # enough of them to be killed in between


def settings(run_dir: Path, rounds: int, *more: str) -> list[str]:
    steps = [f"training.max_steps={STEPS}", "training.epochs=20"]
    small = ["data.limit=16", "resources.questions_per_block=2"]
    return [f"run_dir={run_dir}", f"rounds={rounds}", *small, *steps, *more]


def stages(run_dir: Path, rounds: int, *more: str) -> Stages:
    return Stages(read_config(SMOKE, settings(run_dir, rounds, *more)), rerun=True)


def lines(store) -> list[dict]:
    """What training logged, a line per step; the last may be cut by a kill."""
    if not store.folder.exists("metrics.jsonl"):
        return []
    found = store.folder.read("metrics.jsonl").splitlines(keepends=True)
    return [json.loads(line) for line in found if line.endswith(b"\n")]


def run_until(happened, run_dir: Path, log: Path) -> None:
    """`maskdpo run` of two rounds, its driver killed as soon as ``happened``."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "maskdpo_ray", "run", str(SMOKE), *settings(run_dir, 2), "--rerun"],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not happened():
        assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


@pytest.mark.usefixtures("ray_cluster")
def test_a_second_round_starts_from_the_first_and_leaves_it_alone(run_dir, tmp_path):
    one = stages(run_dir, rounds=1)
    for verb in (*MAKING_PAIRS, "train"):
        VERBS[verb](one)
    made = (path for path in run_dir.glob("*/*/*") if path.is_file())
    # A report adds to a manifest what was asked.
    first = {p: p.stat().st_mtime_ns for p in made if p.name != "manifest.json"}

    two = stages(run_dir, rounds=2)
    with pytest.raises(UserError, match="stage pair-mask_dpo is not finished"):
        VERBS["train"](two)
    start = two.start("mask_dpo", 2)
    assert start == one.trained("mask_dpo")
    sampled = Path(two.sample(start).store.folder.uri)
    run_until(lambda: len(list(sampled.glob("part-*"))) > 1, run_dir, tmp_path / "sampling.log")
    parts = {path: path.stat().st_mtime_ns for path in sampled.glob("part-*")}

    training = two.train("mask_dpo", 2)
    run_until(lambda: len(lines(training)) >= STEPS // 2, run_dir, tmp_path / "killed.log")
    before = lines(training)
    assert len(before) < STEPS
    VERBS["train"](two)
    again = lines(training)
    kept = [a["seconds"] == b["seconds"] for a, b in zip(before, again, strict=False)]
    assert len(again) == STEPS and kept.count(True) >= len(kept) - 4, "from the last checkpoint"
    assert {p: p.stat().st_mtime_ns for p in first} == first

    assert {path: path.stat().st_mtime_ns for path in parts} == parts, "sampled once"
    assert two.training_job("mask_dpo", 2).model.path == f"{one.train('mask_dpo').folder}/model"
    # The policy of a round is its own reference when it begins.
    for round in (1, 2):
        first_loss = lines(two.train("mask_dpo", round))[0]["loss"]
        assert first_loss == pytest.approx(0.6931472, abs=1e-5)
    assert two.trained("mask_dpo", 2).name == "mask_dpo-round2"

    def answers(store) -> dict[str, list[str]]:
        return {row["id"]: [c["response"] for c in row["candidates"]] for row in store.rows()}

    before, after = answers(two.sample().store), answers(two.sample(start).store)
    assert before.keys() == after.keys() and before != after
    models = {c["model"] for row in two.sample(start).store.rows() for c in row["candidates"]}
    assert models == {start.path}

    # With the first policy as reference, the second round begins where the first one came to.
    kept = stages(run_dir, 2, "rounds_reference=first")
    VERBS["reference"](kept)
    VERBS["train"](kept)
    assert kept.train("mask_dpo").key == two.train("mask_dpo").key
    (line, *_) = lines(kept.train("mask_dpo", 2))
    assert line["loss"] == pytest.approx(loss_at_first(kept, two, start), abs=1e-5)
    assert abs(line["loss"] - math.log(2)) > 1e-3


def loss_at_first(kept: Stages, moving: Stages, start) -> float:
    """DPO's loss of the first batch of a round, from the log-probabilities of the policy that the
    round starts from (which are its reference, if that moves) and of the first policy."""
    pairs = sorted(kept.pair(start).store.rows(), key=lambda pair: pair["id"])
    base, policy = (
        {row["id"]: row for row in made.reference(start).store.rows()} for made in (kept, moving)
    )
    settings = kept.config.training

    def reward(pair: dict, side: str) -> float:
        of = zip(
            pair[side]["weights"],
            policy[pair["digest"]][side],
            base[pair["digest"]][side],
            strict=True,
        )
        return settings.beta * sum(weight * (ours - first) for weight, ours, first in of)

    batch = global_batch(0, len(pairs), settings.batch_size, kept.config.seed)
    margins = [reward(pairs[n], "chosen") - reward(pairs[n], "rejected") for n in batch]
    return sum(math.log1p(math.exp(-margin)) for margin in margins) / len(batch)
