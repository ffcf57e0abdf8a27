"""The whole graph on the real engines: the miniature closed world, killed and unkilled, as a job
and from the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from event_files import events
from job_head import REPOSITORY, Head, job_head
from node_cluster import node_cluster

from maskdpo_ray.annotation.calls import count_calls
from maskdpo_ray.config import read_config
from maskdpo_ray.errors import UserError
from maskdpo_ray.stages import Stages

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


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """One Ray for all jobs and most commands of this file."""
    with job_head(tmp_path_factory.mktemp("head")) as head:
        yield head


def run(head: Head, verb: str, run_dir: Path, *overrides: str) -> None:
    done = subprocess.run(
        command(run_dir, *overrides, verb=verb),
        capture_output=True, text=True, cwd=REPOSITORY, check=False, env=head.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def submitted(head, tmp_path_factory, small_world):
    """The run directory of a finished job; its exit code, its status, and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(small_world, folder / "world" / "small-0")
    return folder, head.submit("jobs/pipeline.py", SMOKE, f"run_dir={folder}", *LONGER)


@pytest.fixture
def undisturbed(submitted) -> Path:
    """The run directory of a run that nothing happened to."""
    return submitted[0]


def stages(run_dir: Path, *overrides: str) -> Stages:
    return Stages(read_config(SMOKE, [f"run_dir={run_dir}", *LONGER, *overrides]))


def rows(run_dir: Path) -> dict[str, list[str]]:
    """What each stage before training came to, without the paths of its models."""
    found = stages(run_dir)
    return {
        stage.store.name: sorted(
            json.dumps(_without_paths(row), sort_keys=True) for row in stage.store.rows()
        )
        for stage in (found.sample(), found.annotate(), found.pair(), found.reference())
    }


def metrics(run_dir: Path) -> list[dict]:
    """What training logged, a line per step; the last may be cut by a kill."""
    store = stages(run_dir).train("mask_dpo")
    lines = store.folder.read("metrics.jsonl").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in metrics(run_dir)]


def scores(run_dir: Path) -> dict:
    report = json.loads((run_dir / "report.json").read_text())
    return {key: report[key] for key in ("systems", "best_of_n", "pairs")}


def _without_paths(row: dict) -> dict:
    candidates = [{**c, "model": ""} for c in row.get("candidates", [])]
    return {**row, **({"candidates": candidates} if candidates else {})}


def test_the_graph_ends_as_a_job_with_a_table_and_a_report(submitted):
    folder, (code, status, printed) = submitted
    assert code == 0, printed
    assert "succeeded" in status
    assert "base" in printed and "mask_dpo" in printed
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
    [card] = folder.glob("train-mask_dpo/*/model/README.md")
    score = f"{report['systems']['mask_dpo']['greedy']['micro']:.1f}"
    assert f"| mask_dpo | greedy | {score} |" in card.read_text(), "the card was completed"


def test_every_row_that_enters_a_stage_leaves_it(undisturbed):
    manifests = [json.loads(p.read_text()) for p in undisturbed.glob("*/*/manifest.json")]
    assert len(manifests) >= 9
    for manifest in manifests:
        assert manifest["state"] == "complete"
        counts = manifest["counts"]
        if "in" in counts:
            assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
    report = json.loads((undisturbed / "report.json").read_text())
    pairs = report["pairs"]
    assert pairs["questions"] == pairs["kept"] + sum(pairs["dropped"].values())


def test_training_starts_at_ln_2(undisturbed):
    found = losses(undisturbed)
    assert found[0] == pytest.approx(0.6931472, abs=1e-5)
    assert len(found) == STEPS


def test_the_same_command_again_does_nothing_new(undisturbed, head):
    parts = {p: p.stat().st_mtime_ns for p in undisturbed.glob("*/*/part-*.parquet")}
    run(head, "run", undisturbed)
    assert {p: p.stat().st_mtime_ns for p in undisturbed.glob("*/*/part-*.parquet")} == parts


def test_a_changed_setting_is_refused_then_redoes_only_what_depends_on_it(
    undisturbed, head, tmp_path
):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    changed = command(folder, "preference.eos=mask", "data.limit=12")
    refused = subprocess.run(changed, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "these keys differ: data.limit, preference.eos." in refused.stderr

    def folders(stage: str) -> int:
        return len(list(folder.glob(f"{stage}/*/manifest.json")))

    run(head, "pair", folder, "preference.eos=mask", "--rerun")
    assert [folders(stage) for stage in ("sample", "annotate", "pair")] == [1, 1, 2]


def test_pruned_annotation_asks_less_and_gives_the_same_pairs(undisturbed, head, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    for verb in ("annotate", "pair"):
        run(head, verb, folder, "annotation.prune=true", "--rerun")
    full = stages(undisturbed)
    pruned = stages(folder, "annotation.prune=true")
    assert sorted(pruned.pair().store.rows(), key=json.dumps) == sorted(
        full.pair().store.rows(), key=json.dumps
    )
    counts = [found.pair().store.manifest()["counts"] for found in (full, pruned)]
    assert counts[0] == counts[1]
    calls = count_calls(pruned.annotate().store.rows())
    assert calls["pruned"] > 0
    assert calls["distinct"] == count_calls(full.annotate().store.rows())["asked"]


def test_pairs_of_a_part_of_the_questions_share_everything_before_them(undisturbed, head, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    made = sorted(stages(undisturbed).pair().store.rows(), key=lambda row: row["id"])
    part = tmp_path / "part.jsonl"
    part.write_text(
        "".join(json.dumps({k: p[k] for k in ("id", "question")}) + "\n" for p in made[:5])
    )
    run(head, "pair", folder, f"preference.questions={part}", "--rerun")
    found = stages(folder, f"preference.questions={part}").pair().store
    assert sorted(found.rows(), key=lambda row: row["id"]) == made[:5]
    counts = found.manifest()["counts"]
    assert counts["rejected"] == {"not_selected": counts["in"] - 5}
    assert found.manifest()["seconds"] == 0.0, "the pairs of all questions stood there"
    shutil.rmtree(folder / "pair")
    run(head, "pair", folder, f"preference.questions={part}", "--rerun")
    assert sorted(found.rows(), key=lambda row: row["id"]) == made[:5]
    assert found.manifest()["counts"] == counts and found.manifest()["seconds"] > 0
    for stage in ("sample", "annotate"):
        assert len(list(folder.glob(f"{stage}/*/manifest.json"))) == 1
    part.write_text('{"id": "nobody", "question": "Who?"}\n')
    with pytest.raises(
        UserError, match="1 of the 1 questions of .* are not in data.train, first 'n"
    ):
        stages(folder, f"preference.questions={part}").pair()


def test_a_table_is_made_of_finished_runs(undisturbed, tmp_path):
    """Best of N before and after, from the answers that are there: no engine starts."""
    shutil.copytree(undisturbed, tmp_path / "seed-0")
    done = subprocess.run(
        [sys.executable, "jobs/table6.py", SMOKE, "--samples=2", "--seeds=0",
         f"--runs={tmp_path}", *LONGER],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Table 6: best of N" in done.stdout
    made = json.loads((tmp_path / "table6.json").read_text())
    of_run = scores(undisturbed)["best_of_n"]
    for name, system in (("before", "base"), ("after", "mask_dpo")):
        for n in ("1", "2"):
            assert made["figures"][name][n]["score"] == pytest.approx(of_run[system][n])
    assert len(made["claims"]) == 4
    assert (tmp_path / "table6.svg").read_text().startswith("<svg")
    assert "| before |" in (tmp_path / "table6.md").read_text()


TO_TRAINING = """
import sys
from maskdpo_ray.config import read_config
from maskdpo_ray.pipeline import VERBS
from maskdpo_ray.stages import Stages
stages = Stages(read_config(sys.argv[1], sys.argv[2:]))
for verb in ("sample", "annotate", "pair", "reference", "train"):
    VERBS[verb](stages)
"""


def test_a_run_over_several_nodes_gives_the_output_of_a_run_on_one(undisturbed, run_dir):
    """Two raylets with room for one engine or training worker each, and a head with none."""
    placed = [
        "resources.sampler={actors: 2, resources: {worker: 1}}",
        "resources.training={workers: 2, resources: {worker: 1}}",
    ]
    settings = [f"run_dir={run_dir}", *LONGER, *placed]
    worker = {"num_cpus": 2, "resources": {"worker": 1}}
    with node_cluster({"num_cpus": 4}, worker) as cluster:
        done = subprocess.run(
            [sys.executable, "-c", TO_TRAINING, SMOKE, *settings],
            capture_output=True, text=True, check=False, cwd=REPOSITORY,
            env={**os.environ, "RAY_ADDRESS": cluster.address()},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rows(run_dir) == rows(undisturbed)
    assert losses(run_dir) == pytest.approx(losses(undisturbed), rel=1e-4)


def answers_of_every_verb(undisturbed: Path, folder: Path, words: str, printed: str) -> dict:
    """The report of a moved run directory whose N of best-of-N are fewer now."""
    assert words in printed and "mask_dpo" in printed
    report = json.loads((folder / "report.json").read_text())
    assert list(report["best_of_n"]["mask_dpo"]) == ["2"]
    assert report["systems"] == json.loads((undisturbed / "report.json").read_text())["systems"]
    return report


@pytest.mark.parametrize(("verb", "words"), [("evaluate", "greedy"), ("best_of_n", "macro")])
def test_a_finished_run_directory_is_examined_as_a_job(undisturbed, head, tmp_path, verb, words):
    folder = shutil.copytree(undisturbed, tmp_path / "moved")
    code, _, printed = head.submit(f"jobs/{verb}.py", folder, "evaluation.best_of_n=[2]")
    assert code == 0, printed
    report = answers_of_every_verb(undisturbed, folder, words, printed)
    if verb == "best_of_n":
        lines = (folder / "best-of-2" / "mask_dpo.jsonl").read_text().splitlines()
        best = [json.loads(line) for line in lines]
        assert 0 < len(best) <= report["stages"]["questions-test"]["out"]
        mean = sum(answer["score"] for answer in best) / len(best)
        assert mean == pytest.approx(report["best_of_n"]["mask_dpo"]["2"])


def test_a_finished_run_directory_reports_from_anywhere(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "moved")
    done = subprocess.run(
        [sys.executable, "-m", "maskdpo_ray", "report", folder, "evaluation.best_of_n=[2]"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers_of_every_verb(undisturbed, folder, "greedy", done.stdout)


def test_given_answers_are_evaluated_beside_a_finished_run(undisturbed, head, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    with open(folder / "world" / "small-0" / "test.jsonl", encoding="utf-8") as lines:
        people = [json.loads(line) for line in lines]
    truths = [row["document"].partition(".")[0] + "." for row in people]
    answers = [
        {"id": row["id"], "response": truth} for row, truth in zip(people, truths, strict=True)
    ]
    (tmp_path / "given.jsonl").write_text("\n".join(map(json.dumps, answers)))
    given = f"evaluation.models.given.responses={tmp_path / 'given.jsonl'}"
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*/part-*.parquet")}
    run(head, "evaluate", folder, given, "--rerun")
    after = {p: p.stat().st_mtime_ns for p in folder.glob("*/*/part-*.parquet")}
    assert {p.parts[-3] for p in after.keys() - before} == {"answer-given", "evaluate-given"}
    assert before.items() <= after.items(), "only what is new is worked on"
    made, old = (json.loads((f / "report.json").read_text()) for f in (folder, undisturbed))
    assert {**made["systems"], "given": None} == {**old["systems"], "given": None}
    found = made["systems"]["given"]
    assert (found["greedy"]["micro"], found["greedy"]["incorrect"]) == (100, 0)
    assert found["sampled"] is None and found["greedy"]["mean_tokens"] > 1


def test_a_bad_configuration_fails_the_job_with_its_reason(head):
    code, status, printed = head.submit("jobs/pipeline.py", SMOKE, "run_dir=runs/x")
    assert code != 0
    assert "failed" in status
    assert "give an absolute path or a URL" in printed


def kill_when(run_dir: Path, happened, environment: dict[str, str] | None = None) -> None:
    """Start the run, kill its driver with SIGKILL as soon as ``happened``."""
    log = run_dir.with_name("killed.log")
    driver = subprocess.Popen(
        command(run_dir),
        env=environment,
        stdout=open(log, "w"),
        stderr=subprocess.STDOUT,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not happened():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def test_a_driver_killed_in_sampling_and_in_training_ends_like_an_undisturbed_run(
    undisturbed, head, run_dir
):
    """The first with a Ray of its own, which ends with it, the second on a cluster."""
    folder = run_dir

    def parts(stage: str) -> list[Path]:
        return list(folder.glob(f"{stage}/*/part-*.parquet"))

    kill_when(folder, lambda: len(parts("sample")) >= 2)
    sampled = {p: p.stat().st_mtime_ns for p in parts("sample")}
    assert (
        not list(folder.glob("sample/*/manifest.json"))
        or not stages(folder).sample().store.complete
    )

    sealed = "train-mask_dpo/*/checkpoints/checkpoint_*/seal-*"
    kill_when(folder, lambda: list(folder.glob(sealed)), head.environment)
    learnt = metrics(folder)[:4]  # up to the first checkpoint
    assert len(learnt) == 4
    now = {p: p.stat().st_mtime_ns for p in parts("sample")}
    assert sampled.items() <= now.items(), "finished questions were sampled again"

    run(head, "run", folder)
    assert rows(folder) == rows(undisturbed)
    assert losses(folder) == losses(undisturbed)
    assert scores(folder) == scores(undisturbed)
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    kept = [line["seconds"] for line in learnt]
    assert [line["seconds"] for line in lines[: len(kept)]] == kept, "steps were done again"
    curve = [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert events(stages(folder).train("mask_dpo").folder / "tensorboard") == curve
