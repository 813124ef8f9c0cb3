"""From hidden states to log-probabilities without ever holding all logits.

Both functions work on chunks of rows, sized so that a chunk's logits stay near the cache: with a vocabulary of
8,192, logits of one micro-batch would otherwise be larger than everything else in memory together.
"""

from __future__ import annotations

import itertools

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_LOGITS = 1 << 22  # numbers in a chunk: 16 MiB of float32
SMALLEST_CHUNK = 128  # rows: below, the matrix product is slow
KEPT_LOGITS = 1 << 24  # numbers of softmaxes kept for a backward pass, 64 MiB: what is beyond is computed again


def cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, z_loss: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of `training.losses.causal` for tokens that are all in the loss, and each token's nll.

    hidden: (n, width); weight: (vocabulary, width); targets: (n,) int64. Returns a scalar and (n,), the latter
    without gradient. The gradients are computed in the forward pass, while a chunk's softmax is at hand, so
    logits are computed once and never kept.
    """
    return _CrossEntropy.apply(hidden, weight, targets, z_loss)


def token_logps(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) of each row in nats, differentiable. Shapes as in `cross_entropy`; returns (n,).

    What weighs each token is only known in the backward pass. Softmaxes are kept for it up to KEPT_LOGITS numbers;
    beyond, the logits are computed again.
    """
    return _TokenLogps.apply(hidden, weight, targets)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden, weight, targets, z_loss):
        wanted = any(ctx.needs_input_grad)
        hidden_grad, weight_grad = (torch.empty_like(hidden), torch.zeros_like(weight)) if wanted else (None, None)
        nll = hidden.new_empty(len(targets))
        total = hidden.new_zeros(())
        for rows, probabilities, log_partition, chunk_nll in _chunks(hidden, weight, targets):
            nll[rows] = chunk_nll
            total += (chunk_nll + z_loss * log_partition.square()).sum()
            if wanted:
                # d/d logits of (nll + z * log_partition^2) = p * (1 + 2 z log_partition) - onehot(target)
                if z_loss:
                    probabilities *= (1 + 2 * z_loss * log_partition)[:, None]
                _subtract_at(probabilities, targets[rows])
                torch.mm(probabilities, weight, out=hidden_grad[rows])
                weight_grad.addmm_(probabilities.T, hidden[rows])
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient, _):
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * gradient, weight_grad * gradient, None, None


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden, weight, targets):
        logps = hidden.new_empty(len(targets))
        keep = KEPT_LOGITS // len(weight) if any(ctx.needs_input_grad) else 0  # rows
        ctx.kept = []
        for rows, probabilities, _, nll in _chunks(hidden, weight, targets, own=keep):
            logps[rows] = -nll
            if rows.stop <= keep:
                ctx.kept.append((rows, probabilities))
        ctx.save_for_backward(hidden, weight, targets)
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient):
        hidden, weight, targets = ctx.saved_tensors
        hidden_grad, weight_grad = torch.empty_like(hidden), torch.zeros_like(weight)
        done = ctx.kept[-1][0].stop if ctx.kept else 0
        again = _chunks(hidden, weight, targets, first=done)
        for rows, probabilities in itertools.chain(ctx.kept, ((rows, found) for rows, found, _, _ in again)):
            _subtract_at(probabilities, targets[rows])
            probabilities *= -gradient[rows][:, None]
            torch.mm(probabilities, weight, out=hidden_grad[rows])
            weight_grad.addmm_(probabilities.T, hidden[rows])
        ctx.kept = []  # overwritten: a second backward pass has nothing to go by, and autograd refuses it
        return hidden_grad, weight_grad, None


def _chunks(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, first: int = 0, own: int = 0):
    """Yield (rows, softmax, log-partition, nll) of each chunk, from row `first` on.

    Chunks up to row `own` have memory of their own; any other softmax is overwritten by the next chunk's.
    """
    size = min(len(targets), max(SMALLEST_CHUNK, CHUNK_LOGITS // len(weight)))
    logits = None
    for start in range(first, len(targets), max(1, size)):
        rows = slice(start, min(start + size, len(targets)))
        if logits is None or rows.stop <= own:
            logits = hidden.new_empty((size, len(weight)))
        chunk = logits[: rows.stop - rows.start]
        torch.mm(hidden[rows], weight.T, out=chunk)
        at_target = chunk.gather(1, targets[rows][:, None])[:, 0]
        largest = chunk.amax(1, keepdim=True)
        sums = chunk.sub_(largest).exp_().sum(1, keepdim=True)
        log_partition = (largest + sums.log())[:, 0]
        yield rows, chunk.div_(sums), log_partition, log_partition - at_target
        if rows.stop <= own:
            logits = None  # it belongs to whoever took it


def _subtract_at(probabilities: torch.Tensor, targets: torch.Tensor) -> None:
    """probabilities[i, targets[i]] -= 1, in place."""
    place = targets[:, None]
    probabilities.scatter_(1, place, probabilities.gather(1, place) - 1)
