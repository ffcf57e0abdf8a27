import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskdpo_ray.topics.distance import by_distance, halves, random_halves, to_nearest

KEYS = [f"topic {n:03}" for n in range(101)]


def unit(rows) -> np.ndarray:
    rows = np.array(rows, dtype=float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def unit_rows(least: int):
    values = st.floats(-1, 1).map(lambda x: round(x, 3))
    shape = st.tuples(st.integers(least, 12), st.just(4))
    rows = shape.flatmap(lambda s: arrays(np.float64, s, elements=values))
    return rows.filter(lambda r: (np.linalg.norm(r, axis=1) > 0.1).all()).map(unit)


def test_distances_by_hand():
    pool = unit([[1, 0], [0, 1], [-1, 0], [1, 1]])
    distances, nearest = to_nearest(pool, unit([[0, 5], [1, 0]]))
    assert distances.tolist() == [0.0, 0.0, 1.0, round(1 - 0.5**0.5, 6)]
    assert nearest.tolist() == [1, 0, 0, 0], "the first of equally near targets"
    assert to_nearest(pool, unit([[1, 0]]))[0].tolist()[:3] == [0.0, 1.0, 2.0]


@given(unit_rows(0), unit_rows(1))
def test_distances_are_those_of_the_definition(pool, targets):
    distances, nearest = to_nearest(pool, targets)
    for row, distance, index in zip(pool, distances, nearest, strict=True):
        each = [1 - float(np.dot(row, target)) for target in targets]
        assert abs(distance - min(each)) < 2e-6
        assert abs(each[index] - min(each)) < 2e-6
        assert 0 <= distance <= 2


def test_many_topics_are_taken_in_portions(monkeypatch):
    random = np.random.default_rng(0)
    pool, targets = unit(random.normal(size=(50, 8))), unit(random.normal(size=(5, 8)))
    whole = to_nearest(pool, targets)
    monkeypatch.setattr("maskdpo_ray.topics.distance.ROWS_AT_ONCE", 7)
    for ours, theirs in zip(to_nearest(pool, targets), whole, strict=True):
        assert np.array_equal(ours, theirs)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        to_nearest(unit([[1, 0]]), unit([[1, 0, 0]]))
    with pytest.raises(ValueError, match="do not fit"):
        to_nearest(unit([[1, 0]]), np.empty((0, 2)))
    with pytest.raises(ValueError, match="length 1"):
        to_nearest(np.array([[3.0, 4.0]]), unit([[1, 0]]))


def test_near_and_far_halves_with_ties_by_key():
    near, far = halves(["d", "c", "b", "a", "e"], np.array([0.1, 0.5, 0.5, 0.5, 0.9]))
    assert (near, far) == ([0, 3], [1, 4]), "of five the middle one, b, is in neither"
    assert halves(["a"], np.array([0.0])) == ([], [])


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3]), min_size=2, max_size=40), st.randoms())
def test_halves_do_not_depend_on_the_order_of_the_pool(distances, random):
    keys, order = KEYS[: len(distances)], list(range(len(distances)))
    random.shuffle(order)
    shuffled = [keys[n] for n in order], np.array(distances)[order]
    for ours, theirs in zip(halves(*shuffled), halves(keys, np.array(distances)), strict=True):
        assert [shuffled[0][n] for n in ours] == [keys[n] for n in theirs]


@given(st.lists(st.floats(0, 2), min_size=2, max_size=40))
def test_every_near_topic_is_as_near_as_every_far_one(distances):
    near, far = halves(KEYS[: len(distances)], np.array(distances))
    assert max(distances[n] for n in near) <= min(distances[n] for n in far)
    assert len(near) == len(far) == len(distances) // 2
    assert not set(near) & set(far)


@given(st.integers())
def test_random_halves_are_disjoint_and_follow_the_seed(seed):
    one, other = random_halves(KEYS, seed)
    assert len(one) == len(other) == 50 and not set(one) & set(other)
    assert random_halves(KEYS, seed) == (one, other)
    assert set(random_halves(KEYS, seed + 1)[0]) != set(one)
    backwards, _ = random_halves(KEYS[::-1], seed)
    assert {KEYS[::-1][n] for n in backwards} == {KEYS[n] for n in one}


def test_random_halves_are_fair():
    times = np.zeros(len(KEYS))
    for seed in range(400):
        times[random_halves(KEYS, seed)[0]] += 1
    assert (np.abs(times / 400 - 50 / 101) < 0.12).all()


def test_order_by_distance():
    assert by_distance(["b", "a", "c"], np.array([1.0, 1.0, 0.5])) == [2, 1, 0]
