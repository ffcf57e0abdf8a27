"""Several nodes: real raylets on this machine, each with resources of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import models
import pytest
from faults.fault_graph import BLOCK, IN_FLIGHT, Graph
from faults.test_faults import equal_to, in_the_middle, repeated, when

TESTS = Path(__file__).parents[1]
# One engine a node, and everything else on the head.
SPREAD = {"sample": {"actors": 2, "resources": {"engine": 1}, "blocks_in_flight": IN_FLIGHT}}
ENGINE_NODE = {"num_cpus": 2, "resources": {"engine": 1}}


@pytest.fixture
def cluster():
    """A head without room for an engine, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    fast = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500}
    made = Cluster()
    try:
        made.add_node(num_cpus=4, include_dashboard=False, _system_config=fast)
        for _ in range(2):
            made.add_node(**ENGINE_NODE)
        yield made
    finally:
        for node in made.list_all_nodes()[::-1]:
            made.remove_node(node, allow_graceful=False)


def drive(cluster, graph: Graph) -> subprocess.Popen:
    """The graph in a driver of its own: this process has a Ray already."""
    return subprocess.Popen(
        [sys.executable, TESTS / "faults" / "fault_graph.py",
         graph.folder, graph.model, json.dumps(SPREAD)],
        stdout=open(graph.folder / "driver.log", "w"), stderr=subprocess.STDOUT,
        env={**os.environ, "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1",
             "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )  # fmt: skip


def finish(driver: subprocess.Popen, graph: Graph) -> None:
    assert driver.wait(timeout=240) == 0, (graph.folder / "driver.log").read_text()


def test_two_nodes_and_then_one_of_them_removed(cluster, undisturbed, tmp_path):
    """One engine on each: the rows of one node. The second time a node goes with work unfinished
    on it, and another one joins in its place."""
    (tmp_path / "whole").mkdir()
    whole = Graph(tmp_path / "whole", models.tiny_llama())
    finish(drive(cluster, whole), whole)
    equal_to(undisturbed, whole)
    assert len({pid for _, pid in whole.taken("sample")}) == 2
    assert not repeated(whole, "sample")

    (tmp_path / "lossy").mkdir()
    lossy = Graph(tmp_path / "lossy", models.tiny_llama())
    driver = drive(cluster, lossy)
    when(in_the_middle(lossy), lambda pid: None).join()
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    lost = lossy.durable("sample")
    cluster.add_node(**ENGINE_NODE)
    finish(driver, lossy)
    equal_to(undisturbed, lossy)
    assert len({pid for _, pid in lossy.taken("sample")}) == 3
    again = repeated(lossy, "sample")
    assert 0 < again.total() <= IN_FLIGHT * BLOCK
    assert not lost & set(again)
