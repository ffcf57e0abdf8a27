"""jobs/clusters/slurm.sh: Slurm's commands are played; Ray's nodes and the exit codes are real."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from maskdpo_ray.config import read_config

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "jobs/clusters/slurm.sh"

# srun starts the task here, whichever node it is meant for, and notes for which.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1"; shift; done >> "$NOTES"
exec "$@"
"""
SCONTROL = """#!/bin/bash
printf 'a1\\na2\\n'
"""
DRIVER = """
import json, sys, ray
ray.init(log_to_driver=False, logging_level="error")
alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
cpus = sorted(int(resources["CPU"]) for resources in alive)
print(json.dumps({"cpus": cpus, "arguments": sys.argv[1:]}), flush=True)
sys.exit(7)
"""


def test_bash_reads_it():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_the_documented_runs_are_valid_and_name_no_groups():
    text = (REPOSITORY / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    runs = re.findall(r"^sbatch (.*)", text, re.M)
    assert len(runs) == 2
    for run in runs:
        options, arguments = run.split("jobs/clusters/slurm.sh")
        (nodes,) = re.findall(r"--nodes=(\d+)", options)
        (gpus,) = re.findall(r"--gpus-per-node=(\d+)", options) or re.findall(
            r"^#SBATCH --gpus-per-node=(\d+)", SCRIPT.read_text(), re.M
        )
        path, *overrides = shlex.split(arguments)
        resources = read_config(REPOSITORY / path, overrides).resources
        assert not resources.autoscale
        engines = [resources.sampler, resources.annotator, resources.reference]
        assert not any(pool.resources for pool in (*engines, resources.training))
        together = sum(pool.size[1] * pool.gpus for pool in engines[:2])
        assert together <= int(nodes) * int(gpus)
        assert engines[2].size[1] * engines[2].gpus <= int(nodes) * int(gpus)
        assert resources.training.size[1] * resources.training.gpus <= int(nodes) * int(gpus)


@pytest.fixture
def allocation(tmp_path):
    """Environment of a batch script on the first of two nodes with 3 CPUs each."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(text)
        command.chmod(0o755)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/pipeline.py").write_text(DRIVER)
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    # Short: Ray puts its sockets there, whose names have a limit.
    with tempfile.TemporaryDirectory(prefix="slurm") as own:
        yield {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "NOTES": str(tmp_path / "notes"),
            "RAY_TMPDIR": own,
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "a[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_ON_NODE": "3",
        }


def test_the_driver_meets_every_node_and_its_exit_code_is_the_jobs(allocation, tmp_path):
    arguments = ["a.yaml", "resources.x={train: 1}"]
    job = subprocess.Popen(
        ["bash", SCRIPT, *arguments],
        env=allocation,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = job.communicate(timeout=240)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGTERM)
    assert job.returncode == 7, printed
    assert '{"cpus": [3, 3], "arguments": ["a.yaml", "resources.x={train: 1}"]}' in printed
    tasks = re.findall(
        r"--nodes=1\n--ntasks=1\n--nodelist=(.*)\n", Path(tmp_path / "notes").read_text()
    )
    assert tasks == ["a1", "a2"]
    for _ in range(20):
        left = processes_of(allocation["RAY_TMPDIR"])
        if not left:
            break
        time.sleep(0.5)
    assert not left, "Ray goes on after the job"


def processes_of(folder: str) -> list[str]:
    """Command lines that name a folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if folder in line:
            lines.append(line)
    return lines
