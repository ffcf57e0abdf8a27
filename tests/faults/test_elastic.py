"""Pools and clusters that grow with the work and shrink without it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from faults.elastic_graph import run_slow

from maskdpo_ray.config import PoolConfig

TESTS = Path(__file__).parents[1]


def test_a_pool_grows_from_its_least_to_its_most(tmp_path, ray_cluster):
    pool = PoolConfig(actors=(1, 3), cpus=0.5, blocks_in_flight=2)
    work = run_slow(tmp_path, 60, 0.3, pool)
    assert sorted(i for i, _, _ in work) == sorted(f"q{n}" for n in range(60))
    processes = [process for _, process, _ in work]
    assert len(set(processes)) == 3
    assert len(set(processes[:2])) == 1, "it starts with the least"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def autoscaled(tmp_path):
    """Address of a head without a GPU, whose autoscaler starts raylets with one each."""
    import psutil

    port = free_port()
    address = f"127.0.0.1:{port}"
    node_types = {
        "head": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
        "engine": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "max_workers": 2},
    }
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 0.05,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
        },
        "available_node_types": node_types,
        "head_node_type": "head",
        "auth": {},
        "file_mounts": {},
    }
    (tmp_path / "autoscaler.yaml").write_text(json.dumps(config))
    environment = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={port}",
         "--node-ip-address=127.0.0.1", "--num-cpus=4", "--include-dashboard=false",
         f"--object-store-memory={100 * 2**20}", "--disable-usage-stats",
         f"--temp-dir=/tmp/maskdpo-elastic-{os.getpid()}",
         f"--autoscaling-config={tmp_path / 'autoscaler.yaml'}"],
        stdout=open(tmp_path / "head.log", "w"), stderr=subprocess.STDOUT,
        env={**os.environ, **environment}, start_new_session=True,
    )  # fmt: skip
    try:
        yield address
    finally:
        processes = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=30)


def test_nodes_join_as_the_graph_asks_and_are_given_back(autoscaled, tmp_path):
    driver = subprocess.run(
        [sys.executable, TESTS / "faults" / "elastic_graph.py", tmp_path],
        capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "RAY_ADDRESS": autoscaled, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )  # fmt: skip
    assert driver.returncode == 0, driver.stderr
    found = json.loads(driver.stdout.splitlines()[-1])
    assert found["before"] == 1, "the head alone"
    assert len(found["worked"]) == 2 and found["most"] == 3
    assert found["after"] == 1, "given back"
