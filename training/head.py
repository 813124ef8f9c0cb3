"""From hidden states to log-probabilities without ever holding all logits.

Both functions work on chunks of rows. On a CPU a chunk's logits stay near the cache: with a vocabulary of 8,192,
logits of one micro-batch would otherwise be larger than everything else in memory together. On a GPU chunks are
large enough to fill it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 28}  # numbers in a chunk: 16 MiB, 1 GiB of float32
SMALLEST_CHUNK = 128  # rows, and chunks are multiples of it: below, the matrix product is slow
# Numbers of gradients kept for a backward pass, 64 MiB and 2 GiB of float32: what is beyond is computed again.
KEPT_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 29}


class Products(NamedTuple):
    """How the output matrix is multiplied. Whatever its factors are, sums are given in the weights' own type."""

    rounded: torch.dtype | None = None  # what the factors are rounded to, on GPUs alone; None: not at all
    fused: bool = False  # compile what is between the products, which then passes over the logits twice


def cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    z_loss: float = 0.0,
    products: Products = Products(),  # noqa: B008
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of `training.losses.causal` for tokens that are all in the loss, and each token's nll.

    hidden: (n, width); weight: (vocabulary, width); targets: (n,) int64. Returns a scalar and (n,), the latter
    without gradient. The gradients are computed in the forward pass, while a chunk's softmax is at hand, so
    logits are computed once and never kept.
    """
    return _CrossEntropy.apply(*_wanting(hidden, weight), targets, z_loss, products)


def token_logps(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    products: Products = Products(),  # noqa: B008
) -> torch.Tensor:
    """log p(target) of each row in nats, differentiable. Shapes as in `cross_entropy`; returns (n,).

    What weighs each token is only known in the backward pass. Gradients without it are kept up to KEPT_LOGITS
    numbers; beyond, the logits are computed again.
    """
    return _TokenLogps.apply(*_wanting(hidden, weight), targets, products)


def _wanting(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors; without gradients if none is to be computed, which a function of autograd is not told."""
    return tensors if torch.is_grad_enabled() else tuple(tensor.detach() for tensor in tensors)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden, weight, targets, z_loss, products):
        wanted = any(ctx.needs_input_grad)
        hidden_grad, weight_grad = _gradients(ctx, hidden, weight)
        nll = hidden.new_empty(len(targets))
        total = hidden.new_zeros(())
        factors = _factors(hidden, weight, products)
        for rows, slopes, log_partition, chunk_nll in _chunks(
            *factors, targets, weight.dtype, products, wanted, z_loss
        ):
            nll[rows] = chunk_nll
            total += (chunk_nll + z_loss * log_partition.square()).sum()
            if wanted:
                _add_gradients(hidden_grad, weight_grad, rows, slopes, *factors)
        ctx.gradients = hidden_grad, weight_grad
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient, _):
        if ctx.gradients is None:
            raise RuntimeError("the gradients of a cross-entropy are there for one backward pass")
        gradients, ctx.gradients = ctx.gradients, None  # not kept, so that they become the parameters' own
        if gradient.is_cuda or gradient != 1:  # in place: the matrix is large
            gradients = tuple(one if one is None else one.mul_(gradient) for one in gradients)
        return *gradients, None, None, None


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden, weight, targets, products):
        wanted = any(ctx.needs_input_grad)
        logps = hidden.new_empty(len(targets))
        keep = KEPT_LOGITS[hidden.device.type] // len(weight) if wanted else 0  # rows
        ctx.kept, ctx.products = [], products
        factors = _factors(hidden, weight, products)
        for rows, slopes, _, nll in _chunks(*factors, targets, weight.dtype, products, wanted, own=keep):
            logps[rows] = -nll
            if rows.stop <= keep:
                ctx.kept.append((rows, slopes))
        ctx.save_for_backward(hidden, weight, targets)
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient):
        hidden, weight, targets = ctx.saved_tensors
        hidden_grad, weight_grad = _gradients(ctx, hidden, weight)
        done = ctx.kept[-1][0].stop if ctx.kept else 0
        factors = _factors(hidden, weight, ctx.products)
        again = _chunks(*factors, targets, weight.dtype, ctx.products, True, first=done)
        for rows, slopes in itertools.chain(ctx.kept, ((rows, found) for rows, found, _, _ in again)):
            slopes *= -gradient[rows][:, None]
            _add_gradients(hidden_grad, weight_grad, rows, slopes, *factors)
        ctx.kept = []  # overwritten: a second backward pass has nothing to go by, and autograd refuses it
        return hidden_grad, weight_grad, None, None


def _gradients(
    ctx: FunctionCtx, hidden: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Memory for both gradients, which the chunks fill; None for one that nobody wants, as of a frozen matrix."""
    hidden_wanted, weight_wanted = ctx.needs_input_grad[:2]
    return (
        torch.empty_like(hidden) if hidden_wanted else None,
        (torch.empty_like if len(hidden) else torch.zeros_like)(weight) if weight_wanted else None,
    )


def _factors(hidden: torch.Tensor, weight: torch.Tensor, products: Products) -> tuple[torch.Tensor, torch.Tensor]:
    return hidden.to(products.rounded or hidden.dtype), weight.to(products.rounded or weight.dtype)


def _chunks(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    given: torch.dtype,
    products: Products,
    wanted: bool,
    z_loss: float = 0.0,
    first: int = 0,
    own: int = 0,
):
    """Yield (rows, slopes, log-partition, nll) of each chunk, from row `first` on.

    hidden, weight: the factors of the logits, which have the type `given`. slopes, of the factors' type:
    d (nll + z_loss * log-partition^2) / d logits; None unless `wanted`. Chunks up to row `own` have memory of
    their own; any other chunk is overwritten by the next one.
    """
    fitting = CHUNK_LOGITS[hidden.device.type] // len(weight)
    size = min(len(targets), max(SMALLEST_CHUNK, fitting - fitting % SMALLEST_CHUNK))
    slopes_of = _compiled_slopes() if products.fused else _slopes
    logits = None
    for start in range(first, len(targets), max(1, size)):
        rows = slice(start, min(start + size, len(targets)))
        if logits is None or rows.stop <= own:
            logits = hidden.new_empty((size, len(weight)), dtype=given)
        chunk = logits[: rows.stop - rows.start]
        _multiply(hidden[rows], weight.T, chunk)
        at_target = chunk.gather(1, targets[rows][:, None])[:, 0]
        if wanted:
            slopes, log_partition = slopes_of(chunk, targets[rows], z_loss, hidden.dtype)
        else:
            slopes, log_partition = None, _softmax(chunk)
        yield rows, slopes, log_partition, log_partition - at_target
        if rows.stop <= own:
            logits = None  # it belongs to whoever took it


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    """In place: the softmax of each row. Returns the log-partitions, (n,): the same bits whether gradients follow
    or not, since a policy and its reference are compared."""
    largest = logits.amax(1)
    torch.softmax(logits, 1, out=logits)  # row by row, and each number is read before it is written
    return largest - logits.amax(1).log()  # the largest probability is one over the partition, less its exponent


def _slopes(
    logits: torch.Tensor, targets: torch.Tensor, z_loss: float, rounded: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """p * (1 + 2 z log-partition) - onehot(target), in place unless it is rounded; and the log-partition."""
    log_partition = _softmax(logits)
    probabilities = logits
    if z_loss:
        probabilities *= (1 + 2 * z_loss * log_partition)[:, None]
    place = targets[:, None]
    probabilities.scatter_(1, place, probabilities.gather(1, place) - 1)
    return probabilities.to(rounded), log_partition


def _fusible_slopes(
    logits: torch.Tensor, targets: torch.Tensor, z_loss: float, rounded: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same without writing in place, for the compiler: it reads the logits twice and writes once."""
    log_partition = logits.logsumexp(1)
    probabilities = (logits - log_partition[:, None]).exp() * (1 + 2 * z_loss * log_partition)[:, None]
    is_target = torch.arange(logits.shape[1], device=logits.device)[None] == targets[:, None]
    return torch.where(is_target, probabilities - 1, probabilities).to(rounded), log_partition


@functools.cache
def _compiled_slopes() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    return torch.compile(_fusible_slopes, dynamic=True)  # on demand: the compiler takes long to import


def _multiply(one: torch.Tensor, other: torch.Tensor, out: torch.Tensor) -> None:
    """one @ other into `out`, which may be of a wider type than the factors."""
    if one.dtype == out.dtype:
        torch.mm(one, other, out=out)
    else:
        torch.mm(one, other, out_dtype=out.dtype, out=out)


def _add_gradients(
    hidden_grad: torch.Tensor | None,
    weight_grad: torch.Tensor | None,
    rows: slice,
    slopes: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
) -> None:
    """A chunk's part of both gradients, which may be of a wider type than the factors. The first row's chunk comes
    first: what the weight's gradient held before is forgotten."""
    if hidden_grad is not None:
        _multiply(slopes, weight, hidden_grad[rows])
    if weight_grad is None:
        return
    if rows.start == 0:
        _multiply(slopes.T, hidden[rows], weight_grad)
    elif slopes.dtype == weight_grad.dtype:
        weight_grad.addmm_(slopes.T, hidden[rows])
    else:
        torch.addmm(weight_grad, slopes.T, hidden[rows], out_dtype=weight_grad.dtype, out=weight_grad)
