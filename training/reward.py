"""Bradley-Terry reward model: a score for each sequence, read at its last token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from training.batch import Batch, on_device
from training.data import Data
from training.losses import bradley_terry
from training.model import hidden_states
from training.outcome import Outcome, pair_sources


def scores(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The score of each sequence, (s,). The last token is found by length, never by token id."""
    ends = on_device(np.cumsum(batch.pieces) - 1, batch.tokens.device)
    return model.score(hidden_states(model, batch, ends))[:, 0]


@dataclass(frozen=True)
class Reward:
    """Mean Bradley-Terry loss of pairs; a batch holds all chosen sequences, then all rejected ones.

    Metrics are TRL's `accuracy`, `margin` and `mean_reward`, but as means over pairs of the whole step.
    """

    data: Data
    centring: float = 0.0

    def outcome(self, model: PreTrainedModel, batch: Batch) -> Outcome:
        chosen, rejected = scores(model, batch).chunk(2)
        margin = on_device(self.data.margin[batch.rows[: len(batch.rows) // 2]], chosen.device)
        loss = bradley_terry(chosen, rejected, margin, self.centring)
        chosen, rejected = chosen.detach(), rejected.detach()
        metrics = {
            "accuracy": (chosen > rejected).float(),
            "margin": chosen - rejected,
            "mean_reward": (chosen + rejected) / 2,
        }
        return Outcome(loss, pair_sources(self.data, batch), metrics)
