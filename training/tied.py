"""An embedding that is the output matrix as well: both gradients in the same memory.

Left to itself autograd makes a second matrix of zeros for the few rows of a batch's tokens, and adds the two.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def join_gradients(model: PreTrainedModel) -> None:
    """From now on the embedding's gradient is added to the gradient that the output matrix has by then.

    `backward` sees to that, `torch.autograd.grad` does not. A model whose matrices are two, or of another kind,
    is left as it is, and so is a frozen one.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    plain = type(embedding) is torch.nn.Embedding and embedding.max_norm is None
    tied = plain and output is not None and output.weight is embedding.weight and embedding.weight.requires_grad
    if tied and not (embedding.sparse or embedding.scale_grad_by_freq or embedding.weight.is_cuda):
        embedding.register_forward_hook(_apart)


def _apart(embedding: torch.nn.Embedding, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """The output as a leaf of the graph, whose gradient goes where it belongs by hand."""
    if not torch.is_grad_enabled():
        return output
    tokens, weight = inputs[0].reshape(-1), embedding.weight
    output = output.detach().requires_grad_()

    def add(gradient: torch.Tensor) -> None:
        rows = gradient.reshape(len(tokens), -1)
        if embedding.padding_idx is not None:  # whose row learns nothing as an input
            rows = rows.masked_fill((tokens == embedding.padding_idx)[:, None], 0)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, tokens, rows)

    output.register_hook(add)
    return output
