"""A package of somebody else, installed beside ours, annotates and examines the whole graph."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maskdpo_ray.storage import Folder

HERE = Path(__file__).parent
SMOKE = HERE.parent / "jobs" / "configs" / "smoke.yaml"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder of packages that holds it, with the metadata of its entry point."""
    source, target = tmp_path_factory.mktemp("source") / "s", tmp_path_factory.mktemp("packages")
    shutil.copytree(HERE / "own_annotator", source)
    install = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    done = subprocess.run(
        [*install, "--no-index", "--target", str(target), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def test_it_annotates_and_examines_the_whole_graph(installed, run_dir, small_world):
    settings = {"annotator": "gazetteer", "facts": str(small_world / "facts.json")}
    command = [sys.executable, "-m", "maskdpo_ray", "run", str(SMOKE), f"run_dir={run_dir}"]
    done = subprocess.run(
        [*command, f"annotation={json.dumps(settings)}", "training.max_steps=2"],
        env={**os.environ, "PYTHONPATH": f"{installed}:{HERE.parent}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Folder(run_dir)
    report = run.read_json("report.json")
    assert report["config"]["annotation"]["annotator"] == "gazetteer"
    assert report["stages"]["annotate"]["out"] == report["stages"]["sample"]["out"] > 0
    assert report["pairs"]["kept"] > 0
    for system in ("base", "mask_dpo"):
        assert report["systems"][system]["greedy"]["mean_sentences"] > 0
        assert report["systems"][system]["greedy"]["errors"] == 0
