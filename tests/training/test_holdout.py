"""Pairs that are held out: examined while training goes on, never learnt from."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.errors import UserError
from maskdpo_ray.training.worker import held_out_topics


@given(
    st.sets(st.text(max_size=3), min_size=2, max_size=20),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 5),
)
def test_a_share_of_the_topics_and_never_all(topics, share, seed):
    held = held_out_topics(topics, share, seed)
    assert held <= topics
    assert len(held) == min(math.ceil(share * len(topics)), len(topics) - 1)
    assert held == held_out_topics(sorted(topics, reverse=True), share, seed)


def test_one_topic_alone_cannot_be_held_out():
    assert held_out_topics(["zoo", "zoo"], 0.0, 0) == set()
    with pytest.raises(UserError, match="all pairs are about 'zoo': give the questions topics"):
        held_out_topics(["zoo", "zoo"], 0.1, 0)


@pytest.fixture
def options(pairs) -> dict:
    named = [{**pair, "topic": f"topic {number % 4}"} for number, pair in enumerate(pairs)]
    return {"fields": {"pairs": lambda: named}, "holdout": 0.25, "eval_every": 2}


def test_held_out_pairs_are_examined_in_time_and_not_learnt(one_rank, make_job, pairs, options):
    lines = one_rank.train(make_job("held", **options))
    examined = [line["step"] for line in lines if "eval/loss" in line]
    assert examined == [step for step in range(1, len(lines) + 1) if step % 2 == 0] + (
        [len(lines)] if len(lines) % 2 else []
    )
    first = next(line for line in lines if "eval/loss" in line)
    assert {"eval/rewards/accuracies", "eval/rewards/margins", "eval/kept/chosen"} <= set(first)
    # What is learnt is the same as if the pairs held out were not there at all.
    named = options["fields"]["pairs"]()
    topics = held_out_topics((row["topic"] for row in named), 0.25, 0)
    rest = [row for row in named if row["topic"] not in topics]
    assert 0 < len(rest) < len(pairs)
    alone = one_rank.train(make_job("alone", fields={"pairs": lambda: rest}))
    assert [line["loss"] for line in lines] == [line["loss"] for line in alone]


@pytest.mark.parametrize("fields", [{"zero_stage": 3}, {"loss": "kto_pair"}])
def test_what_is_found_does_not_depend_on_the_workers(
    one_rank, two_ranks, make_job, options, fields
):
    one = one_rank.train(make_job("one", **options, **fields, max_steps=4))
    two = two_ranks.train(make_job("two", **options, **fields, max_steps=4, micro_batch_tokens=1))
    assert one[-1]["eval/loss"] == pytest.approx(two[-1]["eval/loss"], rel=1e-4)


def test_a_loss_of_held_out_pairs_that_is_not_finite_names_them(
    one_rank, make_job, references, options
):
    topics = held_out_topics((f"topic {number % 4}" for number in range(17)), 0.25, 0)
    number = next(n for n in range(17) if f"topic {n % 4}" in topics)
    broken = [dict(row) for row in references]
    broken[number] = {**broken[number], "chosen": [math.nan] * len(broken[number]["chosen"])}
    fields = {**options["fields"], "references": lambda: broken}
    job = make_job("broken", **{**options, "fields": fields}, max_steps=2)
    with pytest.raises(UserError, match=f"loss of 1 pairs is not finite.* 'pair-{number:03}'"):
        one_rank.train(job)


def test_the_policy_is_its_reference_before_it_learns(one_rank, make_job, options):
    (line,) = one_rank.train(make_job("still", **options, max_steps=1, learning_rate=1e-12))
    assert line["eval/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert line["eval/rewards/margins"] == pytest.approx(0, abs=1e-5)
