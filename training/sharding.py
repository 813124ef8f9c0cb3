"""Weights, gradients and optimiser state shared out over processes by FSDP2, so that none holds them all."""

from __future__ import annotations

import torch
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from training.batch import Batch
from training.outcome import Method, Outcome


class Pass(torch.nn.Module):
    """The forward pass of a micro-batch as one module, which FSDP can surround."""

    def __init__(self, model: PreTrainedModel, method: Method):
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, batch: Batch) -> tuple[torch.Tensor, Outcome]:
        """The loss, which the backward pass begins with, and all that is reported."""
        outcome = self.method.outcome(self.model, batch)
        return outcome.loss.sum, outcome


def share_out(passes: Pass) -> None:
    """Share out each layer by itself, and the rest (embeddings, output, last norm) together.

    Gradients are added over the processes, not averaged: the loop divides once, by what was counted.
    """
    layers = getattr(passes.model.base_model, "layers", None)
    if layers is None:
        raise ValueError(
            f"sharding knows no layers of a model of type {passes.model.config.model_type}; leave it out"
        )
    for module in (*layers, passes):
        shared = fully_shard(module)
        shared.set_gradient_divide_factor(1.0)
        shared.set_force_sum_reduction_for_comms(True)
