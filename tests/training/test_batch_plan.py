import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.training.batch_plan import (
    global_batch,
    pass_cost,
    split_batch,
    steps_per_epoch,
    waiting,
)

TOKENS = np.random.default_rng(0).integers(10, 400, 37)


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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("budget", [1, 500, 10**6])
def test_a_split_loses_no_pair_and_keeps_workers_in_step(workers, budget, packed):
    batch = global_batch(0, 37, 16, seed=0)
    plan = split_batch(batch, TOKENS, workers, budget, packed)
    assert len(plan) == workers and len({len(passes) for passes in plan}) == 1
    pairs = [index for passes in plan for p in passes for index in p.tolist()]
    assert sorted(pairs) == sorted(batch.tolist())


@pytest.mark.parametrize("packed", [False, True])
def test_a_pass_stays_within_its_tokens_unless_it_is_one_pair(packed):
    plan = split_batch(np.arange(37), TOKENS, 2, 600, packed)
    passes = [p for column in plan for p in column]
    assert all(len(p) <= 1 or pass_cost(p, TOKENS, packed) <= 600 for p in passes)
    # Not by giving every pair a pass of its own.
    assert np.mean([len(p) for p in passes]) > 1.5


@pytest.mark.parametrize("packed", [False, True])
def test_pairs_longer_than_a_pass_bring_no_empty_ones(packed):
    plan = split_batch(np.arange(37), TOKENS, 2, 1, packed)
    assert [len(passes) for passes in plan] == [19, 19]


@pytest.mark.parametrize(
    ("packed", "workers", "limit"),
    [(True, 2, 1.02), (True, 4, 1.05), (False, 2, 1.1), (False, 4, 1.25)],
)
def test_no_worker_waits_long_for_another(packed, workers, limit):
    """Batches of 64 pairs, 8192 tokens a pass, lengths spread over a factor of 20: in the mean
    over twenty batches a step takes at most so much longer than with all workers always busy."""
    waits = []
    for seed in range(20):
        tokens = np.random.default_rng(seed).integers(100, 2000, 64)
        plan = split_batch(np.arange(64), tokens, workers, 8192, packed)
        waits.append(waiting(plan, tokens, packed))
    assert min(waits) >= 1 and np.mean(waits) < limit


def test_waiting_by_hand():
    tokens = np.array([10, 4, 6])
    one, two, three = (np.array([index]) for index in range(3))
    assert waiting([[one], [np.array([1, 2])]], tokens, packed=True) == 1.0
    # The first micro-step takes 10, the second 6; the workers are busy for 16 and 4.
    assert waiting([[one, three], [two, np.array([], int)]], tokens, packed=True) == 1.6
    # Padded to its longest, the second pass costs 12.
    assert waiting([[one], [np.array([1, 2])]], tokens, packed=False) == 12 / 11


def test_little_is_padding():
    tokens = np.random.default_rng(1).integers(100, 2000, 64)
    (passes,) = split_batch(np.arange(64), tokens, 1, 8192)
    assert sum(pass_cost(p, tokens, packed=False) for p in passes) < 1.2 * tokens.sum()
    (passes,) = split_batch(np.arange(64), tokens, 1, 8192, packed=True)
    assert sum(pass_cost(p, tokens, packed=True) for p in passes) == tokens.sum()


@given(
    pairs=st.integers(1, 300),
    batch_size=st.integers(1, 70),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    sessions=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9), st.integers(1, 9))),
    packed=st.booleans(),
)
def test_no_pair_is_repeated_or_skipped_whenever_and_wherever_it_goes_on(
    pairs, batch_size, epochs, seed, sessions, packed
):
    """Sessions end after some steps, lose those since their last checkpoint, and go on with other
    numbers of workers: what the weights have seen in the end is every pair once an epoch."""
    tokens = np.random.default_rng(pairs).integers(2, 400, pairs)
    per_epoch = steps_per_epoch(pairs, batch_size)
    total = epochs * per_epoch
    learnt: list[list[int]] = []
    for steps, lost, workers in [*sessions, (total, 0, 1)]:
        for _ in range(min(steps, total - len(learnt))):
            batch = global_batch(len(learnt), pairs, batch_size, seed)
            plan = split_batch(batch, tokens, workers, 1000, packed)
            learnt.append(sorted(i for passes in plan for p in passes for i in p.tolist()))
        if len(learnt) < total:
            del learnt[max(0, len(learnt) - lost) :]
    for start in range(0, total, per_epoch):
        seen = [index for batch in learnt[start : start + per_epoch] for index in batch]
        assert sorted(seen) == list(range(pairs))
    for step, batch in enumerate(learnt):
        assert batch == sorted(global_batch(step, pairs, batch_size, seed).tolist())
