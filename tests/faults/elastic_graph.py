"""Stages that need no engine, on pools and nodes that come and go.

As a script it is the driver of a cluster that a test made:
``RAY_ADDRESS=... python elastic_graph.py FUNCTION FOLDER`` prints what the function found.
"""

import asyncio
import json
import os
import sys
import time
from functools import partial
from pathlib import Path

from maskdpo_ray.config import DataConfig, PoolConfig, ResourcesConfig
from maskdpo_ray.questions import import_questions
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import StreamStage, run_stream

PATIENCE = 120  # seconds for nodes to come, and to be given back
LONG = 2**18  # characters of a row: outputs that stay in the object store of the node


class Slow:
    """Takes its time, and logs where: one line ``id process node`` a row.

    The first ``quick`` rows cost no time. No row is done before ``together`` actors have taken up
    rows, however long they take to start on a busy machine, and none of a stage that is ``held``
    before its test says so (``release``).
    """

    def __init__(
        self,
        log: str,
        seconds: float,
        length: int = 0,
        quick: int = 0,
        together: int = 1,
        held: bool = False,
    ) -> None:
        self.log, self.seconds, self.length, self.quick = log, seconds, length, quick
        self.together, self.held = together, held

    async def __call__(self, rows):
        import ray

        node = ray.get_runtime_context().get_node_id()
        with open(self.log, "a", encoding="utf-8") as log:
            log.write("".join(f"{row['id']} {os.getpid()} {node}\n" for row in rows))
        await asyncio.sleep(self.seconds if self.quick <= 0 else 0)
        self.quick -= len(rows)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and (len(self._actors()) < self.together or self._held()):
            await asyncio.sleep(0.2)
        return [{**row, "question": row["question"].ljust(self.length)} for row in rows]

    def _actors(self) -> set[str]:
        log = Path(self.log)
        return {process for _, process, _ in work(log.parent, log.stem)}

    def _held(self) -> bool:
        return self.held and not Path(self.log).with_suffix(".released").exists()


def release(folder: Path, name: str) -> None:
    """Let the held stage of this name go on."""
    (folder / f"{name}.released").touch()


def work(folder: Path, name: str) -> list[list[str]]:
    """(id, process, node) of everything that the stage took up, oldest first."""
    log = folder / f"{name}.log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def store(folder: Path, name: str) -> StageStore:
    return StageStore(Folder(folder / name), name, name, {}, QUESTION_SCHEMA)


def run_slow(folder: Path, questions: int, **stages: tuple) -> None:
    """Run ``questions`` in blocks of one through stages: pool, and the arguments of ``Slow``."""
    lines = [f'{{"id": "q{n}", "topic": "t", "question": "x"}}' for n in range(questions)]
    (folder / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = store(folder, "questions")
    import_questions(str(folder / "q.jsonl"), DataConfig(), source, 1, {})
    graph = [
        StreamStage(
            store(folder, name), partial(Slow, str(folder / f"{name}.log"), *arguments), pool
        )
        for name, (pool, *arguments) in stages.items()
    ]
    run_stream(graph, source, ResourcesConfig(questions_per_block=1, autoscale=True), {})


def nodes() -> int:
    import ray

    return sum(node["Alive"] for node in ray.nodes())


def grow_and_give_back(folder: Path) -> dict:
    """How many nodes there are before, at the end of and after a stage that wants GPUs."""
    before = nodes()
    pool = PoolConfig(actors=(1, 2), cpus=1, gpus=1, blocks_in_flight=2)
    # Long enough for the second node to come while there is work, on a busy machine too.
    run_slow(folder, 200, slow=(pool, 1.0, 0))
    most, deadline = nodes(), time.monotonic() + PATIENCE
    while nodes() > before and time.monotonic() < deadline:
        time.sleep(0.5)
    return {"before": before, "most": most, "after": nodes()}


def make_ahead(folder: Path) -> dict:
    """A quick stage on a node of engines, far ahead of one on the head that is held."""
    quick = PoolConfig(cpus=0.5, resources={"engine": 1}, blocks_in_flight=4)
    slow = PoolConfig(cpus=0.5, resources={"head": 1}, blocks_in_flight=1)
    run_slow(folder, 24, quick=(quick, 0.0, LONG), slow=(slow, 0.0, 0, 0, 1, True))
    return {}


if __name__ == "__main__":
    import elastic_graph  # actors know classes by this name
    import ray

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    print(json.dumps(getattr(elastic_graph, sys.argv[1])(Path(sys.argv[2]))))
