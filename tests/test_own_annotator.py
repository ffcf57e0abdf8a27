"""A package of somebody else, installed beside ours, in the whole graph: it annotates what one that
errs is not sure of, and examines alone."""

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
    gazetteer = {"annotator": "gazetteer", "facts": str(small_world / "facts.json")}
    erring = {"annotator": "closed_world", "error_rate": 0.1}
    settings = {"cascade": [erring, gazetteer], "bands": [{"ok": 0.95}], "prune": True}
    command = [sys.executable, "-m", "maskdpo_ray", "run", str(SMOKE), f"run_dir={run_dir}"]
    done = subprocess.run(
        [
            *command, f"annotation={json.dumps(settings)}",
            f"evaluation.annotation={json.dumps(gazetteer)}", "training.max_steps=2",
        ],
        env={**os.environ, "PYTHONPATH": f"{installed}:{HERE.parent}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Folder(run_dir)
    report = run.read_json("report.json")
    assert report["config"]["annotation"]["annotator"] == "cascade"
    assert report["config"]["evaluation"]["annotation"]["annotator"] == "gazetteer"
    assert report["stages"]["annotate"]["out"] == report["stages"]["sample"]["out"] > 0
    assert report["pairs"]["kept"] > 0
    counts = report["stages"]["annotate"]
    decided = {name: counts[f"decided_by_{name}"] for name in ("closed_world", "gazetteer")}
    assert min(decided.values()) > 0 and sum(decided.values()) == counts["asked"]
    for system in ("base", "mask_dpo"):
        assert report["systems"][system]["greedy"]["mean_sentences"] > 0
        assert report["systems"][system]["greedy"]["errors"] == 0
