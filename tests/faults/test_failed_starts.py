"""Actors that cannot start: the run ends with their reason instead of trying for ever."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import models
import pytest
from ray.exceptions import RayActorError

from maskdpo_ray.config import DataConfig, ModelConfig, PoolConfig, ResourcesConfig
from maskdpo_ray.engine.engine import exit_process
from maskdpo_ray.errors import UserError
from maskdpo_ray.questions import import_questions
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sampling.factory import build_sampler
from maskdpo_ray.sampling.sampler import Decoding
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import StreamStage, run_stream

RESOURCES = ResourcesConfig(questions_per_block=2)
POOL = PoolConfig(cpus=0.5, max_restarts=2)
QUESTIONS = 12


def counted(build, log: Path):
    """``build``, and a line in ``log`` for every time it is tried."""
    with open(log, "a", encoding="utf-8") as lines:
        lines.write(f"{os.getpid()}\n")
    return build()


class Passes:
    async def __call__(self, rows):
        return rows


class DiesOf:
    """Ends its process when it meets a row, as an engine does."""

    def __init__(self, row_id: str) -> None:
        self.row_id = row_id

    async def __call__(self, rows):
        if any(row["id"] == self.row_id for row in rows):
            exit_process("the device fell off")
        return rows


def engine(model: str, **arguments):
    decoding = Decoding(candidates=2, temperature=0.8, top_k=40, top_p=1, max_tokens=8)
    arguments = {"kv_cache_memory_bytes": 2**26, **arguments}
    return build_sampler(ModelConfig(path=model, dtype="float32"), decoding, 0, arguments)


def starts_once(log: Path, error: Exception):
    """A processor whose actor starts the first time and never again."""
    if len(log.read_text(encoding="utf-8").splitlines()) > 1:
        raise error
    return DiesOf("q9")


def ends_at_start():
    os._exit(1)


@pytest.fixture
def graph(tmp_path, ray_cluster):
    """Runs stages, each one builder; the log of tries of a stage is ``<n>.log``."""
    lines = [
        json.dumps({"id": f"q{n}", "topic": "t", "question": "Who?"}) for n in range(QUESTIONS)
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    source = StageStore(Folder(tmp_path / "in"), "in", "in", {}, QUESTION_SCHEMA)
    import_questions(str(tmp_path / "q.jsonl"), DataConfig(), source, 2, {})

    def run(*builds):
        stages = []
        for n, build in enumerate(builds):
            store = StageStore(Folder(tmp_path / f"s{n}"), f"s{n}", f"s{n}", {}, QUESTION_SCHEMA)
            stages.append(StreamStage(store, partial(counted, build, tmp_path / f"{n}.log"), POOL))
        run_stream(stages, source, RESOURCES, {})

    run.tries = lambda n: len((tmp_path / f"{n}.log").read_text().splitlines())
    return run


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def unknown_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["NobodyForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("damage", "arguments", "reason"),
    [
        (cut_weights, {}, "did not start: .*incomplete"),
        (unknown_architecture, {}, "did not start: .*NobodyForCausalLM"),
        (no_tokenizer, {}, "no tokenizer at"),
        (lambda folder: None, {"kv_cache_memory_bytes": 2**50}, "did not start: .*kv cache"),
    ],
    ids=["weights", "architecture", "tokenizer", "memory"],
)
def test_an_engine_that_cannot_start_fails_the_run_with_its_reason(
    graph, tmp_path, damage, arguments, reason
):
    model = shutil.copytree(models.tiny_llama(), tmp_path / "model")
    damage(model)
    with pytest.raises(UserError, match=f"stage s0 cannot start: .*{reason}"):
        graph(partial(engine, str(model), **arguments))
    assert graph.tries(0) == 1


def test_a_second_stage_that_cannot_start_ends_the_run_and_keeps_the_firsts_rows(graph, tmp_path):
    def refuse():
        raise UserError("no weights in /nowhere")

    with pytest.raises(UserError, match="stage s1 cannot start: no weights in /nowhere"):
        graph(Passes, refuse)
    assert graph.tries(1) == 1
    with pytest.raises(UserError, match="stage s1 cannot start"):
        graph(Passes, refuse)
    graph(Passes, Passes)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (UserError("the disk is gone"), UserError, "stage s0 cannot start: the disk is gone"),
        (MemoryError("out of memory"), RayActorError, "MemoryError: out of memory"),
    ],
    ids=["for a person", "any other"],
)
def test_an_actor_that_fails_only_when_it_is_started_again(graph, tmp_path, error, raised, message):
    with pytest.raises(raised, match=message):
        graph(partial(starts_once, tmp_path / "0.log", error))
    assert graph.tries(0) == 2


def test_a_process_that_ends_at_its_start_is_not_started_for_ever(graph):
    with pytest.raises(RayActorError):
        graph(ends_at_start)
    assert graph.tries(0) == 1 + POOL.max_restarts


def test_a_row_that_ends_its_engine_every_time_ends_the_run_with_the_engines_last_words(graph):
    with pytest.raises(RuntimeError, match="stage s0: .* after 2 restarts.*: the device fell off"):
        graph(partial(DiesOf, "q9"))
    assert graph.tries(0) == 1 + POOL.max_restarts
