"""Losses as pure functions of tensors. Each returns a sum and a count.

The loop adds sums and counts over the micro-batches of an optimiser step and divides once, so a loss cannot
depend on how a step is split. A function that returned a mean would make that impossible.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid

from training.config import DpoLoss

AVERAGED: tuple[DpoLoss, ...] = ("ipo", "sigmoid_norm")  # compare log-ratios per token


class Loss(NamedTuple):
    """The sum (a differentiable scalar), what it is over, and each term, (count,), without gradient."""

    sum: torch.Tensor
    count: int
    each: torch.Tensor


def _loss(values: torch.Tensor) -> Loss:
    return Loss(values.sum(), len(values), values.detach())


def causal(nll: torch.Tensor, mask: torch.Tensor, log_partition: torch.Tensor, z_loss: float = 0.0) -> Loss:
    """Cross-entropy of the tokens in the loss. nll, log_partition: (n,); mask: (n,) bool.

    `z_loss` weighs the squared log-partition of each token (PaLM, section 5.1).
    Training uses the fused form, `training.head.cross_entropy`; this is the definition it is tested against.
    """
    return _loss(nll[mask] + z_loss * log_partition[mask].square())


def bradley_terry(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | None = None, centring: float = 0.0
) -> Loss:
    """Bradley and Terry (1952): p(chosen beats rejected) = sigmoid(r_c - r_r). Scores, margins: (pairs,).

    The loss of a pair is -log sigmoid(r_c - r_r - m) + centring * (r_c + r_r)^2. The margin m says how much better
    the chosen answer is (Llama 2, section 3.2.2). Scores are only defined up to a constant; centring keeps them
    around zero (Eisenstein et al. 2023), with the weight that TRL calls center_rewards_coefficient.
    """
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    return _loss(-logsigmoid(difference) + centring * (chosen + rejected).square())


def dpo_margin(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
    kind: DpoLoss = "sigmoid",
    chosen_tokens: torch.Tensor | None = None,
    rejected_tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """The implicit reward's margin of each pair, (pairs,): what a DPO loss is a function of.

    beta * d, with d = log pi(c)/ref(c) - log pi(r)/ref(r). Log-probabilities are summed over each completion. The
    kinds `ipo` and `sigmoid_norm` divide each log-ratio by its completion's tokens, which are then required.
    """
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    if kind in AVERAGED:
        if chosen_tokens is None or rejected_tokens is None:
            raise ValueError(f"{kind} averages over tokens: chosen_tokens and rejected_tokens are required")
        chosen, rejected = chosen / chosen_tokens, rejected / rejected_tokens
    return beta * (chosen - rejected)


def dpo(margin: torch.Tensor, beta: float, kind: DpoLoss = "sigmoid", label_smoothing: float = 0.0) -> Loss:
    """Direct preference optimisation (Rafailov et al. 2023) from `dpo_margin`, here m. (pairs,).

    With r = beta * log pi / ref as the reward in Bradley-Terry, the likelihood of the preferences gives

        sigmoid:       -log sigmoid(m)

    whose gradient is -sigmoid(-m) * beta * d(log pi(c) - log pi(r)): a pair weighs as much as the implicit reward
    is wrong about it (see `dpo_weight`). With e = `label_smoothing`, the share of labels taken to be flipped:

        sigmoid, e:    -(1 - e) log sigmoid(m) - e log sigmoid(-m)                    (cDPO, the authors' code)
        robust:       (-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2 e)       (Chowdhury et al. 2024)
        hinge:         max(0, 1 - m)                                                  (SLiC, Zhao et al. 2023)
        ipo:           (d - 1 / (2 beta))^2, d of log-ratios per token, as in TRL     (Azar et al. 2023)
        sigmoid_norm:  -log sigmoid(m), m of log-ratios per token                     (Tulu 3, section 5.1)
    """
    if kind == "ipo":
        return _loss((margin / beta - 1 / (2 * beta)).square())
    if kind == "hinge":
        return _loss(torch.relu(1 - margin))
    right, wrong = logsigmoid(margin), logsigmoid(-margin)
    if kind == "robust":
        return _loss((label_smoothing * wrong - (1 - label_smoothing) * right) / (1 - 2 * label_smoothing))
    return _loss(-(1 - label_smoothing) * right - label_smoothing * wrong)


def dpo_weight(margin: torch.Tensor, beta: float, kind: DpoLoss, label_smoothing: float = 0.0) -> torch.Tensor:
    """The weight of each pair in the gradient, -d loss / d margin, (pairs,): of `sigmoid`, sigmoid(r_r - r_c)."""
    with torch.enable_grad():
        margin = margin.detach().requires_grad_()
        return -torch.autograd.grad(dpo(margin, beta, kind, label_smoothing).sum, margin)[0]
