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
from maskdpo_ray.experiments.job import run_job
from maskdpo_ray.experiments.results import Result


def experiment(lab, word):
    if "fails" in word and lab.seeds == [1]:
        raise UserError("seed 1 has had enough")
    with open(Path(str(lab.folder)) / "calls", "a") as calls:
        calls.write(f"{lab.seeds} {lab.read(0).training.epochs} {word}\\n")
    claim = {"table": 1, "claim": "a", "verdict": "reproduced"}
    return Result("table1", "A table", [["seeds"], [str(lab.seeds)]], {}, [claim], "<svg/>")


if __name__ == "__main__":
    run_job("What it does.", experiment, claims="claims.json", word={"default": "none"})
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
    assert sorted(seeds) == ["[1] 7 w", "[3] 7 w"]
    assert together == "[3, 1] 7 w"
    assert json.loads((runs / "table1.json").read_text())["rows"] == [["seeds"], ["[3, 1]"]]
    assert len(json.loads((runs / "claims.json").read_text())) == 1
    assert "A table" in (runs / "together.log").read_text()
    assert {"seed 3 done", "seed 1 done"} == {
        line.partition(" after")[0] for line in done.stderr.splitlines()
    }
    assert done.stdout.count("A table") == 1


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
