"""AdamW with weight decay on matrices alone, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch

from training.config import TrainConfig


def make_optimiser(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that are trained. Norms, biases and embeddings do not decay; an output matrix tied
    to the embedding is the embedding."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    decayed, kept = [], []
    for parameter in filter(lambda one: one.requires_grad, model.parameters()):
        (kept if parameter.dim() < 2 or id(parameter) in embeddings else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=1e-8, fused=True)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Of step 0 <= step < steps: linear warm-up to the full rate, then the schedule down to its final share.

    cosine: half a cosine over all steps after the warm-up. linear: a straight line over them. wsd (Hu et al. 2024)
    stays at the full rate until the decay begins, then goes down a straight line. The last step of these three has
    the final share.
    """
    warmup = round(config.warmup_share * steps) if config.warmup_steps is None else config.warmup_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    decay = steps - warmup
    if config.schedule == "wsd":
        wanted = round(config.decay_share * steps) if config.decay_steps is None else config.decay_steps
        decay = max(1, min(wanted, decay))
    full = steps - 1 - decay if config.schedule == "wsd" else warmup  # the last step at the full rate
    done = max(0, step - full) / max(1, steps - 1 - full)
    left = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.learning_rate * (config.final_share + (1 - config.final_share) * left)
