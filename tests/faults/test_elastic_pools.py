"""Pools and clusters that grow with the work and shrink without it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from clusters import drive, finish
from elastic_graph import run_slow, work
from job_head import free_port

from maskdpo_ray.config import PoolConfig


def test_a_pool_grows_from_its_least_to_its_most(tmp_path, ray_cluster):
    pool = PoolConfig(actors=(1, 3), cpus=0.5, blocks_in_flight=2)
    run_slow(tmp_path, 30, slow=(pool, 0.3, 0, 0, 3))
    taken = work(tmp_path, "slow")
    assert sorted(i for i, _, _ in taken) == sorted(f"q{n}" for n in range(30))
    processes = [process for _, process, _ in taken]
    assert len(set(processes)) == 3
    assert len(set(processes[:2])) == 1, "it starts with the least"


def test_a_pool_shrinks_when_there_is_little_to_do(tmp_path, ray_cluster):
    """Forty rows at once, then one a second for an actor that needs half of one."""
    first = PoolConfig(cpus=0.5, blocks_in_flight=1)
    pool = PoolConfig(actors=(1, 3), cpus=0.5, blocks_in_flight=1)
    run_slow(tmp_path, 75, first=(first, 1.0, 0, 40), second=(pool, 0.5, 0, 0, 3))
    taken = work(tmp_path, "second")
    assert sorted(i for i, _, _ in taken) == sorted(f"q{n}" for n in range(75))
    processes = [process for _, process, _ in taken]
    assert len(set(processes)) == 3
    assert len(set(processes[-6:])) == 1


OPEN = {"RAY_AUTH_MODE": "disabled"}  # else a token that lies at home decides
HEAD = "ray.head.default"  # the fake provider's own name for it
# Commands for machines to be set up with: raylets on this one need none.
COMMANDS = [
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
]  # fmt: skip


@pytest.fixture(scope="module")
def autoscaled(tmp_path_factory):
    """Address of a head without a GPU, whose autoscaler starts raylets with one each."""
    import psutil

    tmp_path = tmp_path_factory.mktemp("autoscaled")
    port = free_port()
    temp = tempfile.mkdtemp(prefix="elastic-", dir="/tmp")  # short: sockets lie in it
    address = f"127.0.0.1:{port}"
    node_types = {
        HEAD: {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
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
        "head_node_type": HEAD,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
    } | {key: [] for key in COMMANDS}
    (tmp_path / "autoscaler.yaml").write_text(json.dumps(config))
    environment = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", **OPEN}
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={port}",
         "--node-ip-address=127.0.0.1", "--num-cpus=4", "--include-dashboard=false",
         f"--object-store-memory={100 * 2**20}", "--disable-usage-stats",
         f"--temp-dir={temp}",
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
        shutil.rmtree(temp, ignore_errors=True)


def test_a_driver_that_refuses_its_cluster_is_told_why(autoscaled, tmp_path):
    """It asks for a token, the cluster has none: it does not hear whether it wants its actors."""
    log = tmp_path / "driver.log"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    driver = drive(autoscaled, log, "elastic_graph.py", "grow_and_give_back", tmp_path, **token)
    assert driver.wait(timeout=240) != 0
    last = log.read_text().strip().splitlines()[-1]
    assert "Ray gave an actor up before it ran" in last and "set RAY_AUTH_MODE" in last


def test_nodes_join_as_the_graph_asks_and_are_given_back(autoscaled, tmp_path):
    log = tmp_path / "driver.log"
    driver = drive(autoscaled, log, "elastic_graph.py", "grow_and_give_back", tmp_path, **OPEN)
    lines = finish(driver, log, seconds=420).splitlines()
    found = next(json.loads(line) for line in lines if line.startswith("{"))
    assert found == {"before": 1, "most": 3, "after": 1}
    assert len({node for _, _, node in work(tmp_path, "slow")}) == 2
