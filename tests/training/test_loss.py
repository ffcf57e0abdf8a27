import math
from itertools import pairwise

import pytest
import torch

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.training.loss import (
    SentenceKl,
    anchor_losses,
    fkto_losses,
    floored_sums,
    kl_estimates,
    masked_dpo_loss,
    masked_log_ratios,
    masked_means,
    pair_losses,
)


def test_loss_is_ln_2_where_policy_and_reference_agree():
    log_probs = torch.tensor([-1.0, -2.0, -3.0])
    ratios = masked_log_ratios(log_probs, log_probs, torch.ones(3), torch.tensor([0, 0, 1]), 2)
    loss = masked_dpo_loss(ratios[:1], ratios[1:], beta=0.1)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)


def test_equations_by_hand():
    policy = torch.tensor([-1.0, -2.0, -0.5, -4.0])
    reference = torch.tensor([-1.5, -1.0, -0.5, -2.0])
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    ratios = masked_log_ratios(policy, reference, weights, torch.tensor([0, 0, 1, 1]), 2)
    assert ratios.tolist() == [0.5, -2.0]
    margin = 0.1 * (0.5 - -2.0)
    loss = masked_dpo_loss(ratios[:1], ratios[1:], beta=0.1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-margin)))


def test_a_longer_answer_counts_for_more():
    """A sum, never a mean: twice the tokens is twice the log-ratio."""
    one = masked_log_ratios(torch.ones(2), torch.zeros(2), torch.ones(2), torch.zeros(2).long(), 1)
    two = masked_log_ratios(torch.ones(4), torch.zeros(4), torch.ones(4), torch.zeros(4).long(), 1)
    assert two.item() == 2 * one.item()


def test_a_zero_weight_takes_the_gradient_away():
    policy = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    weights = torch.tensor([1.0, 0.0, 1.0])
    ratios = masked_log_ratios(policy, torch.zeros(3), weights, torch.tensor([0, 0, 1]), 2)
    masked_dpo_loss(ratios[:1], ratios[1:], beta=0.5).sum().backward()
    chosen, masked, rejected = policy.grad.tolist()
    assert chosen < 0 and masked == 0 and rejected > 0


def test_a_response_without_tokens_has_ratio_zero():
    ratios = masked_log_ratios(torch.ones(1), torch.zeros(1), torch.ones(1), torch.tensor([1]), 3)
    assert ratios.tolist() == [0.0, 1.0, 0.0]


def test_label_smoothing_mixes_in_the_flipped_preference():
    chosen, rejected = torch.tensor([3.0]), torch.tensor([1.0])
    right = masked_dpo_loss(chosen, rejected, beta=0.5)
    flipped = masked_dpo_loss(rejected, chosen, beta=0.5)
    smoothed = masked_dpo_loss(chosen, rejected, beta=0.5, label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(0.9 * right.item() + 0.1 * flipped.item())


# What the papers write, pair by pair in plain floats. Nothing of the project is called here.


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(loss: str, ratios: list[tuple[float, float]], beta: float, e: float) -> list[float]:
    """Losses of pairs with these (M_w, M_l), or means per token for ipo."""
    kl_w = max(0.0, sum(w for w, _ in ratios) / len(ratios))
    kl_r = max(0.0, sum(r for _, r in ratios) / len(ratios))
    formulas = {
        # DPO with conservative labels (Mitchell 2023)
        "sigmoid": lambda w, r: (
            -(1 - e) * math.log(sigma(beta * (w - r))) - e * math.log(sigma(beta * (r - w)))
        ),
        # Chowdhury et al. 2024
        "robust": lambda w, r: (
            (-(1 - e) * math.log(sigma(beta * (w - r))) + e * math.log(sigma(beta * (r - w))))
            / (1 - 2 * e)
        ),
        # Zhao et al. 2023
        "hinge": lambda w, r: max(0.0, 1 - beta * (w - r)),
        # Azar et al. 2023
        "ipo": lambda w, r: ((w - r) - 1 / (2 * beta)) ** 2,
        # Ethayarajh et al. 2024, the halves of a batch as each other's estimate
        "kto_pair": lambda w, r: (
            0.5 * (1 - sigma(beta * (w - kl_r))) + 0.5 * (1 - sigma(beta * (kl_w - r)))
        ),
        # Wu et al. 2024
        "sppo_hard": lambda w, r: (w - 1 / (2 * beta)) ** 2 + (r + 1 / (2 * beta)) ** 2,
        # Chen et al. 2024
        "nca_pair": lambda w, r: (
            -math.log(sigma(beta * w))
            - 0.5 * math.log(sigma(-beta * w))
            - 0.5 * math.log(sigma(-beta * r))
        ),
        # Xiao et al. 2024
        "cal_dpo": lambda w, r: (
            -math.log(sigma(w - r)) + (w - 1 / (2 * beta)) ** 2 + (r + 1 / (2 * beta)) ** 2
        ),
    }
    return [formulas[loss](w, r) for w, r in ratios]


LOSSES = ["sigmoid", "robust", "hinge", "ipo", "kto_pair", "sppo_hard", "nca_pair", "cal_dpo"]
RATIOS = [(3.0, -2.0), (-1.5, 0.5), (0.0, 0.0), (7.0, 4.0), (-2.0, -6.0)]


def ours(loss: str, ratios: list[tuple[float, float]], beta: float, e: float) -> torch.Tensor:
    chosen, rejected = torch.tensor(ratios, dtype=torch.float64).T
    kl = kl_estimates(chosen.mean().item(), rejected.mean().item())
    settings = TrainingConfig(loss=loss, beta=beta, label_smoothing=e)
    return pair_losses(settings, chosen, rejected, kl)


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_those_of_the_papers(loss, beta):
    smoothings = [0.0, 0.2] if loss in ("sigmoid", "robust") else [0.0]
    for e in smoothings:
        for ratios in (RATIOS, [(-w, -r) for w, r in RATIOS]):  # KL estimates on both sides of 0
            expected = by_hand(loss, ratios, beta, e)
            assert ours(loss, ratios, beta, e).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        ("sigmoid", math.log(2)),
        ("robust", math.log(2)),
        ("hinge", 1.0),
        ("ipo", 25.0),
        ("kto_pair", 0.5),
        ("sppo_hard", 50.0),
        ("nca_pair", 2 * math.log(2)),
        ("cal_dpo", math.log(2) + 50.0),
    ],
)
def test_where_each_loss_starts(loss, value):
    """Policy and reference agree, beta is 0.1: the figures that the documentation states."""
    assert ours(loss, [(0.0, 0.0)], 0.1, 0.0).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_papers(loss):
    """By central differences of the formulas; kto_pair with its KL estimates held constant."""
    beta, e, step = 0.4, 0.1 if loss in ("sigmoid", "robust") else 0.0, 1e-6
    chosen, rejected = torch.tensor(RATIOS, dtype=torch.float64).T.clone().requires_grad_()
    kl = kl_estimates(chosen.mean().item(), rejected.mean().item())
    settings = TrainingConfig(loss=loss, beta=beta, label_smoothing=e)
    total = pair_losses(settings, chosen, rejected, kl).sum()
    grads = torch.stack(torch.autograd.grad(total, (chosen, rejected))).T.tolist()
    for number, (w, r) in enumerate(RATIOS):
        for side, (dw, dr) in enumerate(((step, 0.0), (0.0, step))):

            def at(sign, number=number, w=w, r=r, dw=dw, dr=dr):
                # Another pair takes up the difference, so that the batch means stay.
                other = (number + 1) % len(RATIOS)
                moved = list(RATIOS)
                moved[number] = (w + sign * dw, r + sign * dr)
                moved[other] = (moved[other][0] - sign * dw, moved[other][1] - sign * dr)
                return by_hand(loss, moved, beta, e)[number]

            slope = (at(1) - at(-1)) / (2 * step)
            assert grads[number][side] == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_robust_undoes_flipped_labels():
    """Averaged over labels that are flipped with probability e it is the loss without flips."""
    right = ours("robust", [(3.0, 1.0)], 0.5, 0.2).item()
    flipped = ours("robust", [(1.0, 3.0)], 0.5, 0.2).item()
    assert 0.8 * right + 0.2 * flipped == pytest.approx(ours("sigmoid", [(3, 1)], 0.5, 0).item())


def test_means_divide_by_the_weights_not_by_the_answer():
    """One, two and three kept tokens of the same value, one weight between 0 and 1."""
    values = torch.tensor([2.0, 2.0, 2.0, 6.0, 1.0, 2.0])
    weights = torch.tensor([1.0, 1.0, 1.0, 0.25, 1.0, 1.0])
    owner = torch.tensor([0, 1, 1, 2, 2, 2])
    means = masked_means(values, weights, owner, 3).tolist()
    assert means == pytest.approx([2.0, 2.0, (0.25 * 6 + 1 + 2) / 2.25])


def test_soft_weights_scale_what_a_token_counts_for():
    """A token of weight w moves the ratio and takes the gradient w times as much."""
    policy = torch.full((3,), -1.0, requires_grad=True)
    weights, owner = torch.tensor([1.0, 0.5, 0.0]), torch.zeros(3).long()
    (ratio,) = masked_log_ratios(policy, torch.full((3,), -3.0), weights, owner, 1)
    ratio.backward()
    assert ratio.item() == pytest.approx(1.5 * 2.0)
    assert policy.grad.tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "kto_pair", "nca_pair"])
def test_a_wider_margin_costs_less(loss):
    values = [ours(loss, [(m, -m)], 0.1, 0.0).item() for m in (-4.0, -1.0, 0.0, 1.0, 4.0)]
    assert all(a > b for a, b in pairwise(values))


# Two pairs, chosen answers first: response, sentence, weight, weight in a correct sentence,
# log-probability, reference.
TOKENS = [
    (0, 0, 1.0, 1.0, -1.0, -2.0),
    (0, 0, 0.5, 0.5, -3.0, -1.0),
    (0, 1, 1.0, 0.0, -2.0, -2.5),  # an end of turn: no part of a sentence
    (1, 2, 1.0, 1.0, -0.5, -0.5),
    (2, 3, 1.0, 0.0, -6.0, -1.0),
    (2, 3, 0.5, 0.0, -0.5, -2.5),
    (2, 4, 0.0, 1.0, -4.0, -1.0),
    (2, 5, 1.0, 0.0, -1.5, -1.0),
    (3, 6, 1.0, 0.0, -2.0, -1.0),
    (3, 6, 1.0, 0.0, -3.0, -1.0),
]


def columns() -> tuple[torch.Tensor, ...]:
    owner, sentence, *floats = zip(*TOKENS, strict=True)
    return torch.tensor(owner), torch.tensor(sentence), *(torch.tensor(f) for f in floats)


def test_no_sentence_counts_below_its_floor():
    owner, sentence, weights, _, policy, reference = columns()
    policy.requires_grad_()
    sentence_owner = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    floors = torch.tensor([-torch.inf] * 3 + [-2.0] * 4)
    values = policy - reference
    sums, below = floored_sums(values, weights, sentence, sentence_owner, floors, 4)

    def by_hand(response: int) -> float:
        total = 0.0
        for number in {s for r, s, *_ in TOKENS if r == response}:
            of_it = sum(w * (p - q) for _, s, w, _, p, q in TOKENS if s == number)
            total += max(of_it, -2.0) if response >= 2 else of_it
        return total

    assert sums.tolist() == pytest.approx([by_hand(n) for n in range(4)])
    assert sums.tolist() == pytest.approx([1.0 - 1.0 + 0.5, 0.0, -2.0 - 0.5, -2.0])
    assert below.tolist() == [False] * 3 + [True, False, False, True]
    sums.sum().backward()
    # What is at its floor is pushed no further, down or up.
    assert policy.grad.tolist() == [1.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]


def test_no_token_counts_below_its_floor():
    owner, _, weights, _, policy, reference = columns()
    floors = torch.where(owner >= 2, -1.5 * weights, -torch.inf)
    found, below = floored_sums(
        policy - reference, weights, torch.arange(len(TOKENS)), owner, floors, 4
    )
    by_hand = [0.0] * 4
    for response, _, weight, _, p, q in TOKENS:
        by_hand[response] += weight * (max(p - q, -1.5) if response >= 2 else p - q)
    assert found.tolist() == pytest.approx(by_hand)
    assert below.nonzero().flatten().tolist() == [4, 9], "the token without a weight is not bounded"


@pytest.mark.parametrize("anchor", ["nll", "reference"])
def test_an_anchor_is_of_the_correct_sentences_of_both_answers(anchor):
    owner, _, _, correct, policy, reference = columns()
    policy.requires_grad_()
    settings = TrainingConfig(anchor_weight=1.0, anchor=anchor)
    found = anchor_losses(settings, policy, reference, correct, owner, 4)
    by_hand = []
    for pair in range(2):
        terms = [
            (c, -p if anchor == "nll" else max(0.0, q - p))
            for r, _, _, c, p, q in TOKENS
            if r % 2 == pair
        ]
        by_hand.append(sum(c * a for c, a in terms) / sum(c for c, _ in terms))
    assert found.tolist() == pytest.approx(by_hand)
    assert found[0].item() == pytest.approx({"nll": 6.5 / 2.5, "reference": 4.0 / 2.5}[anchor])
    found.sum().backward()
    held = [-c / (2.5 if r % 2 == 0 else 1.0) for r, _, _, c, p, q in TOKENS]
    if anchor == "reference":  # nothing pushes what is no less likely than it was
        held = [h * (p < q) for h, (*_, p, q) in zip(held, TOKENS, strict=True)]
    assert policy.grad.tolist() == pytest.approx(held)


def test_an_anchor_at_the_reference_starts_at_nothing():
    """And pulls nowhere, whichever way the reference was rounded."""
    owner, _, _, correct, policy, _ = columns()
    policy.requires_grad_()
    settings = TrainingConfig(anchor_weight=1.0, anchor="reference")
    reference = policy.detach() + 1e-5 * torch.tensor([1.0, -1.0]).repeat(5)
    found = anchor_losses(settings, policy, reference, correct, owner, 4)
    found.sum().backward()
    assert found.tolist() == [0.0, 0.0] and not policy.grad.any()


def of_pairs(ratios: list[tuple[float, float]], gaps=0.0, **settings):
    """Losses and their gradients by M_w and M_l."""
    chosen, rejected = torch.tensor(ratios, dtype=torch.float64).T.clone().requires_grad_()
    gaps = torch.tensor(gaps, dtype=torch.float64)
    losses = pair_losses(TrainingConfig(**settings), chosen, rejected, gaps=gaps)
    grads = torch.autograd.grad(losses.sum(), (chosen, rejected))
    return losses.tolist(), torch.stack(grads).T.tolist()


GAPS = [0.25, 1.0, 0.0, 0.5, 0.75]


@pytest.mark.parametrize("loss", ["sigmoid", "hinge"])
def test_margins_are_those_of_the_papers(loss):
    """SimPO's gamma and F-DPO's lambda, which there stands within beta."""
    beta, gamma, times = 0.4, 0.3, 1.2
    losses, grads = of_pairs(RATIOS, GAPS, loss=loss, beta=beta, margin=gamma, gap_margin=times)
    for (w, r), gap, found, grad in zip(RATIOS, GAPS, losses, grads, strict=True):
        logit = beta * (w - r - (times / beta) * gap) - gamma
        by_hand = {"sigmoid": -math.log(sigma(logit)), "hinge": max(0.0, 1 - logit)}[loss]
        slope = {"sigmoid": sigma(-logit), "hinge": float(logit < 1)}[loss]
        assert found == pytest.approx(by_hand, rel=1e-12)
        assert grad == pytest.approx([-beta * slope, beta * slope])


def test_a_margin_starts_at_what_it_costs():
    (found,), _ = of_pairs([(0.0, 0.0)], [0.5], gap_margin=2.0)
    assert found == pytest.approx(math.log(1 + math.e))
    (found,), _ = of_pairs([(0.0, 0.0)], [0.0], gap_margin=2.0)
    assert found == pytest.approx(math.log(2)), "no gap, no margin"


@pytest.mark.parametrize("loss", ["sigmoid", "hinge"])
def test_dpop_is_that_of_the_paper(loss):
    """Pal et al. 2024: within the sigmoid, and within beta."""
    beta, times = 0.3, 5.0
    losses, grads = of_pairs(RATIOS, loss=loss, beta=beta, dpop_weight=times)
    for (w, r), found, grad in zip(RATIOS, losses, grads, strict=True):
        logit = beta * (w - r - times * max(0.0, -w))
        by_hand = {"sigmoid": -math.log(sigma(logit)), "hinge": max(0.0, 1 - logit)}[loss]
        slope = beta * {"sigmoid": sigma(-logit), "hinge": float(logit < 1)}[loss]
        assert found == pytest.approx(by_hand, rel=1e-12)
        assert grad == pytest.approx([-slope * (1 + times * (w < 0)), slope])


def test_dpop_starts_at_ln_2_whichever_way_the_reference_was_rounded():
    losses, grads = of_pairs([(1e-5, 0.0), (-1e-5, 0.0)], dpop_weight=50.0)
    assert losses == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert grads[0] == pytest.approx(grads[1], rel=1e-5)


@pytest.mark.parametrize("estimate", [0.0, 1.5])
def test_fkto_is_that_of_the_paper(estimate):
    """Huang and Chen 2024: what KTO asks of an answer, of every sentence."""
    beta, times = 0.3, 1.4
    ratios = torch.tensor([2.0, -1.0, 0.5, -3.0], dtype=torch.float64, requires_grad=True)
    correct = torch.tensor([True, True, False, False])
    settings = TrainingConfig(loss="fkto", beta=beta, incorrect_weight=times)
    found = fkto_losses(settings, ratios, correct, SentenceKl(estimate, 2.0))
    found.sum().backward()
    for ratio, up, loss, grad in zip(
        ratios.tolist(), correct.tolist(), found.tolist(), ratios.grad.tolist(), strict=True
    ):
        value = sigma(beta * (ratio - estimate if up else estimate - ratio))
        assert loss == pytest.approx((1.0 if up else times) * (1 - value), rel=1e-12)
        slope = beta * value * (1 - value) * (-1.0 if up else times)
        assert grad == pytest.approx(slope, rel=1e-9)


def test_a_pair_without_a_correct_sentence_has_nothing_to_hold_up():
    owner, _, _, _, policy, reference = columns()
    policy.requires_grad_()
    settings = TrainingConfig(anchor_weight=1.0)
    nothing = torch.zeros(len(TOKENS))
    found = anchor_losses(settings, policy, reference, nothing, owner, 4)
    found.sum().backward()
    assert found.tolist() == [0.0, 0.0] and not policy.grad.any()
