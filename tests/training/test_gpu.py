"""What only a GPU computes: its own kernels, and whole runs on it. Skipped without one."""

import asyncio
import json
import math
import os
from contextlib import nullcontext

import pytest
import torch
from runs import OFFLOAD, losses
from test_packing import policies

from maskdpo_ray.config import LoraConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.batches import collate
from maskdpo_ray.training.head import selected_log_probs
from maskdpo_ray.training.logprobs import LogProbModel
from maskdpo_ray.training.packing import _has_varlen
from maskdpo_ray.training.reference import ReferenceProcessor, _unmasked

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
OFFLOAD_ALL = {
    "zero_optimization": {**OFFLOAD["zero_optimization"], "offload_param": {"device": "cpu"}}
}


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Distance from the expected tensor as a share of its norm."""
    got, expected = got.double().cpu(), expected.double().cpu()
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("chunk", [256, None])
def test_tiles_of_the_head(dtype, share, in_place, chunk):
    """Several tiles, kept for backward or not, against full logits in float64."""
    torch.manual_seed(0)
    hidden = torch.randn(700, 64, device="cuda").to(dtype).requires_grad_()
    weight = (torch.randn(200_000, 64, device="cuda") * 0.2).to(dtype).requires_grad_()
    targets = torch.randint(0, 200_000, (700,), device="cuda")
    upstream = torch.randn(700, device="cuda")
    got = selected_log_probs(hidden, targets, weight, chunk=chunk, in_place=in_place)
    (got * upstream).sum().backward()
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    log_probs = (exact[0] @ exact[1].t()).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    (log_probs * upstream).sum().backward()
    assert relative(got, log_probs) < share
    assert relative(hidden.grad, exact[0].grad) < share
    assert relative(weight.grad, exact[1].grad) < share


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_in_bfloat16(name, checkpointing, pairs):
    """The varlen kernel, with grouped heads and windows, is as near to float64 as padded rows."""
    assert _has_varlen(torch.device("cuda", 0), torch.bfloat16, 8)
    exact = passed(name, torch.float64, False, pairs)
    padded = passed(name, torch.bfloat16, False, pairs)
    assert_as_near(passed(name, torch.bfloat16, True, pairs, checkpointing), padded, exact)


def passed(name, dtype, packing, pairs, checkpointing=False, prepare=lambda policy: None):
    """Log-probabilities, and the gradient of a sum of them, of one model's same weights."""
    torch.manual_seed(0)
    policy = policies()[name]().to(torch.bfloat16).to(dtype).cuda()
    prepare(policy)
    if checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    model = LogProbModel(policy, 7, packing).train()
    batch = collate([_unmasked(pair) for pair in pairs[:5]], model.packed).to("cuda")
    log_probs = model(**batch.inputs())
    (log_probs * torch.linspace(-1, 1, len(log_probs), device="cuda")).sum().backward()
    gradient = torch.cat([p.grad.flatten().double() for p in policy.parameters()])
    return log_probs.detach(), gradient


def assert_as_near(got, other, exact):
    for mine, theirs, expected in zip(got, other, exact, strict=True):
        assert relative(mine, expected) < max(1.5 * relative(theirs, expected), 0.01)


@pytest.fixture(scope="module")
def train_here(tmp_path_factory):
    """Trains a job in this process, alone; returns its metrics."""
    from torch import distributed

    from maskdpo_ray.training.worker import Workers, train

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    init = f"file://{tmp_path_factory.mktemp('alone') / 'rendezvous'}"
    distributed.init_process_group("nccl", init, rank=0, world_size=1)

    def run(job, resume=None, keep=None) -> list[dict]:
        def save(write, metrics):
            (keep / str(metrics["step"])).mkdir(parents=True)
            write(keep / str(metrics["step"]))

        def checkpoints():
            return {resume.name: lambda: nullcontext(resume)} if resume else {}

        train(job, Workers(0, 1, checkpoints, save if keep else lambda *_: None, lambda _: None))
        return [json.loads(line) for line in job.output.read("metrics.jsonl").splitlines()]

    yield run
    distributed.destroy_process_group()


def test_the_first_loss_is_ln_2_in_float32(train_here, make_job, model_config, settings, pairs):
    references = asyncio.run(ReferenceProcessor(model_config, settings)(pairs))
    curves = []
    for stage in (0, 1, 2, 3):
        fields = {"references": lambda: references}
        lines = train_here(make_job(f"zero-{stage}", fields=fields, zero_stage=stage))
        assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
        curves.append(losses(lines))
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_stage": 0},
        {"zero_stage": 1},
        {"zero_stage": 2, "gradient_checkpointing": True},
        {"zero_stage": 3},
        {"zero_stage": 2, "deepspeed": OFFLOAD},
        {"zero_stage": 3, "deepspeed": OFFLOAD_ALL},
        {"zero_stage": 2, "lora": LoraConfig(rank=4)},
    ],
    ids=str,
)
def test_the_first_loss_is_ln_2_in_bfloat16(changes, train_here, make_job, low):
    if "lora" in changes:
        pytest.importorskip("peft")
    lines = train_here(make_job(fields=low, **changes))
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert lines[-1]["loss"] < 0.6 or "lora" in changes
    assert lines[0]["memory_gib"] > 0


def test_a_run_goes_on_from_its_checkpoint(train_here, make_job, low, tmp_path):
    """Saved under ZeRO 2 in bfloat16, gone on with under ZeRO 3."""
    whole = train_here(make_job("whole", fields=low, zero_stage=2, checkpoint_every=5),
                       keep=tmp_path / "kept")  # fmt: skip
    resumed = train_here(make_job("on", fields=low, zero_stage=3), resume=tmp_path / "kept" / "5")
    assert losses(resumed)[:5] == losses(whole)[:5]
    assert losses(resumed)[5:] == pytest.approx(losses(whole)[5:], rel=0.02)


# Last: Liger puts its kernels into the modules of Transformers, for all models of a kind.


def test_liger_has_kernels_for_the_kinds_it_knows():
    from maskdpo_ray.training.model import _use_liger

    pytest.importorskip("liger_kernel")
    with pytest.raises(UserError, match="none for models of type 'gpt2'"):
        _use_liger(policies()["gpt2"]())


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_liger_is_as_near_as_the_plain_kernels(name, pairs):
    from maskdpo_ray.training.model import _use_liger

    pytest.importorskip("liger_kernel")
    exact = passed(name, torch.float64, False, pairs)
    plain = passed(name, torch.bfloat16, True, pairs)
    assert_as_near(passed(name, torch.bfloat16, True, pairs, True, _use_liger), plain, exact)
