"""Output storage that fails under the running graph, through the real protocol on loopback."""

import models
import pytest
from clusters import drive, finish
from fault_graph import BLOCK, IN_FLIGHT, Graph
from s3_server import cut, refuse
from test_faults import equal_to, repeated

BEFORE = 12  # writes that succeed first: manifests, locks and some parts


@pytest.fixture
def graph(tmp_path, bucket) -> Graph:
    return Graph(tmp_path, models.tiny_llama(), url=bucket)


def driver(graph: Graph, bucket: str):
    log = graph.folder / "driver.log"
    return drive(None, log, "fault_graph.py", graph.folder, graph.model, "{}", bucket), log


def parts_written(s3) -> int:
    return len([1 for method, path, _ in s3.requests if method == "PUT" and "/part-" in path])


def test_a_write_that_fails_once_is_not_noticed(undisturbed, graph, bucket, s3):
    s3.faults.extend([*[None] * BEFORE, refuse("503 Slow Down", "SlowDown"), None, cut, None, cut])
    finish(*driver(graph, bucket))
    assert not len(s3.faults), "all of them came"
    equal_to(undisturbed, graph)
    for stage in ("sample", "annotate", "pair"):
        assert not repeated(graph, stage)
    whole = sum(len(store.parts()) for store in graph.stores.values())
    assert parts_written(s3) > whole, "parts were written again"


def test_a_store_that_refuses_ends_the_run_and_the_same_command_goes_on(
    undisturbed, graph, bucket, s3
):
    s3.faults.extend([*[None] * BEFORE, refuse("403 Forbidden", "AccessDenied")])
    process, log = driver(graph, bucket)
    assert process.wait(timeout=240) != 0
    last = log.read_text().strip().splitlines()[-1]
    assert "cannot go on: cannot use s3://" in last and "ACCESS_DENIED" in last
    durable = {stage: graph.durable(stage) for stage in ("sample", "annotate", "pair")}
    assert len(durable["sample"]) < 40

    finish(*driver(graph, bucket))
    equal_to(undisturbed, graph)
    for stage, done in durable.items():
        again = repeated(graph, stage)
        assert not done & set(again)
        assert again.total() <= IN_FLIGHT * BLOCK
