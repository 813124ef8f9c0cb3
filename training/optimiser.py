"""AdamW with weight decay on matrices alone, by shares, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.config import TrainConfig
from training.state import whole


def make_optimiser(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that are trained. Norms, biases and embeddings do not decay; an output matrix tied
    to the embedding is the embedding."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    decayed, kept = [], []
    for parameter in filter(lambda one: one.requires_grad, model.parameters()):
        (kept if parameter.dim() < 2 or id(parameter) in embeddings else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=1e-8, fused=True)


@dataclass(frozen=True)
class Share:
    """The parameters that one thread looks after at the end of a step.

    Left to itself torch splits each of the many small operations over its threads, which wait for each other after
    each (see `training.parallel`).
    """

    copies: list[tuple[torch.nn.Parameter, ...]]  # a parameter that is updated, and those of the other threads
    optimiser: torch.optim.AdamW  # of these parameters; it has its state with all others

    def gather(self) -> None:
        """Add the gradients of all copies to the first one's, in their order, and leave those without."""
        for first, *others in self.copies:
            for other in others:
                if first.grad is None:
                    first.grad = other.grad
                elif other.grad is not None:
                    first.grad += other.grad
                other.grad = None

    def norm(self) -> torch.Tensor:
        """Of all gradients together, (1,) float64."""
        gradients = [first.grad for first, *_ in self.copies if first.grad is not None]
        return whole(torch.nn.utils.get_total_norm(gradients)).double().reshape(1)

    def update(self, rate: float, divisor: float) -> None:
        """One step of AdamW by the gradients over `divisor`, which end here."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # What torch has for scaled losses: the fused step divides as it reads.
        self.optimiser.grad_scale = torch.tensor(divisor, dtype=torch.float32, device=self.device)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    @property
    def device(self) -> torch.device:
        return self.copies[0][0].device if self.copies else torch.device("cpu")


def shares(optimiser: torch.optim.AdamW, models: Sequence[torch.nn.Module]) -> list[Share]:
    """A share for each of the models, which are one model with gradients of its own for each thread: the largest
    parameter first, each to the share with the least numbers so far."""
    copies = [
        same for same in zip(*(model.parameters() for model in models), strict=True) if same[0].requires_grad
    ]
    loads, members = [0] * len(models), [[] for _ in models]
    for place in sorted(range(len(copies)), key=lambda place: -copies[place][0].numel()):
        least = loads.index(min(loads))
        loads[least] += copies[place][0].numel()
        members[least].append(place)
    found = []
    for places in members:
        own = [copies[place] for place in sorted(places)]
        chosen = {id(first) for first, *_ in own}
        groups = [
            {**group, "params": [one for one in group["params"] if id(one) in chosen]}
            for group in optimiser.param_groups
        ]
        part = torch.optim.AdamW(groups)
        part.state = optimiser.state
        found.append(Share(own, part))
    return found


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
