"""Optimizer state that is offloaded: the same run, and one may go on without it."""

import shutil

import pytest
from runs import OFFLOAD, assert_same_run, losses, weights_of


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_offloaded_run_is_the_same_and_goes_on_without(stage, two_ranks, make_job, kept):
    """Two passes a step on each rank, so that gradients add up where they are offloaded to."""
    options = {
        "zero_stage": stage, "micro_batch_tokens": 1, "learning_rate": 2e-3, "max_steps": 6,
        "checkpoint_every": 3,
    }  # fmt: skip
    plain, offloaded = make_job("plain", **options), make_job("off", **options, deepspeed=OFFLOAD)
    expected = two_ranks.train(plain), weights_of(plain)
    lines = two_ranks.train(offloaded, keep=kept)
    assert_same_run(lines, weights_of(offloaded), expected)
    norms = [[line["grad_norm"] for line in run] for run in (lines, expected[0])]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)

    shutil.rmtree(kept / "6")
    back = make_job("back", **options)
    resumed = two_ranks.train(back, resume=kept)
    assert losses(resumed[:3]) == losses(lines[:3])
    assert_same_run(resumed, weights_of(back), expected)
