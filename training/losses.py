"""Losses as pure functions of tensors. Each returns a sum and a count.

The loop adds sums and counts over the micro-batches of an optimiser step and divides once, so a loss cannot
depend on how a step is split. A function that returned a mean would make that impossible.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch.nn.functional import logsigmoid


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
    """-log sigmoid(chosen - rejected - margin) + centring * (chosen + rejected)^2. Scores: (pairs,).

    Margin: Llama 2, section 3.2.2. Centring: Eisenstein et al. 2023, with the weight that TRL calls
    center_rewards_coefficient.
    """
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    return _loss(-logsigmoid(difference) + centring * (chosen + rejected).square())


def dpo(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
    kind: Literal["sigmoid", "ipo"] = "sigmoid",
    label_smoothing: float = 0.0,
    chosen_tokens: torch.Tensor | None = None,
    rejected_tokens: torch.Tensor | None = None,
) -> Loss:
    """DPO (Rafailov et al. 2023). Log-probabilities: (pairs,), summed over each completion.

    sigmoid: -log sigmoid(beta * d), d the difference of the two log-ratios; `label_smoothing` e gives the
    conservative form of the authors' code, (1 - e) * loss(d) + e * loss(-d).
    ipo (Azar et al. 2023): (d - 1 / (2 beta))^2, with log-ratios averaged over the completion's tokens, as in
    TRL; `chosen_tokens` and `rejected_tokens` are then required.
    """
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    if kind == "ipo":
        if chosen_tokens is None or rejected_tokens is None:
            raise ValueError("ipo averages over tokens: chosen_tokens and rejected_tokens are required")
        return _loss((chosen / chosen_tokens - rejected / rejected_tokens - 1 / (2 * beta)).square())
    scaled = beta * (chosen - rejected)
    return _loss(-(1 - label_smoothing) * logsigmoid(scaled) - label_smoothing * logsigmoid(-scaled))
