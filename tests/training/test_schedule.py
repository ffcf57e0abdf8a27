from itertools import pairwise

import pytest

from maskdpo_ray.training.schedule import learning_rate


def test_warm_up_then_cosine():
    rates = [learning_rate(step, 10, 1.0, 0.2, 0.1) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert all(a > b for a, b in pairwise(rates[2:]))
    assert learning_rate(10, 10, 1.0, 0.2, 0.1) == pytest.approx(0.1)


def test_no_warm_up_starts_at_the_peak():
    assert learning_rate(0, 10, 3.0, 0.0, 0.0) == 3.0
