"""The worker loop with the real engine, on one and on two ranks."""

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from event_files import events
from runs import OFFLOAD, assert_alike, assert_same_run, losses, state_of, weights_of
from safetensors.numpy import load_file, save_file

from maskdpo_ray.config import ModelConfig, TrackingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.checkpoint import damage
from maskdpo_ray.training.schedule import learning_rate
from maskdpo_ray.training.trackers import Trackers
from maskdpo_ray.training.worker import MetricsLog, _steps_kept, held_out_topics


def norms(lines: list[dict]) -> list[float]:
    """Adam does not feel the scale of a gradient; its norm shows it."""
    return [line["grad_norm"] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(one_rank, model_config, settings, pairs, references, tmp_path_factory):
    """Ten steps on one rank without ZeRO: what every other arrangement must reproduce."""
    from maskdpo_ray.training.worker import TrainingJob

    output = Folder(tmp_path_factory.mktemp("undisturbed"))
    job = TrainingJob(model_config, settings, 0, lambda: pairs, lambda: references, output)
    return one_rank.train(job), output


def test_the_loss_starts_at_ln_2_and_moves(undisturbed, settings):
    lines, _ = undisturbed
    assert losses(lines)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert len(lines) == 10 and min(losses(lines)) < 0.5
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert lines[-1]["step"] == lines[-1]["total_steps"] == 10
    assert lines[-1]["epoch"] == 2
    assert [line["learning_rate"] for line in lines] == [
        learning_rate(step, 10, settings.learning_rate, settings.warmup_ratio, 0.0)
        for step in range(10)
    ]
    assert all(line["tokens_per_second"] > 0 < line["memory_gib"] for line in lines)
    assert all(0 < line["kept/chosen"] < 1 for line in lines)


def test_kept_and_logps_by_hand(undisturbed, pairs, references, settings):
    from maskdpo_ray.training.batch_plan import global_batch

    lines, _ = undisturbed
    ordered = sorted(pairs, key=lambda pair: pair["id"])
    rows = [ordered[index] for index in global_batch(0, len(pairs), settings.batch_size, seed=0)]
    weights = [np.array(row["chosen"]["weights"]) for row in rows]
    assert lines[0]["kept/chosen"] == pytest.approx(np.concatenate(weights).mean())
    by_digest = {row["id"]: np.array(row["chosen"]) for row in references}
    sums = [(by_digest[row["digest"]] * w).sum() for row, w in zip(rows, weights, strict=True)]
    assert lines[0]["logps/chosen"] == pytest.approx(np.mean(sums), rel=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_follow_the_same_curve(stage, one_rank, make_job, undisturbed):
    lines = one_rank.train(make_job(zero_stage=stage))
    assert losses(lines) == pytest.approx(losses(undisturbed[0]), rel=1e-5)
    assert norms(lines) == pytest.approx(norms(undisturbed[0]), rel=1e-4)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_follow_the_same_curve(stage, two_ranks, make_job, undisturbed):
    """The last batch of an epoch is one pair: one of the ranks has nothing to do."""
    lines = two_ranks.train(make_job(zero_stage=stage))
    assert losses(lines) == pytest.approx(losses(undisturbed[0]), rel=1e-5)
    assert norms(lines) == pytest.approx(norms(undisturbed[0]), rel=1e-4)


@pytest.mark.parametrize("stage", [0, 2])
def test_one_pass_of_four_equals_four_passes_of_one(stage, one_rank, make_job):
    together = one_rank.train(make_job("together", zero_stage=stage, micro_batch_tokens=10**6))
    apart = one_rank.train(make_job("apart", zero_stage=stage, micro_batch_tokens=1))
    assert losses(apart) == pytest.approx(losses(together), rel=1e-5)
    assert norms(apart) == pytest.approx(norms(together), rel=1e-4)


def test_a_pairs_weight_multiplies_its_loss(
    one_rank, two_ranks, make_job, pairs, settings, undisturbed
):
    from maskdpo_ray.training.batch_plan import global_batch

    twice = {"pairs": lambda: [pair | {"weight": 2.0} for pair in pairs]}
    lines = one_rank.train(make_job("twice", twice, max_steps=1))
    assert losses(lines)[0] == pytest.approx(2 * losses(undisturbed[0])[0], rel=1e-6)
    assert norms(lines)[0] == pytest.approx(2 * norms(undisturbed[0])[0], rel=1e-5)
    assert lines[0]["nll_loss"] == undisturbed[0][0]["nll_loss"]
    rising = [pair | {"weight": 0.25 * (n + 1)} for n, pair in enumerate(pairs)]
    alone = one_rank.train(make_job("alone", {"pairs": lambda: rising}, max_steps=3))
    shared = two_ranks.train(make_job("shared", {"pairs": lambda: rising}, max_steps=3))
    batch = global_batch(0, len(pairs), settings.batch_size, seed=0)
    mean = np.mean([rising[index]["weight"] for index in batch])
    assert losses(alone)[0] == pytest.approx(mean * math.log(2), rel=1e-6)
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-5)
    assert norms(shared) == pytest.approx(norms(alone), rel=1e-4)


def test_no_mask_is_another_loss_with_all_tokens_kept(one_rank, make_job, undisturbed):
    lines = one_rank.train(make_job(mask="none", max_steps=3))
    assert [line["kept/chosen"] for line in lines] == [1.0, 1.0, 1.0]
    assert abs(lines[2]["loss"] - undisturbed[0][2]["loss"]) > 1e-3


def test_gradient_checkpointing_changes_nothing(one_rank, make_job, undisturbed):
    lines = one_rank.train(make_job(gradient_checkpointing=True, zero_stage=3))
    assert losses(lines) == pytest.approx(losses(undisturbed[0]), rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bfloat16_trains(stage, two_ranks, make_job, low, undisturbed):
    lines = two_ranks.train(make_job(fields=low, zero_stage=stage))
    assert losses(lines)[0] == pytest.approx(math.log(2), abs=1e-3)
    assert losses(lines) == pytest.approx(losses(undisturbed[0]), abs=0.05)


def test_bfloat16_gradients_add_up_in_float32(one_rank, two_ranks, make_job, low, kept):
    """A pass for each pair, so that every gradient to be added is the same everywhere."""
    sums = []
    for name, ranks, deepspeed in (
        ("one", one_rank, {}), ("two", two_ranks, {}), ("offloaded", two_ranks, OFFLOAD)
    ):  # fmt: skip
        for stage in (1, 2, 3) if deepspeed else (0, 1, 2, 3):
            options = {"micro_batch_tokens": 1, "max_steps": 1, "deepspeed": deepspeed}
            folder = kept / f"{name}-{stage}"
            ranks.train(make_job(fields=low, zero_stage=stage, **options), keep=folder)
            sums.append(state_of(folder / "1", "exp_avg"))
    for other in sums[1:]:
        assert_alike(other, sums[0], 1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resumed_run_equals_an_undisturbed_one(stage, two_ranks, make_job, kept):
    whole = two_ranks.train(make_job("whole", zero_stage=stage, checkpoint_every=4), keep=kept)
    # As after a kill: steps were written down that no checkpoint has.
    shutil.rmtree(kept / "10")
    shutil.rmtree(kept / "8")
    again = make_job("whole", zero_stage=stage, checkpoint_every=4)
    resumed = two_ranks.train(again, resume=kept)
    assert [line["step"] for line in resumed] == list(range(1, 11))
    assert losses(resumed) == losses(whole)
    assert [r["seconds"] for r in resumed[:4]] == [w["seconds"] for w in whole[:4]]
    assert resumed[4]["seconds"] != whole[4]["seconds"]


def test_a_checkpoint_moves_to_other_ranks_and_stages(one_rank, two_ranks, make_job, kept):
    whole = two_ranks.train(make_job("a", zero_stage=3, checkpoint_every=4), keep=kept)
    for step in ("8", "10"):
        shutil.rmtree(kept / step)
    resumed = one_rank.train(make_job("b", zero_stage=1), resume=kept)
    assert losses(resumed[:4]) == losses(whole[:4])
    assert losses(resumed[4:]) == pytest.approx(losses(whole[4:]), rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("first", "then"), [("one_rank", "two_ranks"), ("two_ranks", "one_rank")])
def test_a_killed_run_goes_on_with_another_number_of_workers(
    first, then, stage, request, make_job, kept
):
    options = {"zero_stage": stage, "epochs": 6, "checkpoint_every": 15, "learning_rate": 2e-3}
    whole = make_job("whole", **options)
    lines = request.getfixturevalue(first).train(whole, keep=kept)
    shutil.rmtree(kept / "30")
    resumed = make_job("resumed", **options)
    again = request.getfixturevalue(then).train(resumed, resume=kept)
    assert [line["seconds"] for line in again[:15]] == [line["seconds"] for line in lines[:15]]
    assert [line["workers"] for line in again[15:]] == [2 if then == "two_ranks" else 1] * 15
    assert_same_run(again, weights_of(resumed), (lines, weights_of(whole)))


def test_bfloat16_is_the_same_whole_or_sharded(one_rank, two_ranks, make_job, low, kept):
    """A pass for each pair; saved whole on two ranks, gone on with sharded and alone."""
    options = {
        "fields": low, "micro_batch_tokens": 1, "epochs": 6, "learning_rate": 2e-3,
        "checkpoint_every": 15,
    }  # fmt: skip
    sharded = make_job("sharded", zero_stage=1, **options)
    lines, weights = one_rank.train(sharded), weights_of(sharded)
    assert len(lines) == 30
    whole = make_job("whole", zero_stage=0, **options)
    runs = [(whole, two_ranks.train(whole, keep=kept))]
    shutil.rmtree(kept / "30")
    for name, ranks, stage, resume in (
        ("alone", one_rank, 0, None), ("two", two_ranks, 2, None),
        ("on-alone", one_rank, 1, kept), ("on-two", two_ranks, 2, kept),
    ):  # fmt: skip
        job = make_job(name, zero_stage=stage, **options)
        runs.append((job, ranks.train(job, resume=resume)))
    for job, run in runs:
        assert losses(run) == losses(lines)
        assert norms(run) == pytest.approx(norms(lines), rel=1e-5)
        assert_alike(weights_of(job), weights, 0.0)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bfloat16_loses_no_small_updates(stage, two_ranks, make_job, low, kept):
    """Steps a thousandth of what bfloat16 can tell apart add up in fp32."""
    rate = 1e-7
    job = make_job(
        fields=low, zero_stage=stage, learning_rate=rate, max_steps=5, warmup_ratio=0.0,
        min_lr_ratio=1.0, adam_eps=1e-12,
    )  # fmt: skip
    two_ranks.train(job, keep=kept)
    rounded, weights = weights_of(job), state_of(kept / "5", "weight")
    moved = [(weights[f"{name}/weight"] - rounded[name].float()).abs().flatten()
             for name in rounded if f"{name}/weight" in weights]  # fmt: skip
    assert 2 * rate < float(torch.cat(moved).median()) < 6 * rate


def test_bfloat16_resumes_exactly(one_rank, make_job, low, kept):
    for stage in (0, 1, 3):
        folder = kept / str(stage)
        options = {"fields": low, "zero_stage": stage, "checkpoint_every": 4}
        whole = one_rank.train(make_job(f"whole-{stage}", **options), keep=folder)
        for step in ("8", "10"):
            shutil.rmtree(folder / step)
        resumed = one_rank.train(make_job(f"resumed-{stage}", **options), resume=folder)
        assert losses(resumed) == losses(whole)


def test_a_damaged_checkpoint_is_passed_over(one_rank, make_job, undisturbed, kept):
    job = make_job("whole", checkpoint_every=4)
    one_rank.train(job, keep=kept)
    shutil.rmtree(kept / "10")
    shutil.copytree(kept / "8", kept / "9")
    seal = kept / "9" / "seal-00000.json"
    seal.write_bytes(seal.read_bytes()[:40])
    assert damage(kept / "9") == "seal-00000.json cannot be read"
    state = kept / "8" / "state-00000.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    resumed = one_rank.train(job, resume=kept)
    assert losses(resumed) == losses(undisturbed[0])
    assert resumed[3]["step"] == 4


def test_a_checkpoint_of_other_pairs_is_refused(one_rank, make_job, pairs, kept):
    one_rank.train(make_job("a", max_steps=2), keep=kept)
    other = make_job("b", fields={"pairs": lambda: pairs[:-1]})
    with pytest.raises(UserError, match="other pairs or settings"):
        one_rank.train(other, resume=kept)


def test_the_export_is_the_trained_model(two_ranks, make_job, undisturbed, tiny_llama):
    """Under ZeRO 3 on two ranks it equals the one without ZeRO on one rank."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = make_job(zero_stage=3)
    two_ranks.train(job)
    folders = [f"{output}/model" for output in (job.output, undisturbed[1])]
    sharded, plain = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    before = AutoModelForCausalLM.from_pretrained(tiny_llama)
    for name, weight in sharded.state_dict().items():
        torch.testing.assert_close(weight, plain.state_dict()[name], rtol=1e-3, atol=1e-5)
    assert not torch.equal(sharded.lm_head.weight, before.lm_head.weight)
    assert sharded.config.attention_dropout == 0.1
    assert AutoTokenizer.from_pretrained(folders[0]).decode([3]) == "w03"
    model = job.output / "model"
    assert {"generation_config.json", "tokenizer.json"} <= set(model.names())
    assert json.loads(model.read("config.json"))["dtype"] == "float32"
    card = model.read("README.md").decode()
    assert f"| base | {tiny_llama} |" in card and "| zero_stage | 3 |" in card
    assert "| pairs learnt from | 17 |" in card


CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.unused = torch.nn.Linear(4, 4, bias=False)
"""


@pytest.fixture
def own_model(tiny_llama, tmp_path) -> dict:
    """A model that brings its own code, with a weight of ones that its answers do not need."""
    own = tmp_path / "own"
    shutil.copytree(tiny_llama, own)
    (own / "own.py").write_text(CODE)
    config = json.loads((own / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": names}
    (own / "config.json").write_text(json.dumps(config))
    weights = load_file(own / "model.safetensors") | {"unused.weight": np.ones((4, 4), "float32")}
    save_file(weights, own / "model.safetensors", {"format": "pt"})
    return {"path": str(own), "trust_remote_code": True}


@pytest.mark.parametrize("stage", [0, 1])
def test_a_weight_that_no_pair_uses_decays_all_the_same(stage, one_rank, make_job, own_model):
    """On one worker, where ZeRO 0 leaves out the averaging that would fill in its gradient."""
    job = make_job(
        fields={"model": ModelConfig(dtype="float32", **own_model)},
        zero_stage=stage, weight_decay=0.1, max_steps=2, warmup_ratio=0.0, min_lr_ratio=1.0,
    )  # fmt: skip
    one_rank.train(job)
    unused = load_file(job.output.path("model/model.safetensors"))["unused.weight"]
    assert unused == pytest.approx((1 - 0.1 * job.settings.learning_rate) ** 2, abs=1e-6)


def test_a_model_that_brings_its_own_code_takes_it_along(one_rank, make_job, own_model):
    from transformers import AutoModelForCausalLM

    model = ModelConfig(dtype="bfloat16", **own_model)
    job = make_job(fields={"model": model}, zero_stage=1, max_steps=1)
    one_rank.train(job)
    trained = AutoModelForCausalLM.from_pretrained(f"{job.output}/model", trust_remote_code=True)
    assert type(trained).__name__ == "OwnForCausalLM"
    assert str(trained.dtype) == "torch.bfloat16"


def test_a_loss_that_is_not_finite_names_the_rows(two_ranks, make_job, references):
    broken = json.loads(json.dumps(references))
    broken[3]["chosen"] = [math.nan] * len(broken[3]["chosen"])
    job = make_job(fields={"references": lambda: broken}, max_steps=5)
    with pytest.raises(UserError, match="loss of 1 pairs is not finite.* 'pair-003'"):
        two_ranks.train(job)


def test_pairs_beyond_the_model_are_named(one_rank, make_job, make_pair):
    long = make_pair(77, prompt=100, chosen=60)
    reference = {"id": "digest-077", "chosen": [-1.0] * 60, "rejected": [-1.0] * 7}
    job = make_job(fields={"pairs": lambda: [long], "references": lambda: [reference]})
    with pytest.raises(UserError, match="'pair-077' has 160 tokens and the model 128 positions"):
        one_rank.train(job)


def test_trouble_of_one_worker_is_trouble_of_all(two_ranks, make_job, tmp_path, pairs):
    """A node without the data must not leave the others waiting in a collective."""

    def pairs_of_rank_0():
        if os.environ["RANK"] == "1":
            raise UserError("the pairs are not on this node")
        return pairs

    with pytest.raises(UserError, match="the pairs are not on this node"):
        two_ranks.train(make_job(fields={"pairs": pairs_of_rank_0}))


def test_an_object_store_gets_the_same_files(one_rank, make_job, undisturbed, tmp_path):
    """Through a URL, where nothing can be appended to or renamed."""
    (tmp_path / "store" / "model").mkdir(parents=True)  # object stores need no folders
    job = make_job(fields={"output": Folder(f"file://{tmp_path}/store")})
    assert losses(one_rank.train(job)) == losses(undisturbed[0])
    assert (job.output / "model").names() == (undisturbed[1] / "model").names()


def test_training_that_fails_leaves_its_steps_behind_and_goes_on(
    one_rank, make_job, pairs, references, kept, tmp_path, mlflow_runs
):
    """Through a URL, where nothing can be appended; a row that is held out is mended in between."""
    for folder in ("model", "tensorboard"):
        (tmp_path / "store" / folder).mkdir(parents=True)
    mlflow = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}
    (held,) = held_out_topics({"a", "b"}, 0.1, 0)
    topics = ["a" if held == "b" else "b"] * 16 + [held]

    def named():
        os.environ |= mlflow
        return [{**pair, "topic": topic} for pair, topic in zip(pairs, topics, strict=True)]

    fields = {
        "pairs": named,
        "output": Folder(f"file://{tmp_path}/store"),
        "tracking": TrackingConfig(report_to=["tensorboard", "mlflow"], project="tests"),
    }
    options = {"holdout": 0.1, "eval_every": 4, "checkpoint_every": 2, "max_steps": 5}

    def seen(steps: int) -> tuple[list[dict], str]:
        """Lines of the steps, which stand once in each place; how MLflow's run ended."""
        lines = [json.loads(line) for line in fields["output"].read("metrics.jsonl").splitlines()]
        assert [line["step"] for line in lines] == list(range(1, steps + 1))
        curve = [(line["step"], pytest.approx(line["loss"])) for line in lines]
        assert events(tmp_path / "store" / "tensorboard") == curve
        ((status, _, shown),) = mlflow_runs()
        assert shown == curve
        return lines, status

    broken = json.loads(json.dumps(references))
    broken[16]["chosen"] = [math.nan] * len(broken[16]["chosen"])
    with pytest.raises(UserError, match="loss of 1 pairs is not finite.* 'pair-016'"):
        one_rank.train(
            make_job(fields={**fields, "references": lambda: broken}, **options), keep=kept
        )
    before, status = seen(3)
    assert status == "FAILED"
    one_rank.train(make_job(fields=fields, **options), resume=kept)
    after, status = seen(5)
    assert status == "FINISHED"
    again = [a["seconds"] != b["seconds"] for a, b in zip(after, before, strict=False)]
    assert again == [False, False, True], "those since the checkpoint are done again, no others"


def test_what_stopped_training_is_told_though_nothing_can_be_written(tmp_path, caplog):
    closed = []

    class Display:
        def close(self, failed):
            closed.append(failed)

    folder = tmp_path / "run"
    metrics_log = MetricsLog(Folder(folder), [])
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(UserError, match="the loss is not finite"):
        with _steps_kept(metrics_log, Trackers({"display": Display()})):
            raise UserError("the loss is not finite")
    assert closed == [True]
    assert "the last steps may be missing in metrics.jsonl" in caplog.text
