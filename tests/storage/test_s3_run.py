"""A whole run whose run directory is in an object store: pairs, training, report, evaluation."""

import json
import subprocess
import sys
from pathlib import Path

import models
import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.stages import Stages
from maskdpo_ray.storage import Folder

REPOSITORY = Path(__file__).parents[2]
ANSWERS = (
    ("She was born in 1901. She worked as a baker.", "ok", "ok"),
    ("She was born in 1850. She worked as a baker.", "contradictory", "ok"),
)


def labelled(number: int) -> dict:
    candidates = []
    for response, first, second in ANSWERS:
        cut = response.index(". ") + 1
        spans = [(0, cut, first), (cut, len(response), second)]
        sentences = [{"start": a, "end": b, "label": label} for a, b, label in spans]
        candidates.append({"response": response, "sentences": sentences})
    return {
        "id": f"q{number}",
        "topic": f"person {number}",
        "question": f"Who was person {number}?",
        "candidates": candidates,
    }


def maskdpo(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "maskdpo_ray", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture
def settings(bucket, tmp_path):
    (tmp_path / "train.jsonl").write_text(
        "\n".join(json.dumps(labelled(number)) for number in range(8))
    )
    return {
        "run_dir": bucket,
        "model": {"path": models.tiny_llama(), "dtype": "float32"},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "sampling": {"source": "input"},
        "annotation": {"annotator": "labels"},
        "preference": {"max_length": 256},
        "training": {"max_steps": 4, "batch_size": 4, "zero_stage": 1, "checkpoint_every": 1},
        "resources": {"questions_per_block": 2, "training": {"workers": 2}},
    }  # fmt: skip


EVALUATES = """
import json, sys
from maskdpo_ray.config import build_config
from maskdpo_ray.pipeline import stream
from maskdpo_ray.stages import Stages
stages = Stages(build_config(json.loads(sys.argv[1])), rerun=True)
stream(stages, stages.questions("test"), stages.answer(stages.trained("mask_dpo")))
"""


def test_a_run_in_an_object_store_from_labels_to_a_trained_model_that_answers(
    settings, bucket, s3, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "c.yaml").write_text(json.dumps(settings))
    maskdpo("run", str(tmp_path / "c.yaml"))

    run = Folder(bucket)
    stages = Stages(build_config(settings))
    assert all(store.complete for store in stages.stores())
    assert run.read_json("report.json")["pairs"]["kept"] == 8
    assert b"<html" in run.read("report.html")
    assert "driver.lock" not in run.names()
    trained = stages.train("mask_dpo").folder
    assert {"config.json", "model.safetensors"} <= set((trained / "model").names())
    metrics = [json.loads(line) for line in trained.read("metrics.jsonl").splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    kept = [n for n in (trained / "checkpoints").names() if n.startswith("checkpoint_0")]
    assert [name.split("_")[1] for name in kept] == ["00000003", "00000004"], "two of four stay"
    assert "seal-00000.json" in (trained / "checkpoints" / kept[0]).names()

    s3.forget()
    maskdpo("run", str(tmp_path / "c.yaml"))
    written = {path.rpartition("/")[2] for method, path, _ in s3.requests if method == "PUT"}
    written.discard("")  # the mark of a folder
    assert written == {"driver.lock", "config.yaml", "report.json", "report.html"}

    # As after a kill, with the newest checkpoint cut short: training goes on from the one before.
    newest = trained / "checkpoints" / kept[-1]
    state = newest.read("state-00001.safetensors")
    newest.write("state-00001.safetensors", state[:1000])
    trained.write_json("manifest.json", trained.read_json("manifest.json") | {"state": "running"})
    said = maskdpo("run", str(tmp_path / "c.yaml"))
    damage = f"state-00001.safetensors has 1000 of {len(state)} bytes"
    assert f"checkpoint {kept[-1]} passed over: {damage}" in said
    again = [json.loads(line) for line in trained.read("metrics.jsonl").splitlines()]
    assert [line["loss"] for line in again] == [line["loss"] for line in metrics]
    seconds = [[line["seconds"] for line in run] for run in (again, metrics)]
    assert [a == b for a, b in zip(*seconds, strict=True)] == [True, True, True, False]

    (tmp_path / "test.jsonl").write_text('{"id": "t", "topic": "other", "question": "Who?"}\n')
    engine = {"max_model_len": 256, "kv_cache_memory_bytes": 2**26}
    settings["data"]["test"] = str(tmp_path / "test.jsonl")
    settings["evaluation"] = {
        "samples": 1, "best_of_n": [1], "max_tokens": 8,
        "annotation": {"annotator": "judge", "model": models.tiny_llama(), "engine": engine},
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", EVALUATES, json.dumps(settings)],
        capture_output=True, text=True, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = Stages(build_config(settings), rerun=True)
    (row,) = stages.answer(stages.trained("mask_dpo")).store.rows()
    assert {c["decoding"] for c in row["candidates"]} == {"greedy", "sampled"}
