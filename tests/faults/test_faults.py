"""The promise table of docs/design.md, each event caused for real on real engines.

A driver that is killed and the command that runs again are in ``test_pipeline.py``.
"""

import os
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import models
from fault_graph import BLOCK, IN_FLIGHT, QUESTIONS, Graph, LosesItsWeights

PATIENCE = 120  # seconds until an event must have come
IDS = {f"q{n}" for n in range(QUESTIONS)}


def wait_for(happened):
    """What ``happened`` answers, as soon as that is something true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def repeated(graph: Graph, stage: str) -> Counter:
    """How often more than once each row was taken up."""
    return Counter(i for i, _ in graph.taken(stage)) - Counter(IDS)


def equal_to(undisturbed: Graph, graph: Graph) -> None:
    """Every id exactly once in every stage, and every row as in the undisturbed run."""
    for name, store in graph.stores.items():
        assert graph.durable(name) == IDS
        rows = [row["id"] for row in [*store.rows(), *store.rejected_rows()]]
        assert len(rows) == len(IDS)
    assert graph.rows() == undisturbed.rows()


def test_the_undisturbed_run_repeats_nothing(undisturbed):
    for stage in ("sample", "annotate", "pair"):
        assert not repeated(undisturbed, stage)
    pairs = list(undisturbed.stores["pair"].rows())
    assert len(pairs) > QUESTIONS / 2


def engine_logs(process: int) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"maskdpo-engine-{process}-*/engine.log"))


def in_the_middle(graph: Graph, processes: int = 1):
    """Process of a sampler that has rows under way, once rows are durable."""

    def process():
        done = graph.durable("sample")
        under_way = [pid for i, pid in graph.taken("sample") if i not in done]
        enough = done and len(under_way) > BLOCK and len(set(under_way)) == processes
        return enough and under_way[-1]

    return process


def test_a_sampler_killed_in_the_middle_of_a_batch(undisturbed, tmp_path):
    graph = Graph(tmp_path, models.tiny_llama())
    threading.Thread(target=lambda: os.kill(wait_for(in_the_middle(graph)), signal.SIGKILL)).start()
    graph.run()
    equal_to(undisturbed, graph)
    again = repeated(graph, "sample")
    assert 0 < again.total() <= IN_FLIGHT * BLOCK
    assert len({pid for _, pid in graph.taken("sample")}) == 2
    for stage in ("annotate", "pair"):
        assert not repeated(graph, stage)


def test_an_engine_that_dies_in_a_live_actor(undisturbed, tmp_path):
    """The embedding table shrinks under the running engine, as if its memory were lost: the next
    step fails inside vLLM's forward pass."""
    graph = Graph(tmp_path, models.tiny_llama(), sampler=LosesItsWeights)
    graph.run()
    assert (tmp_path / "weights.lost").exists()
    equal_to(undisturbed, graph)
    processes = dict.fromkeys(pid for _, pid in graph.taken("sample"))
    died, replaced = processes
    assert "index out of range" in graph.last_words("sample")
    assert engine_logs(died), "the log of an engine that died is kept"
    wait_for(lambda: not engine_logs(replaced))
    assert 0 < repeated(graph, "sample").total() <= IN_FLIGHT * BLOCK


def test_a_worker_of_a_parallel_engine_is_killed(undisturbed, tmp_path):
    """An engine over two devices works in processes of its own, here one a shard of the model."""
    import psutil

    graph = Graph(tmp_path, models.tiny_llama(), tensor_parallel_size=2)

    def kill_a_worker() -> None:
        actor = psutil.Process(wait_for(in_the_middle(graph)))
        workers.extend(actor.children(recursive=True))
        shards = [worker for worker in workers if "VLLM::Worker" in worker.cmdline()[0]]
        shards[-1].kill()

    workers: list[psutil.Process] = []
    threading.Thread(target=kill_a_worker).start()
    graph.run()
    for name in graph.stores:
        assert graph.durable(name) == IDS
    assert 0 < repeated(graph, "sample").total() <= IN_FLIGHT * BLOCK
    assert len({pid for _, pid in graph.taken("sample")}) == 2
    wait_for(lambda: not any(worker.is_running() for worker in workers))
