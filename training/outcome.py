"""What a method returns for a micro-batch: sums and counts, nothing averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from training.batch import Batch
from training.data import Data
from training.losses import Loss


@dataclass(frozen=True)
class Outcome:
    """Of one micro-batch. The loss is over tokens in the loss, or over pairs."""

    loss: Loss
    source: np.ndarray  # int32 (loss.count,), the source of each term
    metrics: dict[str, torch.Tensor]  # (loss.count,) each


class Method(Protocol):
    """One way to train: everything else in the loop is shared."""

    def outcome(self, model: PreTrainedModel, batch: Batch) -> Outcome:
        """The loss of a micro-batch, differentiable."""


def pair_sources(data: Data, batch: Batch) -> np.ndarray:
    """The source of each pair of a batch of pairs, int32 (pairs,)."""
    return data.source[batch.rows[: len(batch.rows) // 2]]
