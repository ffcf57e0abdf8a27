"""A node is removed while it holds unfinished work: real raylets, each with its own resources."""

import json

import models
import pytest
from clusters import drive, finish
from elastic_graph import release, store, work
from fault_graph import BLOCK, IN_FLIGHT, Graph
from node_cluster import node_cluster
from test_faults import equal_to, in_the_middle, repeated, wait_for

# One engine a node, and everything else on the head.
SPREAD = {"sample": {"actors": 2, "resources": {"engine": 1}, "blocks_in_flight": IN_FLIGHT}}
ENGINE_NODE = {"num_cpus": 2, "resources": {"engine": 1}}


@pytest.fixture(scope="module")
def cluster():
    """A head without room for an engine, and two nodes with room for one each."""
    with node_cluster({"num_cpus": 4, "resources": {"head": 1}}, ENGINE_NODE) as made:
        yield made


def test_a_node_removed_in_the_middle_of_a_batch(cluster, undisturbed, tmp_path):
    """Two nodes, then one and a new one: the rows of the undisturbed run on a single node."""
    graph, log = Graph(tmp_path, models.tiny_llama()), tmp_path / "driver.log"
    driver = drive(
        cluster.address(), log, "fault_graph.py", tmp_path, graph.model, json.dumps(SPREAD)
    )
    wait_for(in_the_middle(graph, processes=2))
    cluster.remove_node(cluster.nodes()[0])
    durable = graph.durable("sample")
    cluster.add_node()
    finish(driver, log)
    equal_to(undisturbed, graph)
    assert len({pid for _, pid in graph.taken("sample")}) == 3
    again = repeated(graph, "sample")
    assert 0 < again.total() <= IN_FLIGHT * BLOCK
    assert not durable & set(again)


def test_durable_rows_that_a_removed_node_still_held_are_not_worked_on_again(cluster, tmp_path):
    """Their outputs are gone with the node's memory before the next stage had them."""
    while len(cluster.nodes()) < 2:  # an attempt that failed may have taken one
        cluster.add_node()
    log = tmp_path / "driver.log"
    driver = drive(cluster.address(), log, "elastic_graph.py", "make_ahead", tmp_path)
    quick = store(tmp_path, "quick")
    wait_for(lambda: len(quick.finished()[0]) >= 12)
    home = work(tmp_path, "quick")[0][2]
    cluster.remove_node(home)
    durable = quick.finished()[0]
    waiting = durable - {i for i, _, _ in work(tmp_path, "slow")}
    assert waiting, "the second stage lags behind"
    release(tmp_path, "slow")
    finish(driver, log)
    for name in ("quick", "slow"):
        assert sorted(row["id"] for row in store(tmp_path, name).rows()) == sorted(
            f"q{n}" for n in range(24)
        )
    again = [i for i, _, node in work(tmp_path, "quick") if node != home]
    assert not durable & set(again)
