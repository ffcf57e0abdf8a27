"""``ray job submit`` against a Ray head started on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
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
    """Runs a command against a Ray head of its own; the head is stopped by its process group."""
    temp = tmp_path_factory.mktemp("ray")
    (temp / "token").write_text(uuid.uuid4().hex)
    gcs, dashboard, agent = free_port(), free_port(), free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # A token of our own: installations differ in whether they ask for one.
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(temp / "token")}
    ray = subprocess.Popen(
        [BIN / "ray", "start", "--head", "--block", f"--port={gcs}", "--num-cpus=16",
         f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--disable-usage-stats",
         f"--dashboard-agent-listen-port={agent}",
         f"--object-store-memory={200 * 2**20}", f"--temp-dir=/tmp/maskdpo-{os.getpid()}"],
        stdout=open(temp / "head.log", "w"), stderr=subprocess.STDOUT,
        env=environment, start_new_session=True,
    )  # fmt: skip
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"

    def command(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [BIN / "ray", "job", *arguments],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip

    try:
        deadline = time.monotonic() + 90
        while (listed := command("list")).returncode != 0:
            log = (temp / "head.log").read_text() + listed.stderr
            assert ray.poll() is None and time.monotonic() < deadline, log
            time.sleep(0.5)
        yield command
    finally:
        os.killpg(ray.pid, signal.SIGTERM)
        ray.wait(timeout=60)


def submit(head, *entrypoint: str) -> tuple[int, str, str]:
    """Exit code of ``ray job submit``, final status of the job, and everything it printed."""
    name = f"test-{time.monotonic_ns()}"
    done = head(
        "submit", "--submission-id", name, "--working-dir", str(REPOSITORY),
        "--", sys.executable, *entrypoint,
    )  # fmt: skip
    status = head("status", name)
    return done.returncode, status.stdout + status.stderr, done.stdout + done.stderr


def test_the_pipeline_runs_as_a_job(head, tmp_path):
    code, status, printed = submit(
        head, "jobs/pipeline.py", "jobs/configs/smoke.yaml", f"run_dir={tmp_path}/run"
    )
    assert code == 0, printed
    assert "succeeded" in status
    assert (tmp_path / "run" / "report.json").is_file()
    assert "mask_dpo" in printed
    for script, words in (("evaluate", "greedy"), ("best_of_n", "macro")):
        code, _, printed = submit(head, f"jobs/{script}.py", f"{tmp_path}/run")
        assert code == 0 and words in printed, printed


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
    assert "failed" in status
    assert words in printed
