"""Ray on a machine so busy that its own processes start late."""

import os
import subprocess
import sys

# Python looks for it at every start: the first dashboard agent needs longer than Ray waits.
LATE_ONCE = """
import sys, time
from pathlib import Path
mark = Path(__file__).with_name("was.late")
if any("dashboard/agent.py" in word for word in sys.orig_argv) and not mark.exists():
    mark.touch()
    time.sleep(25)
"""
STARTS = """
from maskdpo_ray.config import ResourcesConfig
from maskdpo_ray.stream import start_ray
import ray
start_ray(ResourcesConfig())
print(ray.get(ray.remote(lambda: "it works").remote()))
"""


def test_a_ray_that_is_late_is_started_again(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LATE_ONCE)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", STARTS],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert (tmp_path / "was.late").exists()
    assert done.returncode == 0, done.stderr
    assert "it works" in done.stdout
    assert "Ray started at attempt 2" in done.stderr
