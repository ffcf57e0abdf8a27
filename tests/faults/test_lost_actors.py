"""An actor that Ray gives up before it ran: on a busy machine its driver may answer too late."""

import gc
import threading
import time

import ray
from elastic_graph import run_slow, work
from ray.data._internal.execution.operators.actor_pool_map_operator import _ActorPool

from maskdpo_ray.config import PoolConfig


def kill_before_it_runs(killed: list) -> None:
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        pools = [thing for thing in gc.get_objects() if isinstance(thing, _ActorPool)]
        for actor in [actor for pool in pools for actor in pool._pending_actors.values()]:
            ray.kill(actor)
            killed.append(actor)


def test_the_stream_starts_again(tmp_path, ray_cluster, capsys):
    killed = []
    killer = threading.Thread(target=kill_before_it_runs, args=[killed])
    killer.start()
    run_slow(tmp_path, 6, slow=(PoolConfig(cpus=0.5, blocks_in_flight=2), 0.1))
    killer.join()
    assert len(killed) == 1
    assert sorted(i for i, _, _ in work(tmp_path, "slow")) == sorted(f"q{n}" for n in range(6))
    assert "Ray lost an actor before it ran" in capsys.readouterr().err
