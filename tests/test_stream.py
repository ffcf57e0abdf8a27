"""The streaming graph on a real Ray, with processors that need no engine."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from maskdpo_ray.config import DataConfig, PoolConfig, ResourcesConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.questions import import_questions
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import StreamStage, run_stream

RESOURCES = ResourcesConfig(questions_per_block=4)
QUESTIONS = 40


class Append:
    """Adds a word to the question and logs which ids it was given."""

    def __init__(self, word: str, log: str) -> None:
        self.word, self.log = word, log

    async def __call__(self, rows):
        with open(self.log, "a", encoding="utf-8") as log:
            log.write("".join(f"{row['id']}\n" for row in rows))
        await asyncio.sleep(0.01)
        return [self._one(row) for row in rows]

    def _one(self, row):
        if row["id"] == "q7" and self.word == "b":
            return RowRejected("poison", "row q7")
        return row | {"question": row["question"] + self.word}


class DiesOnce(Append):
    """Kills its own process the first time it meets q13."""

    async def __call__(self, rows):
        mark = Path(self.log + ".died")
        if any(row["id"] == "q13" for row in rows) and not mark.exists():
            mark.touch()
            os._exit(1)
        return await super().__call__(rows)


def cannot_start():
    raise UserError("no weights in /nowhere")


@pytest.fixture
def graph(tmp_path, ray_cluster):
    lines = [f'{{"id": "q{n}", "topic": "t", "question": "x"}}' for n in range(QUESTIONS)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    stores = [
        StageStore(Folder(tmp_path / name), name, name, {}, QUESTION_SCHEMA)
        for name in ("questions", "first", "second")
    ]
    import_questions(str(tmp_path / "q.jsonl"), DataConfig(), stores[0], 4, {})
    return tmp_path, stores


def stages(tmp_path, stores, first=Append):
    pool = PoolConfig(actors=(1, 2), cpus=0.5, blocks_in_flight=2)
    return [
        StreamStage(stores[1], partial(first, "a", str(tmp_path / "a.log")), pool),
        StreamStage(stores[2], partial(Append, "b", str(tmp_path / "b.log")), pool),
    ]


def seen(tmp_path, name):
    return (tmp_path / name).read_text().split()


def result(store):
    return {row["id"]: row["question"] for row in store.rows()}


EXPECTED = {f"q{n}": "xab" for n in range(QUESTIONS) if n != 7}


def test_every_row_leaves_the_stream_and_a_second_run_does_nothing(graph):
    tmp_path, stores = graph
    run_stream(stages(tmp_path, stores), stores[0], RESOURCES, {})
    assert result(stores[2]) == EXPECTED
    assert stores[2].manifest()["counts"] == {
        "in": QUESTIONS, "out": QUESTIONS - 1, "rejected": {"poison": 1}
    }  # fmt: skip
    assert sorted(seen(tmp_path, "a.log")) == sorted(f"q{n}" for n in range(QUESTIONS))
    run_stream(stages(tmp_path, stores), stores[0], RESOURCES, {})
    assert len(seen(tmp_path, "a.log")) == QUESTIONS


def test_a_later_run_takes_up_what_an_earlier_one_left(graph):
    tmp_path, stores = graph
    run_stream(stages(tmp_path, stores)[:1], stores[0], RESOURCES, {})
    for part in stores[1].parts()[:3]:
        stores[1].folder.remove(part)
    missing = QUESTIONS - len(stores[1].finished()[0])
    assert missing > 0
    before = len(seen(tmp_path, "a.log"))
    run_stream(stages(tmp_path, stores), stores[0], RESOURCES, {})
    assert result(stores[2]) == EXPECTED
    assert len(seen(tmp_path, "a.log")) == before + missing
    assert sorted(seen(tmp_path, "b.log")) == sorted(f"q{n}" for n in range(QUESTIONS))


def test_a_killed_actor_is_replaced_and_nothing_is_lost_or_doubled(graph):
    tmp_path, stores = graph
    run_stream(stages(tmp_path, stores, DiesOnce), stores[0], RESOURCES, {})
    assert (tmp_path / "a.log.died").exists()
    assert result(stores[2]) == EXPECTED


def test_an_actor_that_cannot_start_fails_the_run_with_its_reason(graph):
    tmp_path, stores = graph
    bad = [StreamStage(stores[1], cannot_start, PoolConfig(cpus=0.5))]
    with pytest.raises(UserError, match="stage first cannot start: no weights in /nowhere"):
        run_stream(bad, stores[0], RESOURCES, {})


def test_pools_that_do_not_fit_are_refused(graph):
    tmp_path, stores = graph
    greedy = [StreamStage(stores[1], cannot_start, PoolConfig(gpus=1))]
    with pytest.raises(UserError, match="1 GPU \\(there are 0\\)"):
        run_stream(greedy, stores[0], RESOURCES, {})
