"""What the trainers take for granted of a model, tried on the model itself before the first step.

Any causal model of transformers can be trained if it calls its attention by transformers' interface and its logits
are its last hidden states times a matrix. Some do neither: state-space layers see the document before, and some
models scale or cap their logits. Such a model would train without an error, and wrongly.

Documents of a row that do not see each other have the same bits whatever the others are. Only experts, who
multiply at once what they are given of all documents, may round it otherwise.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from training.attention import told
from training.batch import Batch
from training.model import head_weight, hidden_states

LENGTHS = [5, 7, 6]
NEAR = 8  # with experts: times a product's rounding that states of a document may differ by, of the largest
EXPECTED = "a model whose every layer attends through transformers' attention interface"


class ModelError(Exception):
    """The model cannot be trained here."""


@torch.no_grad()
def probe(model: PreTrainedModel, products: torch.dtype = torch.float32) -> None:
    """Raise ModelError if documents of one row see each other, or logits are not hidden states times a matrix.

    `products`: what the backbone's factors are rounded to.
    """
    was_training = model.training
    model.eval()
    config = model.config.get_text_config()
    for key, value in config.to_dict().items():  # a model of small weights does not show its cap
        if value and "softcap" in key:
            raise ModelError(f"{_name(model)}: {key} is {value}; attention and losses here know no cap")
    tokens = torch.arange(sum(LENGTHS), device=model.device)[None] % config.vocab_size
    try:
        before = hidden_states(model, _batch(tokens)).split(LENGTHS)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{_name(model)}: expected {EXPECTED}; a packed row gives {error}") from error
    has_experts = any(name.endswith("experts") for name, _ in model.named_modules())
    near = NEAR * torch.finfo(products).eps * float(torch.cat(before).abs().max()) if has_experts else 0.0
    for changed in range(len(LENGTHS)):
        other = tokens.clone()
        other[0, sum(LENGTHS[:changed]) : sum(LENGTHS[: changed + 1])] = config.vocab_size - 1
        after = hidden_states(model, _batch(other)).split(LENGTHS)
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            if place != changed and not float((old - new).abs().max()) <= near:
                raise ModelError(
                    f"{_name(model)}: a document in a packed row sees another one, so packing would leak; "
                    f"expected {EXPECTED}"
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
