"""Causal language modelling: pretraining, midtraining, long context and instructions alike.

What differs between them is the data: its mask says which tokens are in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from training.batch import Batch
from training.data import Data, DataError
from training.head import cross_entropy
from training.losses import Loss
from training.model import Specials, head_products, head_weight, hidden_states
from training.outcome import Outcome


@dataclass(frozen=True)
class Causal:
    """Mean cross-entropy of the tokens in the loss."""

    data: Data
    z_loss: float = 0.0

    def outcome(self, model: PreTrainedModel, batch: Batch) -> Outcome:
        hidden = hidden_states(model, batch, batch.selected)
        loss, nll = cross_entropy(hidden, head_weight(model), batch.targets, self.z_loss, head_products(model))
        sources = self.data.source[batch.rows[batch.sequence]]
        return Outcome(Loss(loss, len(nll), nll), sources, {})


def check_end_of_turn(data: Data, specials: Specials) -> None:
    """Raise DataError unless every turn in the loss ends with the token that ends it, itself in the loss.

    A model that never learns the end-of-turn token never stops. A turn is a run of tokens in the loss. Documents
    that are all in the loss are plain text; documents without any token in the loss are the caller's to count.
    """
    mask = np.asarray(data.mask)
    wrong = []
    for row, (start, length) in enumerate(zip(data.start.tolist(), data.length.tolist(), strict=True)):
        places = np.flatnonzero(mask[start : start + length])
        if 0 < len(places) < length:
            ends = places[np.append(np.diff(places) > 1, True)]
            if not np.isin(data.tokens[start + ends], (specials.end_of_turn, specials.end_of_text)).all():
                wrong.append(row)
    if wrong:
        raise DataError(
            f"{data.folder}: {len(wrong)} documents leave the end-of-turn token {specials.end_of_turn} out of the "
            f"loss, so a model would not learn to stop: {data.names(np.array(wrong))}; materialise the mix again"
        )


def empty_by_source(data: Data) -> dict[str, int]:
    """How many documents of each source have no token in the loss; sources without such are left out."""
    mask = np.asarray(data.mask)
    spans = zip(data.start.tolist(), data.length.tolist(), strict=True)
    empty = np.fromiter((not mask[start : start + length].any() for start, length in spans), bool, data.rows)
    counts = np.bincount(data.source[empty], minlength=len(data.sources))
    return {name: int(count) for name, count in zip(data.sources, counts, strict=True) if count}
