"""The command line that experiments share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "paper.yaml"
JOB = """
from pathlib import Path

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.results import Result


def check(lab, word, rates):
    if word == "missing":
        raise UserError("something is missing")


def experiment(lab, word, rates):
    if "fails" in word and lab.seeds == [1]:
        raise UserError("seed 1 has had enough")
    with open(Path(str(lab.folder)) / "calls", "a") as calls:
        calls.write(f"{lab.seeds} {lab.read(0).training.epochs} {word} {rates}\\n")
    claim = {"table": 1, "claim": "a", "verdict": "reproduced", "paper": "not told"}
    return Result("table1", "A table", [["seeds"], [str(lab.seeds)]], {}, [claim], "<svg/>")


if __name__ == "__main__":
    options = {
        "word": {"default": "none"}, "rates": {"type": float, "nargs": "+", "default": [0.5]}
    }
    run_job("What it does.", Experiment(experiment, options, check), claims="claims.json")
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "runs").mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, tmp_path / "job.py", CONFIG, "--runs", tmp_path / "runs"]
        # Of a cluster that these experiments never ask for anything.
        environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environment, check=False
        )

    return run


def test_seeds_side_by_side_are_put_together(job, tmp_path):
    done = job("--seeds", "3", "1", "--at-once", "2", "--word", "w", "training.epochs=7")
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "runs"
    *seeds, together = (runs / "calls").read_text().splitlines()
    assert sorted(seeds) == ["[1] 7 w [0.5]", "[3] 7 w [0.5]"]
    assert together == "[3, 1] 7 w [0.5]"
    assert json.loads((runs / "table1.json").read_text())["rows"] == [["seeds"], ["[3, 1]"]]
    assert len(json.loads((runs / "claims.json").read_text())) == 1
    assert "A table" in (runs / "together.log").read_text()
    where, *ends = done.stderr.splitlines()
    assert where == f"seeds 3, 1, 2 at once: {runs}/seed-*.log"
    assert {"seed 3 done", "seed 1 done"} == {line.partition(" after")[0] for line in ends}
    assert done.stdout.count("A table") == 1
    assert f"1 without one: 1 reproduced\n{runs}/claims.json" in done.stdout


def test_a_seed_that_fails_ends_the_job_with_where_to_look(job, tmp_path):
    done = job("--seeds", "0", "1", "--at-once", "2", "--word", "fails")
    assert done.returncode == 2
    assert "these did not come to their end: 1; their words are in" in done.stderr
    assert "seed 1 has had enough" in (tmp_path / "runs" / "seed-1.log").read_text()
    assert not (tmp_path / "runs" / "claims.json").exists()


def test_settings_must_be_settings(job):
    done = job("--sedes", "0")
    assert done.returncode == 2
    assert "unrecognized arguments: --sedes 0" in done.stderr


@pytest.mark.parametrize("at_once", ["1", "2"])
def test_settings_may_stand_behind_options_of_several_values(job, tmp_path, at_once):
    """Nor does a process of one seed lose them."""
    done = job(
        "--at-once", at_once, "--rates", "0.1", "0.2", "training.epochs=7", "--seeds", "0", "1",
        "training.beta=0.2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, together = (tmp_path / "runs" / "calls").read_text().splitlines()
    assert together == "[0, 1] 7 none [0.1, 0.2]"
    assert {line[-15:] for line in (tmp_path / "runs" / "calls").read_text().splitlines()} == {
        "none [0.1, 0.2]"
    }


def test_a_number_that_is_none_is_told(job):
    done = job("--rates", "0.1", "many")
    assert done.returncode == 2
    assert "argument --rates: invalid float value: 'many'" in done.stderr


def test_what_is_missing_is_told_before_anything_runs(job, tmp_path):
    done = job("--word", "missing", "--at-once", "2")
    assert (done.returncode, done.stderr) == (2, "job.py: something is missing\n")
    assert not list((tmp_path / "runs").iterdir())


def test_one_training_does_not_count_twice(job, tmp_path):
    done = job("--seeds", "0", "1", "0")
    assert done.returncode == 2
    assert "--seeds: one stands twice" in done.stderr
    assert not list((tmp_path / "runs").iterdir())
