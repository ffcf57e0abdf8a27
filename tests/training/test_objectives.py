"""Losses, the NLL term and soft weights through the real engine, against a plain loop."""

import json
import math

import pytest

from maskdpo_ray.errors import UserError

LOSSES = ["sigmoid", "robust", "hinge", "ipo", "kto_pair", "sppo_hard", "nca_pair"]
CHANGES = {"robust": {"label_smoothing": 0.2}, "kto_pair": {"nll_weight": 0.3}}


@pytest.fixture(scope="module")
def soft_pairs(pairs) -> list[dict]:
    """Every other kept token counts half."""
    softened = json.loads(json.dumps(pairs))
    for pair in softened:
        for side in ("chosen", "rejected"):
            weights = pair[side]["weights"]
            weights[::2] = [0.5 * weight for weight in weights[::2]]
    return softened


def plain_losses(name, chosen, rejected, beta, smoothing):
    """The formulas once more, on tensors, so that PyTorch finds the gradient."""
    import torch

    log_s = torch.nn.functional.logsigmoid
    margin = beta * (chosen - rejected)
    kl_chosen = chosen.mean().clamp(min=0).detach()
    kl_rejected = rejected.mean().clamp(min=0).detach()
    return {
        "sigmoid": -log_s(margin),
        "robust": (-(1 - smoothing) * log_s(margin) + smoothing * log_s(-margin))
        / (1 - 2 * smoothing),
        "hinge": (1 - margin).clamp(min=0),
        "ipo": (chosen - rejected - 1 / (2 * beta)).square(),
        "kto_pair": 0.5 * (1 - (beta * (chosen - kl_rejected)).sigmoid())
        + 0.5 * (1 - (beta * (kl_chosen - rejected)).sigmoid()),
        "sppo_hard": (chosen - 1 / (2 * beta)).square() + (rejected + 1 / (2 * beta)).square(),
        "nca_pair": -log_s(beta * chosen) - 0.5 * (log_s(-beta * chosen) + log_s(-beta * rejected)),
    }[name]


def plain_loop(job, steps: int) -> list[dict[str, float]]:
    """One sequence at a time, full logits, no engine: loss, NLL and gradient norm of every step."""
    import torch
    from transformers import AutoModelForCausalLM

    from maskdpo_ray.training.batch_plan import global_batch
    from maskdpo_ray.training.schedule import learning_rate

    settings = job.settings
    model = AutoModelForCausalLM.from_pretrained(job.model.path).eval()
    optimizer = torch.optim.AdamW(model.parameters(), betas=settings.betas, weight_decay=0.0)
    rows = sorted(job.pairs(), key=lambda pair: pair["id"])
    references = {row["id"]: row for row in job.references()}

    def side(pair, name) -> tuple:
        """Log-ratio and log-probability per kept token, and the latter's weighted mean."""
        ids, prompt = pair[name]["token_ids"], pair["prompt_ids"]
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        log_probs = logits.log_softmax(-1)[range(len(ids)), ids]
        weights = torch.tensor(pair[name]["weights"])
        reference = torch.tensor(references[pair["digest"]][name])
        ratio = (weights * (log_probs - reference)).sum()
        if settings.loss == "ipo":
            ratio = ratio / weights.sum()
        return ratio, -(weights * log_probs).sum() / weights.sum()

    lines = []
    for step in range(steps):
        batch = [rows[i] for i in global_batch(step, len(rows), settings.batch_size, job.seed)]
        chosen, nll = map(torch.stack, zip(*(side(pair, "chosen") for pair in batch), strict=True))
        rejected, _ = map(torch.stack, zip(*(side(p, "rejected") for p in batch), strict=True))
        losses = plain_losses(
            settings.loss, chosen, rejected, settings.beta, settings.label_smoothing
        )
        loss = losses.mean() + settings.nll_weight * nll.mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, settings.learning_rate, 0.1, 0.0)
        optimizer.step()
        lines.append({"loss": loss.item(), "nll_loss": nll.mean().item(), "grad_norm": norm.item()})
    return lines


def column(lines: list[dict], name: str) -> list[float]:
    return [line[name] for line in lines]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_follows_a_plain_loop_however_it_is_cut(
    loss, one_rank, two_ranks, make_job, soft_pairs
):
    """Soft weights throughout; six steps, the fifth of which is a batch of one pair."""
    fields = {"pairs": lambda: soft_pairs}
    options = {"loss": loss, "max_steps": 6, "learning_rate": 3e-3, **CHANGES.get(loss, {})}
    expected = plain_loop(make_job(fields=fields, **options), 6)
    whole = make_job("whole", fields=fields, micro_batch_tokens=10**6, **options)
    stage = 3 if loss == "sigmoid" else 1  # that all stages agree is shown for one loss
    cut = make_job("cut", fields=fields, micro_batch_tokens=1, zero_stage=stage, **options)
    for lines in (one_rank.train(whole), two_ranks.train(cut)):
        both = zip(column(lines, "loss"), column(expected, "loss"), strict=True)
        print(f"{loss}: worst relative difference {max(abs(a / b - 1) for a, b in both):.1e}")
        for name, tolerance in (("loss", 1e-4), ("nll_loss", 1e-4), ("grad_norm", 1e-3)):
            assert column(lines, name) == pytest.approx(column(expected, name), rel=tolerance)
    assert abs(expected[5]["loss"] / expected[0]["loss"] - 1) > 1e-3, "the run must move"


def test_the_nll_term_holds_the_chosen_answers_up(one_rank, make_job):
    without = one_rank.train(make_job("without", max_steps=8))
    with_it = one_rank.train(make_job("with", max_steps=8, nll_weight=1.0))
    first = without[0]
    assert with_it[0]["nll_loss"] == first["nll_loss"]
    assert with_it[0]["loss"] == pytest.approx(first["loss"] + first["nll_loss"], rel=1e-6)
    assert with_it[-1]["nll_loss"] < without[-1]["nll_loss"]


def test_soft_weights_are_kept_tokens(one_rank, make_job, pairs, soft_pairs):
    """They change the loss and not the share of kept tokens."""
    hard = one_rank.train(make_job("hard", max_steps=3))
    soft = one_rank.train(make_job("soft", fields={"pairs": lambda: soft_pairs}, max_steps=3))
    for side in ("kept/chosen", "kept/rejected"):
        assert column(soft, side) == column(hard, side)
    assert soft[0]["logps/chosen"] > hard[0]["logps/chosen"]
    assert abs(soft[2]["loss"] - hard[2]["loss"]) > 1e-4


def test_kto_pair_names_the_row_that_is_not_finite(two_ranks, make_job, references):
    """Its batch means would else make the losses of all pairs of the step NaN."""
    broken = json.loads(json.dumps(references))
    broken[3]["rejected"] = [math.nan] * len(broken[3]["rejected"])
    job = make_job(fields={"references": lambda: broken}, loss="kto_pair", max_steps=5)
    with pytest.raises(UserError, match="loss of 1 pairs is not finite.* 'pair-003'"):
        two_ranks.train(job)


@pytest.mark.parametrize(("dtype", "stage"), [
    ("float32", 0), ("float32", 1), ("float32", 2), ("float32", 3), ("bfloat16", 0), ("bfloat16", 2)
])  # fmt: skip
def test_a_gradient_that_is_not_finite_names_the_largest_losses(
    dtype, stage, two_ranks, make_job, pairs, references, low
):
    """A beta so large that the losses (3e38) fit into fp32 and their gradient does not."""
    fields = dict(low) if dtype == "bfloat16" else {}
    rows = json.loads(json.dumps(low["references"]() if fields else references))
    kept = next(number for number, weight in enumerate(pairs[3]["chosen"]["weights"]) if weight)
    rows[3]["chosen"][kept] += 1.0  # the policy falls short of its reference here
    job = make_job(
        fields={**fields, "references": lambda: rows}, beta=3e38, zero_stage=stage,
        batch_size=len(pairs),
    )  # fmt: skip
    words = rf"gradient of {len(pairs)} pairs is not finite .* those of 'pair-003' \(\d.*e\+38\)"
    with pytest.raises(UserError, match=words):
        two_ranks.train(job)
