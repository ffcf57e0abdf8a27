"""The streaming graph on a real Ray, with processors that need no engine."""

import asyncio
import os
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from maskdpo_ray.config import DataConfig, PoolConfig, ResourcesConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.questions import import_questions
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import StageActor, StreamStage, _task, run_stream

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


class LosesItsFolder(Append):
    """Puts a file in the place of the first stage's folder when it meets q13."""

    async def __call__(self, rows):
        folder = Path(self.log).parent / "first"
        if any(row["id"] == "q13" for row in rows) and folder.is_dir():
            folder.rename(folder.with_name("elsewhere"))
            folder.touch()
        return await super().__call__(rows)


class RejectsAll:
    async def __call__(self, rows):
        return [RowRejected("poison", row["id"]) for row in rows]


class SeesDevices:
    """Answers with the GPUs that its process may use."""

    async def __call__(self, rows):
        return [row | {"question": repr(os.environ.get("CUDA_VISIBLE_DEVICES"))} for row in rows]


class SlowStore(StageStore):
    """Storage that has one block durable only when another is on its way too."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.both = threading.Barrier(2)

    def write(self, *block):
        self.both.wait(timeout=10)
        return super().write(*block)


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


def test_storage_that_goes_on_failing_ends_the_run_with_the_folder_and_the_reason(graph):
    tmp_path, stores = graph
    with pytest.raises(UserError) as error:
        run_stream(stages(tmp_path, stores, LosesItsFolder), stores[0], RESOURCES, {})
    told = str(error.value)
    assert told.startswith(f"stage first cannot go on: cannot use {stores[1].folder}: [Errno ")
    assert "\n" not in told
    (tmp_path / "first").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "first")
    run_stream(stages(tmp_path, stores), stores[0], RESOURCES, {})
    assert result(stores[2]) == EXPECTED


def test_a_stage_that_nothing_came_to_has_a_whole_manifest(graph):
    tmp_path, stores = graph
    pool = PoolConfig(cpus=0.5)
    run_stream([StreamStage(stores[1], RejectsAll, pool)], stores[0], RESOURCES, {})
    second = StreamStage(stores[2], partial(Append, "b", str(tmp_path / "b.log")), pool)
    run_stream([second], stores[1], RESOURCES, {"maskdpo": "1"})
    manifest = stores[2].manifest()
    assert (manifest["stage"], manifest["state"]) == ("second", "complete")
    assert manifest["versions"] == {"maskdpo": "1"}
    assert manifest["counts"] == {"in": 0, "out": 0, "rejected": {}}


def test_a_shared_store_has_done_what_it_holds_of_this_run(graph):
    tmp_path, stores = graph
    cache = StreamStage(stores[1], RejectsAll, PoolConfig(), shared=True)
    questions = [row for row in stores[0].rows() if row["id"] in ("q1", "q2", "q3")]
    theirs = questions[0] | {"id": "theirs"}
    stores[1].write(["theirs", "q1", "q2", "q3"], [theirs, *questions], [], 4)
    assert _task(cache, stores[0]).done == 3


def test_an_actor_works_on_other_blocks_while_one_is_being_stored(tmp_path):
    store = SlowStore(Folder(tmp_path), "slow", "s", {}, QUESTION_SCHEMA)
    build = partial(Append, "a", str(tmp_path / "a.log"))
    actor = StageActor(build, store, "id", forward=True, group=4, gpus=0)
    rows = [
        {"id": i, "topic": "t", "question": "x", "document": None, "language": "en",
         "candidates": []}
        for i in "ab"
    ]  # fmt: skip
    blocks = [pa.Table.from_pylist([row], QUESTION_SCHEMA) for row in rows]

    async def both():
        return await asyncio.gather(*map(actor, blocks))

    tables = asyncio.run(both())
    assert [table["question"].to_pylist() for table in tables] == [["xa"], ["xa"]]
    assert store.finished() == ({"a", "b"}, set())


def test_an_actor_that_asks_for_no_gpu_sees_none(graph):
    _, stores = graph
    run_stream([StreamStage(stores[1], SeesDevices, PoolConfig())], stores[0], RESOURCES, {})
    assert set(result(stores[1]).values()) == {"''"}


def test_pools_that_do_not_fit_are_refused(graph):
    tmp_path, stores = graph
    greedy = [StreamStage(stores[1], cannot_start, PoolConfig(gpus=1))]
    with pytest.raises(UserError, match="1 GPU \\(there are 0\\)"):
        run_stream(greedy, stores[0], RESOURCES, {})
