"""RMSNorm on a CPU in two passes: a kernel forward and one backward, instead of an operation for each step.

Zhang and Sennrich 2019: y = w * x / sqrt(mean(x^2) + eps), over the last dimension.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch.autograd.function import FunctionCtx, once_differentiable
from transformers import PreTrainedModel

from curation.compiled import njit

ROWS = 64  # whose gradients of the weight are added before they join the others: sums of like size lose less


def fuse_norms(model: PreTrainedModel) -> PreTrainedModel:
    """The model, with the kernels in each norm that computes what they do, which a trial on random numbers says.

    Only float32 on a CPU goes through them, and nothing that is being compiled.
    """
    for module in model.modules():
        if _is_rms_norm(module):
            module.__class__ = _fused(type(module))
    return model


@functools.cache
def _fused(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        tensors = (hidden_states, self.weight)
        ours = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in tensors)
        if not ours or torch.compiler.is_compiling():
            return kind.forward(self, hidden_states)
        return RMSNorm.apply(*tensors, self.variance_epsilon)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


@torch.no_grad()
def _is_rms_norm(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not hasattr(module, "variance_epsilon") or weight is None or weight.dim() != 1:
        return False
    if weight.device.type != "cpu":  # as of a model that is made for its shapes alone
        return False
    trial = torch.from_numpy(np.random.default_rng(0).standard_normal((2, len(weight)), np.float32))
    ours = RMSNorm.apply(trial, weight.float(), module.variance_epsilon)
    return torch.allclose(module(trial).float(), ours, rtol=1e-5, atol=1e-6)


class RMSNorm(torch.autograd.Function):
    """hidden: (..., width) float32; weight: (width,). Returns hidden's shape."""

    @staticmethod
    def forward(ctx: FunctionCtx, hidden, weight, epsilon):
        hidden = hidden.contiguous()
        weight = weight.clone()  # FSDP frees the memory of a shared parameter, which numpy's view would forbid
        output, scale = torch.empty_like(hidden), hidden.new_empty(hidden.shape[:-1])
        _forward(_rows(hidden), weight.numpy(), np.float32(epsilon), _rows(output), scale.numpy().reshape(-1))
        ctx.save_for_backward(hidden, weight, scale)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient):
        hidden, weight, scale = ctx.saved_tensors
        hidden_grad, weight_grad = torch.empty_like(hidden), torch.zeros_like(weight)
        given = _rows(gradient.contiguous())
        results = _rows(hidden_grad), weight_grad.numpy()
        _backward(_rows(hidden), weight.numpy(), scale.numpy().reshape(-1), given, *results)
        return hidden_grad, weight_grad if ctx.needs_input_grad[1] else None, None


def _rows(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().reshape(-1, tensor.shape[-1])


# The order of a sum may change for the sake of vectors; what is no number stays one.
SUMS = {"contract", "reassoc", "nsz", "arcp"}


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def _forward(hidden, weight, epsilon, output, scale):
    rows, width = hidden.shape
    for row in range(rows):
        squares = np.float32(0)
        for place in range(width):
            squares += hidden[row, place] * hidden[row, place]
        factor = np.float32(1) / np.sqrt(squares / np.float32(width) + epsilon)
        scale[row] = factor
        for place in range(width):
            output[row, place] = weight[place] * (hidden[row, place] * factor)


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def _backward(hidden, weight, scale, gradient, hidden_grad, weight_grad):
    rows, width = hidden.shape
    some = np.empty_like(weight_grad)
    for start in range(0, rows, ROWS):
        some[:] = 0
        for row in range(start, min(start + ROWS, rows)):
            factor = scale[row]
            along = np.float32(0)  # how far the gradient changes the length of the row, which has no effect
            for place in range(width):
                along += gradient[row, place] * weight[place] * hidden[row, place]
            along *= factor * factor / np.float32(width)
            for place in range(width):
                some[place] += gradient[row, place] * (hidden[row, place] * factor)
                hidden_grad[row, place] = factor * (
                    gradient[row, place] * weight[place] - hidden[row, place] * along
                )
        for place in range(width):
            weight_grad[place] += some[place]
