"""The whole graph on the real engines: the miniature closed world, killed and unkilled."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from node_cluster import node_cluster

from maskdpo_ray.annotation.calls import count_calls
from maskdpo_ray.config import read_config
from maskdpo_ray.stages import Stages

REPOSITORY = Path(__file__).parents[1]
SMOKE = REPOSITORY / "jobs" / "configs" / "smoke.yaml"
STEPS = 24  # enough of them to be killed in between
LONGER = [f"training.max_steps={STEPS}", "training.epochs=20", "training.checkpoint_every=4"]


def command(run_dir: Path, *overrides: str, verb: str = "run") -> list[str]:
    return [
        sys.executable,
        "-m",
        "maskdpo_ray",
        verb,
        str(SMOKE),
        f"run_dir={run_dir}",
        *LONGER,
        *overrides,
    ]


def run(run_dir: Path, *overrides: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(run_dir, *overrides), capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, small_world):
    """A finished run, and what its command printed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(small_world, folder / "world" / "small-0")
    return folder, run(folder)


def stages(run_dir: Path, *overrides: str) -> Stages:
    return Stages(read_config(SMOKE, [f"run_dir={run_dir}", *LONGER, *overrides]))


def outputs(run_dir: Path) -> dict:
    """What a run came to: rows without the paths of its models, losses, scores."""
    found = stages(run_dir)
    rows = {
        stage.store.name: sorted(
            json.dumps(_without_paths(row), sort_keys=True) for row in stage.store.rows()
        )
        for stage in (found.sample(), found.annotate(), found.pair(), found.reference())
    }
    metrics = found.train("mask_dpo").folder.read("metrics.jsonl").decode().splitlines()
    report = json.loads((run_dir / "report.json").read_text())
    return {
        "rows": rows,
        "losses": [json.loads(line)["loss"] for line in metrics],
        "systems": report["systems"],
        "best_of_n": report["best_of_n"],
        "pairs": report["pairs"],
    }


def _without_paths(row: dict) -> dict:
    candidates = [{**c, "model": ""} for c in row.get("candidates", [])]
    return {**row, **({"candidates": candidates} if candidates else {})}


def test_the_graph_ends_with_a_table_and_a_report(undisturbed):
    folder, done = undisturbed
    assert "base" in done.stdout and "mask_dpo" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert set(report) >= {
        "run", "seed", "versions", "pairs", "systems", "best_of_n", "seconds"
    }  # fmt: skip
    assert set(report["systems"]) == {"base", "mask_dpo"}
    for system in report["systems"].values():
        for decoding in ("greedy", "sampled"):
            assert set(system[decoding]) >= {
                "micro", "macro", "ci95", "correct", "incorrect", "no_fact", "errors",
                "mean_sentences", "mean_tokens",
            }  # fmt: skip
            low, high = system[decoding]["ci95"]
            assert low <= system[decoding]["micro"] <= high
    assert set(report["best_of_n"]["base"]) >= {"1", "2"}
    assert "<html" in (folder / "report.html").read_text()


def test_every_row_that_enters_a_stage_leaves_it(undisturbed):
    folder, _ = undisturbed
    manifests = [json.loads(p.read_text()) for p in folder.glob("*/*/manifest.json")]
    assert len(manifests) >= 9
    for manifest in manifests:
        assert manifest["state"] == "complete"
        counts = manifest["counts"]
        if "in" in counts:
            assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
    report = json.loads((folder / "report.json").read_text())
    pairs = report["pairs"]
    assert pairs["questions"] == pairs["kept"] + sum(pairs["dropped"].values())


def test_training_starts_at_ln_2(undisturbed):
    folder, _ = undisturbed
    losses = outputs(folder)["losses"]
    assert losses[0] == pytest.approx(0.6931472, abs=1e-5)
    assert len(losses) == STEPS


def test_the_same_command_again_does_nothing_new(undisturbed):
    folder, _ = undisturbed
    parts = {p: p.stat().st_mtime_ns for p in folder.glob("*/*/part-*.parquet")}
    run(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/*/part-*.parquet")} == parts


def test_a_changed_setting_is_refused_then_redoes_only_what_depends_on_it(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed[0], tmp_path / "run")
    changed = command(folder, "preference.eos=mask", "data.limit=12")
    refused = subprocess.run(changed, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "these keys differ: data.limit, preference.eos." in refused.stderr

    def folders(stage: str) -> int:
        return len(list(folder.glob(f"{stage}/*/manifest.json")))

    redone = command(folder, "preference.eos=mask", "--rerun", verb="pair")
    subprocess.run(redone, check=True, cwd=REPOSITORY)
    assert [folders(stage) for stage in ("sample", "annotate", "pair")] == [1, 1, 2]


def test_pruned_annotation_asks_less_and_gives_the_same_pairs(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed[0], tmp_path / "run")
    for verb in ("annotate", "pair"):
        subprocess.run(
            command(folder, "annotation.prune=true", "--rerun", verb=verb),
            check=True,
            cwd=REPOSITORY,
        )
    full = stages(undisturbed[0])
    pruned = stages(folder, "annotation.prune=true")
    assert sorted(pruned.pair().store.rows(), key=json.dumps) == sorted(
        full.pair().store.rows(), key=json.dumps
    )
    counts = [found.pair().store.manifest()["counts"] for found in (full, pruned)]
    assert counts[0] == counts[1]
    calls = count_calls(pruned.annotate().store.rows())
    assert calls["pruned"] > 0
    assert calls["distinct"] == count_calls(full.annotate().store.rows())["asked"]


def test_a_run_over_several_nodes_gives_the_output_of_a_run_on_one(undisturbed, run_dir):
    """Two raylets with room for one engine or training worker each, and a head with none."""
    folder = run_dir
    placed = [
        "resources.sampler={actors: 2, resources: {worker: 1}}",
        "resources.training={workers: 2, resources: {worker: 1}}",
    ]
    worker = {"num_cpus": 2, "resources": {"worker": 1}}
    with node_cluster({"num_cpus": 4}, worker) as cluster:
        done = subprocess.run(
            command(folder, *placed), capture_output=True, text=True, check=False, cwd=REPOSITORY,
            env={**os.environ, "RAY_ADDRESS": cluster.address()},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    several, one = outputs(folder), outputs(undisturbed[0])
    assert several["rows"] == one["rows"]
    assert several["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert several["systems"]["base"] == one["systems"]["base"]


@pytest.mark.parametrize(
    ("verb", "words"), [("report", "greedy"), ("evaluate", "greedy"), ("best-of-n", "macro")]
)
def test_a_finished_run_directory_answers_every_verb(undisturbed, tmp_path, verb, words):
    folder = shutil.copytree(undisturbed[0], tmp_path / "moved")
    done = subprocess.run(
        [sys.executable, "-m", "maskdpo_ray", verb, str(folder), "evaluation.best_of_n=[2]"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert words in done.stdout and "mask_dpo" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert list(report["best_of_n"]["mask_dpo"]) == ["2"]
    if verb == "best-of-n":
        lines = (folder / "best-of-2" / "mask_dpo.jsonl").read_text().splitlines()
        best = [json.loads(line) for line in lines]
        assert 0 < len(best) <= report["stages"]["questions-test"]["out"]
        mean = sum(answer["score"] for answer in best) / len(best)
        assert mean == pytest.approx(report["best_of_n"]["mask_dpo"]["2"])


def test_given_answers_are_evaluated_beside_a_finished_run(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed[0], tmp_path / "run")
    with open(folder / "world" / "small-0" / "test.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    truths = [row["document"].partition(".")[0] + "." for row in rows]
    answers = [
        {"id": row["id"], "response": truth} for row, truth in zip(rows, truths, strict=True)
    ]
    (tmp_path / "given.jsonl").write_text("\n".join(map(json.dumps, answers)))
    given = f"evaluation.models.given.responses={tmp_path / 'given.jsonl'}"
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*/part-*.parquet")}
    done = subprocess.run(
        command(folder, given, "--rerun", verb="evaluate"),
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = {p: p.stat().st_mtime_ns for p in folder.glob("*/*/part-*.parquet")}
    assert {p.parts[-3] for p in after.keys() - before} == {"answer-given", "evaluate-given"}
    assert before.items() <= after.items(), "only what is new is worked on"
    made, old = (json.loads((f / "report.json").read_text()) for f in (folder, undisturbed[0]))
    assert {**made["systems"], "given": None} == {**old["systems"], "given": None}
    found = made["systems"]["given"]
    assert (found["greedy"]["micro"], found["greedy"]["incorrect"]) == (100, 0)
    assert found["sampled"] is None and found["greedy"]["mean_tokens"] > 1


def metrics(run_dir: Path) -> list[dict]:
    """What training logged, a line per step; the last may be cut by a kill."""
    store = stages(run_dir).train("mask_dpo")
    lines = store.folder.read("metrics.jsonl").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def kill_when(run_dir: Path, happened) -> None:
    """Start the run, kill its driver with SIGKILL as soon as ``happened``."""
    driver = subprocess.Popen(
        command(run_dir),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not happened():
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def test_a_driver_killed_in_sampling_and_in_training_ends_like_an_undisturbed_run(
    undisturbed, run_dir
):
    folder = run_dir

    def parts(stage: str) -> list[Path]:
        return list(folder.glob(f"{stage}/*/part-*.parquet"))

    kill_when(folder, lambda: len(parts("sample")) >= 2)
    sampled = {p: p.stat().st_mtime_ns for p in parts("sample")}
    assert (
        not list(folder.glob("sample/*/manifest.json"))
        or not stages(folder).sample().store.complete
    )

    kill_when(folder, lambda: list(folder.glob("train-mask_dpo/*/checkpoints/checkpoint_*/seal-*")))
    learnt = metrics(folder)[:4]  # up to the first checkpoint
    assert len(learnt) == 4
    now = {p: p.stat().st_mtime_ns for p in parts("sample")}
    assert sampled.items() <= now.items(), "finished questions were sampled again"

    run(folder)
    assert outputs(folder) == outputs(undisturbed[0])
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    kept = [line["seconds"] for line in learnt]
    assert [line["seconds"] for line in lines[: len(kept)]] == kept, "steps were done again"
