"""``ray job submit`` against a Ray head started on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address of a Ray head's job server; the head is stopped by its process group."""
    gcs, dashboard = free_port(), free_port()
    temp = tmp_path_factory.mktemp("ray")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"OMP_NUM_THREADS": "1"}
    ray = subprocess.Popen(
        [BIN / "ray", "start", "--head", "--block", f"--port={gcs}", "--num-cpus=16",
         f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--disable-usage-stats",
         f"--object-store-memory={200 * 2**20}", f"--temp-dir=/tmp/rayjobs-{os.getpid()}"],
        stdout=open(temp / "head.log", "w"), stderr=subprocess.STDOUT,
        env=environment, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 90
    while True:
        listed = subprocess.run(
            [BIN / "ray", "job", "list", "--address", address], capture_output=True, check=False
        )
        if listed.returncode == 0:
            break
        assert ray.poll() is None and time.monotonic() < deadline, (temp / "head.log").read_text()
        time.sleep(0.5)
    yield address
    os.killpg(ray.pid, signal.SIGTERM)
    ray.wait(timeout=60)


def submit(address: str, *entrypoint: str) -> tuple[int, str, str]:
    """Exit code of ``ray job submit``, final status of the job, and everything it printed."""
    name = f"test-{time.monotonic_ns()}"
    done = subprocess.run(
        [BIN / "ray", "job", "submit", "--address", address, "--submission-id", name,
         "--working-dir", str(REPOSITORY), "--", sys.executable, *entrypoint],
        capture_output=True, text=True, check=False, env=os.environ | {"RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "0"},
    )  # fmt: skip
    status = subprocess.run(
        [BIN / "ray", "job", "status", "--address", address, name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, status.stdout + status.stderr, done.stdout + done.stderr


def test_the_pipeline_runs_as_a_job(head, tmp_path):
    code, status, printed = submit(
        head, "jobs/pipeline.py", "jobs/configs/smoke.yaml", f"run_dir={tmp_path}/run"
    )
    assert code == 0, printed
    assert "SUCCEEDED" in status
    assert (tmp_path / "run" / "report.json").is_file()
    assert "mask_dpo" in printed


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sampling.candidates=1", "run_dir=/tmp/x"], "a preference pair needs a best and a worst"),
        (["run_dir=runs/x"], "give an absolute path or a URL"),
    ],
)
def test_a_bad_configuration_fails_the_job_with_its_reason(head, overrides, words):
    code, status, printed = submit(head, "jobs/pipeline.py", "jobs/configs/smoke.yaml", *overrides)
    assert code != 0
    assert "FAILED" in status
    assert words in printed
