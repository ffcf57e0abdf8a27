"""A Ray head that takes jobs, as people start one: ``ray start --head``, ``ray job submit``."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PATIENCE = 120  # seconds until the head must answer
ATTEMPTS = 3  # Ray gives its own processes 15 s to start, which a busy machine may exceed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Head:
    """``environment`` is that of a driver that connects to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def job(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [BIN / "ray", "job", *arguments],
            capture_output=True, text=True, check=False, env=self.environment,
        )  # fmt: skip

    def submit(self, *entrypoint: object) -> tuple[int, str, str]:
        """Exit code of ``ray job submit``, final status of the job, and everything it printed."""
        name = f"test-{time.monotonic_ns()}"
        for _ in range(ATTEMPTS):
            done = self.job(
                "submit", "--submission-id", name, "--working-dir", str(REPOSITORY),
                "--", sys.executable, *map(str, entrypoint),
            )  # fmt: skip
            # The head answers before its job agent does, which may be long on a busy machine.
            if "No available agent to submit job" not in done.stdout + done.stderr:
                break
        status = self.job("status", name)
        return done.returncode, status.stdout + status.stderr, done.stdout + done.stderr


@contextmanager
def job_head(folder: Path) -> Iterator[Head]:
    """A head of its own, stopped by its process group; logs and token in ``folder``."""
    (folder / "token").write_text(uuid.uuid4().hex)
    gcs, dashboard, agent = free_port(), free_port(), free_port()
    kept = ("RAY_worker_niceness",)
    environment = {k: v for k, v in os.environ.items() if k in kept or not k.startswith("RAY_")}
    # A token of our own: installations differ in whether they ask for one.
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    reached = {
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_ADDRESS": f"127.0.0.1:{gcs}",
    }
    head = Head(environment | reached)

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", f"--port={gcs}", "--num-cpus=16",
             f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--disable-usage-stats",
             f"--dashboard-agent-listen-port={agent}",
             f"--object-store-memory={200 * 2**20}", f"--temp-dir=/tmp/maskdpo-{os.getpid()}"],
            stdout=open(folder / "head.log", "a"), stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        )  # fmt: skip

    ray, attempt = start(), 1
    try:
        deadline = time.monotonic() + PATIENCE
        while (listed := head.job("list")).returncode != 0:
            log = (folder / "head.log").read_text() + listed.stderr
            assert time.monotonic() < deadline, log
            if ray.poll() is not None:
                assert attempt < ATTEMPTS, log
                ray, attempt = start(), attempt + 1
            time.sleep(0.5)
        yield head
    finally:
        os.killpg(ray.pid, signal.SIGTERM)
        ray.wait(timeout=60)
