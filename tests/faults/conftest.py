"""The undisturbed run that every disturbed one is held against."""

import models
import pytest
from faults.fault_graph import Graph


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, ray_cluster) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("undisturbed"), models.tiny_llama())
    graph.run()
    return graph
