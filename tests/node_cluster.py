"""A cluster of several nodes on this machine: real raylets, each with resources of its own.

Ray's ``Cluster`` makes itself the place where its process keeps Ray's key-value store; a test
process that is connected to another Ray would look there for ever once the cluster is gone. So it
lives in a process of its own.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.managers import BaseManager

from job_head import ATTEMPTS

# A node that is lost is missed after a second, not after half a minute.
FAST = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500}


class NodeCluster:
    """A head and nodes that come and go; nodes are named by Ray's ids."""

    def __init__(self, head: dict, node: dict, count: int) -> None:
        from ray.cluster_utils import Cluster

        self._node = node
        # Its hooks on the end of the process need the main thread; ``stop`` does what they would.
        self._cluster = Cluster(shutdown_at_exit=False)
        self._cluster.add_node(**head, include_dashboard=False, _system_config=FAST)
        for _ in range(count):
            self.add_node()

    def address(self) -> str:
        return self._cluster.address

    def nodes(self) -> list[str]:
        """Those beside the head."""
        return [node.node_id for node in self._cluster.worker_nodes]

    def add_node(self) -> None:
        self._cluster.add_node(**self._node)

    def remove_node(self, name: str) -> None:
        """Kill all its processes without a word to the others."""
        node = next(node for node in self._cluster.worker_nodes if node.node_id == name)
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        for node in self._cluster.list_all_nodes()[::-1]:
            self._cluster.remove_node(node, allow_graceful=False)


class _Process(BaseManager):
    pass


_Process.register("NodeCluster", NodeCluster)


@contextmanager
def node_cluster(head: dict, node: dict, count: int = 2) -> Iterator[NodeCluster]:
    """A head of the resources ``head``, and ``count`` nodes of the resources ``node``."""
    for attempt in range(ATTEMPTS):
        with _Process(ctx=multiprocessing.get_context("spawn")) as process:
            try:
                cluster = process.NodeCluster(head, node, count)
            except Exception as error:
                if "timed out during startup" in str(error) and attempt + 1 < ATTEMPTS:
                    continue
                raise
            try:
                yield cluster
            finally:
                cluster.stop()
            return
