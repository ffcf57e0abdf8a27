import numpy as np
import pytest

from maskdpo_ray.training.batch_plan import global_batch, split_batch, steps_per_epoch

LENGTHS = np.random.default_rng(0).integers(5, 200, 37)


@pytest.mark.parametrize("batch_size", [1, 5, 37, 64])
def test_an_epoch_shows_every_pair_once(batch_size):
    steps = steps_per_epoch(37, batch_size)
    for epoch in (0, 1):
        seen = [global_batch(epoch * steps + s, 37, batch_size, seed=3) for s in range(steps)]
        assert sorted(np.concatenate(seen).tolist()) == list(range(37))
        assert {len(batch) for batch in seen[:-1]} <= {batch_size}


def test_epochs_and_seeds_differ_and_repeat():
    first, second = global_batch(0, 37, 37, seed=3), global_batch(1, 37, 37, seed=3)
    assert first.tolist() != second.tolist()
    assert first.tolist() != global_batch(0, 37, 37, seed=4).tolist()
    assert first.tolist() == global_batch(0, 37, 37, seed=3).tolist()


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("tokens", [1, 500, 10**6])
def test_a_split_loses_no_pair_and_keeps_workers_in_step(workers, tokens):
    batch = global_batch(0, 37, 16, seed=0)
    plan = split_batch(batch, LENGTHS, workers, tokens)
    assert len(plan) == workers and len({len(passes) for passes in plan}) == 1
    pairs = [index for passes in plan for p in passes for index in p.tolist()]
    assert sorted(pairs) == sorted(batch.tolist())


def test_a_pass_stays_within_its_tokens_unless_it_is_one_pair():
    plan = split_batch(np.arange(37), LENGTHS, 2, 600)
    for passes in plan:
        for indices in passes:
            assert len(indices) <= 1 or 2 * len(indices) * LENGTHS[indices].max() <= 600


def test_workers_share_the_cost():
    lengths = np.random.default_rng(1).integers(50, 1000, 64)
    plan = split_batch(np.arange(64), lengths, 4, 8192)
    costs = [sum(len(p) * lengths[p].max(initial=0) for p in passes) for passes in plan]
    assert max(costs) < 1.25 * min(costs)


def test_little_is_padding():
    lengths = np.random.default_rng(1).integers(50, 1000, 64)
    (passes,) = split_batch(np.arange(64), lengths, 1, 8192)
    padded = sum(len(p) * lengths[p].max() for p in passes)
    assert padded < 1.2 * lengths.sum()
