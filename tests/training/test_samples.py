"""What the policy in training says: measured on the way, and without a trace in what is learnt."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from event_files import events
from runs import losses, weights_of

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.config import LoraConfig, TrackingConfig
from maskdpo_ray.training import samples
from maskdpo_ray.training.batches import Response, TrainingPair
from maskdpo_ray.training.samples import answer, answer_seed, sample_questions, shrunk, stop_ids

ASKED = {"sample_every": 4, "sample_questions": 3, "sample_tokens": 20}


def read(job) -> list[dict]:
    return [json.loads(line) for line in job.output.read(samples.NAME).splitlines()]


@pytest.fixture
def judge():
    """Makes an examiner to whom every sentence of an even number of letters is right."""

    def build():  # defined here so that Ray ships it by value
        class EvenLetters:
            async def verdict(self, question: dict, sentence: str) -> tuple[str, str]:
                return ("ok" if len(sentence) % 2 == 0 else "contradictory"), question["topic"]

        return Annotate(EvenLetters())

    return build


def broken():
    raise OSError("nobody there")


def test_what_is_learnt_is_the_same_and_what_is_said_stands_beside_it(one_rank, make_job, judge):
    plain = make_job("plain")
    expected = one_rank.train(plain)
    job = make_job("watched", {"examiner": judge}, **ASKED)
    lines = one_rank.train(job)
    assert losses(lines) == losses(expected)
    for name, tensor in weights_of(plain).items():
        assert torch.equal(tensor, weights_of(job)[name]), name
    rows = read(job)
    assert [line["step"] for line in lines if "samples/tokens" in line] == [4, 8, 10]
    assert [row["step"] for row in rows] == [step for step in (0, 4, 8, 10) for _ in range(3)]
    assert len({row["id"] for row in rows}) == 3
    for line in lines:
        own = [row for row in rows if row["step"] == line["step"]]
        if own:
            assert line["samples/tokens"] == np.mean([row["tokens"] for row in own])
            counted = [row["correct"] for row in own], [row["incorrect"] for row in own]
            right, wrong = map(sum, counted)
            assert line["samples/score"] == 100 * right / (right + wrong)
            assert line["samples/correct"] == right / 3
            assert right + wrong == 3 * line["samples/sentences"]
    assert rows[0]["answer"] != [row["answer"] for row in rows if row["step"] == 10][0]


def test_the_policys_own_answers_are_those_of_the_model_alone(one_rank, make_job, pairs):
    """Packed passes, and a head that gives log-probabilities, make no difference."""
    from maskdpo_ray.engine.chat import load_tokenizer
    from maskdpo_ray.training.model import load_policy

    job = make_job("packed", packing=True, max_steps=1, **ASKED)
    one_rank.train(job)
    policy, tokenizer = load_policy(job.model).eval(), load_tokenizer(job.model)
    prompts = {pair["id"]: np.array(pair["prompt_ids"]) for pair in pairs}
    for row in read(job):
        if row["step"] == 0:
            ids = answer(policy, prompts[row["id"]], 20, stop_ids(policy, tokenizer))
            assert row["tokens"] == len(ids)
            assert row["answer"] == tokenizer.decode(ids, skip_special_tokens=True)
            assert row["ended"] == (len(ids) < 20)


@pytest.mark.parametrize(
    "changes",
    [{"gradient_checkpointing": True, "packing": True}, {"lora": LoraConfig(rank=2)}],
    ids=["gradient checkpointing", "adapters"],
)
def test_whatever_else_the_model_does_is_done_as_before(one_rank, make_job, low, changes):
    """In bfloat16, where a policy that came back changed in any way would learn other numbers."""
    expected = one_rank.train(make_job("plain", low, max_steps=4, **changes))
    job = make_job("watched", low, max_steps=4, **changes, **ASKED | {"sample_every": 1})
    assert losses(one_rank.train(job)) == losses(expected)
    answers = [row["answer"] for row in read(job) if row["step"] in (0, 4)]
    assert answers[:3] != answers[3:], "the policy in training answers, not the base"


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_workers_share_the_questions(two_ranks, make_job, zero_stage):
    """Three questions for two workers, whose answers end at different lengths."""
    shared = {"zero_stage": zero_stage, "max_steps": 5}
    expected = two_ranks.train(make_job("plain", **shared))
    job = make_job("watched", **shared, **ASKED)
    lines = two_ranks.train(job)
    assert losses(lines) == losses(expected)
    assert len(read(job)) == 9 and len({row["id"] for row in read(job)}) == 3


def test_a_resumed_training_says_every_step_once(one_rank, make_job, kept):
    watched = {"tracking": TrackingConfig(report_to=["tensorboard"])}
    job = make_job("run", watched, checkpoint_every=3, sample_temperature=0.9, **ASKED)
    whole = one_rank.train(job, keep=kept)
    rows = read(job)
    for last in ("6", "9", "10"):
        (kept / last).rename(kept.parent / last)
    job.output.write(samples.NAME, job.output.read(samples.NAME)[:-7])  # killed while it wrote
    again = one_rank.train(job, resume=kept)
    assert losses(again) == losses(whole)
    assert read(job) == rows, "seeds are those of step and question"
    shown = events(job.output / "tensorboard", "samples/tokens")
    assert [step for step, _ in shown] == [0, 4, 8, 10]


def test_answers_use_up_no_random_state(model_config, pairs):
    from maskdpo_ray.training.model import load_policy

    policy = load_policy(model_config).eval()
    prompt = np.array(pairs[0]["prompt_ids"])
    before = torch.random.get_rng_state()
    sampled = partial(answer, policy, prompt, 20, set(), 1.0)
    assert sampled(1) == sampled(1) != sampled(2)
    assert answer(policy, prompt, 20, set(), seed=1) == answer(policy, prompt, 20, set(), seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(answer(policy, np.arange(120) % 64, 20, set())) == 8, "positions that are left"
    seeds = {answer_seed(0, 1, "a"), answer_seed(1, 1, "a"), answer_seed(0, 2, "a")}
    assert len(seeds | {answer_seed(0, 1, "b"), answer_seed(0, 1, "a")}) == 4


def test_questions_are_prompts_of_the_pairs_each_once():
    empty = Response(*(np.zeros(1, np.int64), np.ones(1, np.float32), np.zeros(1, np.float32)))

    def pair(name: str, *prompt: int) -> TrainingPair:
        return TrainingPair(name, np.array(prompt), empty, empty)

    pairs = [pair("a", 1), pair("b", 2), pair("c", 2), *(pair(f"d{n}", 3, n) for n in range(9))]
    every = sample_questions(pairs, 99, seed=0)
    assert [each.id for each in every] == ["a", "b", *(f"d{n}" for n in range(9))]
    some = [each.id for each in sample_questions(pairs, 4, seed=0)]
    assert some == [each.id for each in sample_questions(pairs[::-1], 4, seed=0)] == sorted(some)
    assert some != [each.id for each in sample_questions(pairs, 4, seed=1)]


def test_shrinking_is_told_from_a_fifth_on():
    def said(sentences: float, tokens: float) -> dict[str, float]:
        return {"samples/sentences": sentences, "samples/tokens": tokens}

    assert shrunk(said(3, 50), said(2.4, 40)) == ""
    assert shrunk(said(3, 50), said(2.3, 45)) == "sentences from 3.0 to 2.3"
    assert (
        shrunk(said(3, 50), said(1, 10)) == "sentences from 3.0 to 1.0 and tokens from 50.0 to 10.0"
    )


def test_an_examiner_that_fails_is_left_out_and_training_goes_on(judge, caplog):
    rows = [{"id": "a", "answer": "One. Abcd."}, {"id": "b", "answer": ""}]
    asked = {"topic": "t", "question": "?", "document": None, "language": "en"}
    questions = {name: {"id": name, **asked} for name in "ab"}
    given = [dict(row) for row in rows]
    samples._Judge(judge).add_verdicts(given, questions)
    assert [(row["correct"], row["incorrect"]) for row in given] == [(1, 1), (0, 0)]
    judging = samples._Judge(broken)
    for _ in range(2):
        judging.add_verdicts(rows, questions)
    assert "correct" not in rows[0]
    (record,) = caplog.records
    assert record.getMessage() == "sampled answers have no score from here on: nobody there"
