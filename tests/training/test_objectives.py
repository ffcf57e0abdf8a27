"""Losses, the NLL term and soft weights through the real engine, against a plain loop."""

import json
import math

import pytest

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.errors import UserError

LOSSES = ["sigmoid", "robust", "hinge", "ipo", "kto_pair", "sppo_hard", "nca_pair", "cal_dpo"]
SIDES = ("chosen", "rejected")
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


@pytest.fixture(scope="module")
def told_pairs(soft_pairs) -> list[dict]:
    """Sentences of three tokens, the last token in none, correct and incorrect ones in turn; of the
    rejected answers the correct ones are not learnt."""
    told = json.loads(json.dumps(soft_pairs))
    for number, pair in enumerate(told):
        pair["chosen"]["score"] = number % 4 / 4
        for side in SIDES:
            weights = pair[side]["weights"]
            owners = pair[side]["owners"] = [n // 3 for n in range(len(weights) - 1)] + [-1]
            weights[0] = 1.0
            held = [owner % 2 == (0 if side == "chosen" else 1) for owner in owners]
            if side == "chosen":
                pair[side]["correct"] = [h * w for h, w in zip(held, weights, strict=True)]
            else:
                pair[side]["weights"] = [(not h) * w for h, w in zip(held, weights, strict=True)]
                pair[side]["correct"] = [0.5 * h for h in held]
            pair[side]["correct"][-1] = 0.0
    return told


def plain_losses(name, chosen, rejected, beta, smoothing, required=0.0):
    """The formulas once more, on tensors, so that PyTorch finds the gradient."""
    import torch

    log_s = torch.nn.functional.logsigmoid
    margin = beta * (chosen - rejected) - required
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
        "cal_dpo": -log_s(chosen - rejected)
        + (chosen - 1 / (2 * beta)).square()
        + (rejected + 1 / (2 * beta)).square(),
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

    def side(pair, name) -> dict:
        """What the loss reads of an answer, in plain sums."""
        ids, prompt = pair[name]["token_ids"], pair["prompt_ids"]
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        log_probs = logits.log_softmax(-1)[range(len(ids)), ids]
        weights = weights_of(pair, name)
        ratios = log_probs - torch.tensor(references[pair["digest"]][name])
        if settings.reference_free:
            ratios = log_probs
        counted = bounded(ratios, weights, pair[name]["owners"]) if name == "rejected" else ratios
        ratio = (weights * counted).sum()
        means = settings.ratios == "mean" or settings.loss == "ipo"
        if means:
            ratio = ratio / weights.sum()
        correct = torch.tensor(pair[name].get("correct", [0.0] * len(ids)))
        fallen = -ratios * (ratios < -1e-3) if settings.anchor == "reference" else -log_probs
        taken = torch.maximum(weights, correct)
        return {
            "sentences": [
                (
                    (taken * ratios)[mine].sum() / (taken[mine].sum() if means else 1.0),
                    bool((correct * mine).sum()),
                )
                for mine in each_sentence(pair[name]["owners"])
                if taken[mine].sum()
            ],
            "ratio": ratio,
            "nll": -(weights * log_probs).sum() / weights.sum(),
            "fallen": (correct * fallen).sum(),
            "correct": correct.sum(),
        }

    def each_sentence(owners):
        for owner in sorted(set(owners) - {-1}):
            yield torch.tensor([each == owner for each in owners])

    def fkto(answers):
        """Every sentence of the step, compared with the mean of all."""
        found = [sentence for answer in answers for sentence in answer["sentences"]]
        kl = max(0.0, sum(ratio.item() for ratio, _ in found) / len(found))
        return torch.stack(
            [
                1 - (settings.beta * (ratio - kl)).sigmoid()
                if correct
                else settings.incorrect_weight * (1 - (settings.beta * (kl - ratio)).sigmoid())
                for ratio, correct in found
            ]
        )

    def weights_of(pair, name):
        """Kept tokens that the shorter side has no counterpart of weigh less."""
        weights = list(pair[name]["weights"])
        public = min(sum(w > 0 for w in pair[side]["weights"]) for side in SIDES)
        seen = 0
        for n, weight in enumerate(weights):
            seen += weight > 0
            if settings.ld_alpha is not None and seen > public:
                weights[n] = weight * settings.ld_alpha
        return torch.tensor(weights)

    def bounded(ratios, weights, owners):
        """Log-ratios whose weighted sum is bounded, token by token or sentence by sentence."""
        floor = settings.rejected_floor
        if floor is None:
            return ratios
        if settings.rejected_floor_per == "token":
            return ratios.clamp(min=-floor)
        parts = []
        for owner in sorted(set(owners)):
            mine = torch.tensor([each == owner for each in owners])
            if (weights * ratios)[mine].sum() < -floor:
                ratios = ratios.masked_fill(mine, 0.0)
                parts.append(-floor)
        return ratios + sum(parts) / weights.sum()

    lines = []
    for step in range(steps):
        batch = [rows[i] for i in global_batch(step, len(rows), settings.batch_size, job.seed)]
        chosen, rejected = ([side(pair, name) for pair in batch] for name in SIDES)
        won = torch.stack([each["ratio"] for each in chosen])
        gaps = [max(0.0, pair["chosen"]["score"] - pair["rejected"]["score"]) for pair in batch]
        losses = (
            fkto(chosen + rejected)
            if settings.loss == "fkto"
            else plain_losses(
                settings.loss,
                won + settings.dpop_weight * won * (won < -1e-3),
                torch.stack([each["ratio"] for each in rejected]),
                settings.beta,
                settings.label_smoothing,
                settings.margin + settings.gap_margin * torch.tensor(gaps),
            )
        )
        nll = torch.stack([each["nll"] for each in chosen])
        loss = losses.mean() + settings.nll_weight * nll.mean()
        if settings.anchor_weight:
            anchors = [
                (w["fallen"] + r["fallen"]) / (w["correct"] + r["correct"])
                for w, r in zip(chosen, rejected, strict=True)
            ]
            loss = loss + settings.anchor_weight * torch.stack(anchors).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, settings.learning_rate, 0.1, 0.0)
        optimizer.step()
        line = {"loss": loss.item(), "nll_loss": nll.mean().item(), "grad_norm": norm.item()}
        if settings.loss == "fkto":
            del line["nll_loss"]
        lines.append(line)
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


OPTIONS = {
    "anchored": {"anchor_weight": 0.5, "rejected_floor": 1.0},
    "anchored-at-the-reference": {
        "anchor_weight": 2.0,
        "anchor": "reference",
        "rejected_floor": 0.5,
        "rejected_floor_per": "token",
        "loss": "ipo",
    },
    "simpo": {"reference_free": True, "ratios": "mean", "beta": 2.0, "margin": 0.5},
    "fkto": {"loss": "fkto", "incorrect_weight": 1.5, "anchor_weight": 0.2},
    "fkto-means": {"loss": "fkto", "ratios": "mean", "beta": 1.0},
    "gap": {"gap_margin": 2.0, "dpop_weight": 5.0, "ld_alpha": 0.25, "loss": "hinge"},
}


def lonely(pairs: list[dict], references: list[dict]) -> dict:
    """Every third row holds one answer, as the last of an odd number of candidates does."""
    rows, known = json.loads(json.dumps([pairs, references]))
    for pair, reference in list(zip(rows, known, strict=True))[::3]:
        assert pair["digest"] == reference["id"]
        pair["rejected"] |= dict.fromkeys(("token_ids", "weights", "owners", "correct"), [])
        reference["rejected"] = []
    return {"pairs": lambda: rows, "references": lambda: known}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_follow_a_plain_loop(name, one_rank, two_ranks, make_job, told_pairs, references):
    fields = {"pairs": lambda: told_pairs}
    if name == "fkto-means":
        fields = lonely(told_pairs, references)
    options = {"max_steps": 6, "learning_rate": 3e-3, **OPTIONS[name]}
    TrainingConfig(**options)
    expected = plain_loop(make_job(fields=fields, **options), 6)
    whole = make_job("whole", fields=fields, micro_batch_tokens=10**6, **options)
    cut = make_job("cut", fields=fields, micro_batch_tokens=1, zero_stage=3, **options)
    for lines in (one_rank.train(whole), two_ranks.train(cut)):
        for key in expected[0]:
            tolerance = 1e-3 if key == "grad_norm" else 1e-4
            assert column(lines, key) == pytest.approx(column(expected, key), rel=tolerance)
        if name != "simpo":  # nothing is told apart yet
            assert column(lines, "rewards/accuracies")[0] == 0.5
        if "rejected_floor" in options:
            assert column(lines, "at_floor/rejected")[0] == 0.0
            assert 0.0 < column(lines, "at_floor/rejected")[-1] < 1.0, "the bound must be met"
    first = lines[0]
    if name == "fkto-means":
        assert first["loss"] == pytest.approx(0.5, rel=1e-6)
    if name.startswith("anchored"):
        start = {"sigmoid": math.log(2), "ipo": 25.0}[options.get("loss", "sigmoid")]
        held = options["anchor_weight"] * first["anchor_loss"]
        assert first["loss"] == pytest.approx(start + held, rel=1e-6)
    assert first["log_ratios/chosen"] == pytest.approx(0.0, abs=1e-6)
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
