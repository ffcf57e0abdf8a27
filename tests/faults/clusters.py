"""Drivers beside the test process, which has a Ray of its own already."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PATHS = os.pathsep.join(map(str, (FOLDER, FOLDER.parent, FOLDER.parents[1])))


def drive(
    address: str | None, log: Path, script: str, *arguments: object, **environment: str
) -> subprocess.Popen:
    """Start a script of this folder as a driver, on a Ray of its own without ``address``.

    What it prints goes to ``log``.
    """
    cluster = {"RAY_ADDRESS": address} if address else {}
    return subprocess.Popen(
        [sys.executable, FOLDER / script, *map(str, arguments)],
        stdout=open(log, "w"),
        stderr=subprocess.STDOUT,
        env={**os.environ, **cluster, "PYTHONPATH": PATHS, **environment},
    )


def finish(driver: subprocess.Popen, log: Path, seconds: float = 240) -> str:
    """What it printed; it must have succeeded."""
    try:
        code = driver.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        driver.kill()
        code = "no end"
    printed = log.read_text()
    assert code == 0, f"{code}\n{printed}"
    return printed
