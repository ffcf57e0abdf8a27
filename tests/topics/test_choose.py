import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.topics.choose import choose
from maskdpo_ray.topics.distance import by_distance, to_nearest

KEYS = [f"t{n:02}" for n in range(30)]


def problem(seed: int, topics: int = 12, targets: int = 3):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(topics + targets, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pool = rows[:topics]
    return KEYS[:topics], pool, to_nearest(pool, rows[topics:])[0]


def by_the_formula(keys, vectors, distances, budget, diversity) -> list[int]:
    """The definition, one topic at a time."""
    chosen: list[int] = []
    while len(chosen) < budget:

        def value(t):
            likeness = max((round(float(vectors[t] @ vectors[c]), 6) for c in chosen), default=0.0)
            gain = (1 - diversity) * (1 - distances[t]) - diversity * likeness
            return (-round(gain, 6), distances[t], keys[t])

        left = [t for t in range(len(keys)) if t not in chosen]
        chosen.append(min(left, key=value if chosen else lambda t: (distances[t], keys[t])))
    return chosen


def test_without_diversity_the_nearest_with_ties_by_key():
    vectors = np.eye(4)
    assert choose(["d", "c", "b", "a"], vectors, np.array([0.2, 0.1, 0.2, 0.9]), 3) == [1, 2, 0]


def test_diversity_leaves_a_double_out():
    """The two topics nearest to the target are the same; a third is a little farther."""
    vectors = np.array([[0.8, 0.6, 0.0], [0.8, 0.6, 0.0], [0.75, 0.0, 0.6614378], [-1.0, 0.0, 0.0]])
    distances = 1 - vectors @ np.array([1.0, 0.0, 0.0])
    keys = ["a", "a again", "b", "far"]
    assert choose(keys, vectors, distances, 2) == [0, 1]
    # 0.5 * 0.8 - 0.5 * 1 for the double, 0.5 * 0.75 - 0.5 * 0.6 for b, -0.5 + 0.5 * 0.8 for far
    assert choose(keys, vectors, distances, 2, diversity=0.5) == [0, 2]
    assert choose(keys, vectors, distances, 2, diversity=1.0) == [0, 3]


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]))
def test_the_choice_is_that_of_the_formula(seed, budget, diversity):
    given_problem = problem(seed)
    chosen = choose(*given_problem, budget, diversity)
    assert chosen == by_the_formula(*given_problem, budget, diversity)
    assert len(set(chosen)) == budget


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.4]), st.randoms())
def test_a_choice_does_not_depend_on_the_order_of_the_pool(seed, diversity, random):
    keys, vectors, distances = problem(seed)
    order = list(range(len(keys)))
    random.shuffle(order)
    shuffled = choose([keys[n] for n in order], vectors[order], distances[order], 6, diversity)
    assert [order[n] for n in shuffled] == choose(keys, vectors, distances, 6, diversity)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.4]))
def test_a_smaller_budget_is_the_beginning_and_a_whole_one_everything(seed, diversity):
    given_problem = problem(seed)
    everything = choose(*given_problem, 12, diversity)
    assert sorted(everything) == list(range(12))
    for budget in (1, 5, 11):
        assert choose(*given_problem, budget, diversity) == everything[:budget]
    assert everything[0] == by_distance(given_problem[0], given_problem[2])[0]


@pytest.mark.parametrize(("budget", "diversity"), [(0, 0.0), (13, 0.0), (3, -0.1), (3, 1.1)])
def test_what_cannot_be_asked_is_refused(budget, diversity):
    with pytest.raises(ValueError, match="is not between"):
        choose(*problem(0), budget, diversity)
