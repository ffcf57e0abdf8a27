"""A graph of one slow stage that needs no engine, and how many nodes it has while it runs.

As a script it is the driver on an autoscaled cluster: ``RAY_ADDRESS=... python elastic_graph.py
FOLDER`` prints the nodes that did the work, and waits until they have been given back.
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

PATIENCE = 60  # seconds for nodes to be given back


class Slow:
    """Takes its time, and logs where: one line ``id process node`` a row."""

    def __init__(self, log: str, seconds: float) -> None:
        self.log, self.seconds = log, seconds

    async def __call__(self, rows):
        import ray

        node = ray.get_runtime_context().get_node_id()
        with open(self.log, "a", encoding="utf-8") as log:
            log.write("".join(f"{row['id']} {os.getpid()} {node}\n" for row in rows))
        await asyncio.sleep(self.seconds)
        return rows


def run_slow(folder: Path, questions: int, seconds: float, pool: PoolConfig) -> list[list[str]]:
    """Run ``questions`` in blocks of one; (id, process, node) of each, oldest first."""
    lines = [f'{{"id": "q{n}", "topic": "t", "question": "x"}}' for n in range(questions)]
    (folder / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source, store = (
        StageStore(Folder(folder / name), name, name, {}, QUESTION_SCHEMA)
        for name in ("questions", "slow")
    )
    import_questions(str(folder / "q.jsonl"), DataConfig(), source, 1, {})
    log = folder / "slow.log"
    stage = StreamStage(store, partial(Slow, str(log), seconds), pool)
    resources = ResourcesConfig(questions_per_block=1, autoscale=True)
    run_stream([stage], source, resources, {})
    return [line.split() for line in log.read_text(encoding="utf-8").splitlines()]


def nodes() -> int:
    import ray

    return sum(node["Alive"] for node in ray.nodes())


if __name__ == "__main__":
    import ray

    from faults import elastic_graph  # actors know classes by this name

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    before = nodes()
    pool = PoolConfig(actors=(1, 2), cpus=1, gpus=1, blocks_in_flight=2)
    work = elastic_graph.run_slow(Path(sys.argv[1]), 80, 1.0, pool)
    most, deadline = nodes(), time.monotonic() + PATIENCE
    while nodes() > before and time.monotonic() < deadline:
        time.sleep(0.5)
    worked = sorted({node for _, _, node in work})
    print(json.dumps({"before": before, "most": most, "after": nodes(), "worked": worked}))
