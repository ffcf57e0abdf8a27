import math

import pytest
import torch

from maskdpo_ray.training.loss import masked_dpo_loss, masked_log_ratios


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
