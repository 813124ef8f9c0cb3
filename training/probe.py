"""What the trainers take for granted of a model, tried on the model itself before the first step.

Any causal model of transformers can be trained if it calls its attention by transformers' interface and its logits
are its last hidden states times a matrix. Some do neither: state-space layers see the document before, and some
models scale or cap their logits. Such a model would train without an error, and wrongly.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from training.attention import told
from training.batch import Batch
from training.model import head_weight, hidden_states

LENGTHS = [5, 7, 6]


class ModelError(Exception):
    """The model cannot be trained here."""


@torch.no_grad()
def probe(model: PreTrainedModel) -> None:
    """Raise ModelError if documents of one row see each other, or logits are not hidden states times a matrix."""
    was_training = model.training
    model.eval()
    vocabulary = model.config.get_text_config().vocab_size
    tokens = torch.arange(sum(LENGTHS), device=model.device)[None] % vocabulary
    before = hidden_states(model, _batch(tokens)).split(LENGTHS)
    for changed in range(len(LENGTHS)):
        other = tokens.clone()
        other[0, sum(LENGTHS[:changed]) : sum(LENGTHS[: changed + 1])] = vocabulary - 1
        after = hidden_states(model, _batch(other)).split(LENGTHS)
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            if place != changed and not torch.equal(old, new):
                raise ModelError(
                    f"{_name(model)}: a document in a packed row sees another one, so packing would leak; "
                    "expected a model whose every layer attends through transformers' attention interface"
                )
    if model.get_output_embeddings() is not None:
        logits = model(
            input_ids=tokens,
            position_ids=_batch(tokens).positions,
            use_cache=False,
            **told(model, LENGTHS, [0] * len(LENGTHS), tokens.device),
        ).logits[0]
        ours = torch.cat(before) @ head_weight(model).T
        if not torch.allclose(logits, ours, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
            raise ModelError(
                f"{_name(model)}: its logits are not hidden states times the output matrix (a bias, a scale or a "
                "cap), which the losses here assume; use another architecture"
            )
    model.train(was_training)


def _batch(tokens: torch.Tensor) -> Batch:
    nothing = torch.zeros(0, dtype=torch.int64, device=tokens.device)
    positions = torch.cat([torch.arange(length, device=tokens.device) for length in LENGTHS])[None]
    none = np.zeros(0, np.int64)
    return Batch(tokens, positions, LENGTHS, [0] * len(LENGTHS), np.arange(3), nothing, nothing, none, none)


def _name(model: PreTrainedModel) -> str:
    return f"{type(model).__name__} (model_type {model.config.model_type})"
