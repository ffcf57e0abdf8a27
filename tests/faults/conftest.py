"""The undisturbed run that every disturbed one is held against."""

import os

import models
import pytest
from fault_graph import Graph

# Actors import what the tests of this folder define (see ``ray_cluster``).
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(__file__), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, ray_cluster) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("undisturbed"), models.tiny_llama())
    graph.run()
    return graph
