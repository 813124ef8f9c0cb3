"""A micro-batch: sequences laid end to end in one row, with the positions whose next token is in the loss.

The two sides of a pair begin alike: with the prompt. What they share stands in the row once, in the chosen side;
the rejected side is a branch that goes on from it. Its tokens keep their positions, and `training.attention` lets
them see what is shared. So a prompt is computed once for both, and the gradients of both sides sum into it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from training.data import Data
from training.plan import Plan


@dataclass(frozen=True)
class Batch:
    """t tokens of s sequences, n of them followed by a token in the loss. Without padding."""

    tokens: torch.Tensor  # (1, t) int64
    positions: torch.Tensor  # (1, t) int64, from 0 in each sequence
    lengths: list[int]  # (s,) tokens of each sequence
    shared: list[int]  # (s,) how many at its start stand in the row already, in sequence i - s / 2; 0 for none
    rows: np.ndarray  # (s,) int64, the index row of each sequence
    selected: torch.Tensor  # (n,) int64, places in the row of t tokens
    targets: torch.Tensor  # (n,) int64, the token after each
    target_ids: np.ndarray  # (n,) int64, the same, where the loop counts
    sequence: np.ndarray  # (n,) int64, the sequence of each
    answer_tokens: float = 1.0  # of pairs: tokens in the loss of a chosen answer, on average over the whole step

    @property
    def pieces(self) -> list[int]:
        """The tokens that each sequence has in the row, (s,); they sum to t."""
        return [length - shared for length, shared in zip(self.lengths, self.shared, strict=True)]

    def sum_by_sequence(self, values: torch.Tensor) -> torch.Tensor:
        """(n,) -> (s,), differentiable."""
        index = on_device(self.sequence, values.device)
        return values.new_zeros(len(self.lengths)).index_add(0, index, values)


def without_unread(batch: Batch, places: torch.Tensor) -> tuple[Batch, torch.Tensor]:
    """The batch without the tokens that follow the last one of `places`, (n,) int64, in their sequence, and where
    these are in it: attention is causal, so nothing that is read depends on what is left out.

    In instructions that is the end of the last turn, and whole documents without a token in the loss but for their
    first token. `selected` and `targets` are left as they are.
    """
    pieces, shared, read = np.array(batch.pieces), np.array(batch.shared), places.numpy()
    ends, half = np.cumsum(pieces), len(pieces) // 2
    sequence = np.searchsorted(ends, read, "right")
    needed = np.ones_like(pieces)
    np.maximum.at(needed, sequence, read - (ends - pieces)[sequence] + 1)
    needed[:half] = np.maximum(needed[:half], shared[len(shared) - half :])  # what the other side goes on from
    if (needed == pieces).all():
        return batch, places
    place = np.arange(ends[-1]) - np.repeat(ends - pieces, pieces)
    kept = np.flatnonzero(place < np.repeat(needed, pieces))
    index = torch.from_numpy(kept)
    cut = replace(
        batch,
        tokens=batch.tokens[:, index],
        positions=batch.positions[:, index],
        lengths=(needed + shared).tolist(),
    )
    return cut, torch.from_numpy(np.searchsorted(kept, read))


def on_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """The values as a tensor there. A GPU takes them when it comes to it: nobody waits for what it does before."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def make_batch(
    data: Data,
    rows: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    prompts: np.ndarray,
    device: torch.device,
    shared: np.ndarray | None = None,
) -> Batch:
    """The sequences tokens[start : start + length] as one batch. Arrays: (s,) int64.

    A token is in the loss if its mask says so, it is not among the first `prompts` tokens of its sequence, and
    it is not the first: that one has nothing before it. Masks go by place and length, never by token id.
    `shared` is as in `Batch`: each must be less than the length of both sequences.
    """
    shared = np.zeros(len(lengths), np.int64) if shared is None else shared
    bounds = list(zip(starts.tolist(), (starts + shared).tolist(), (starts + lengths).tolist(), strict=True))
    tokens = np.concatenate([data.tokens[start:end] for start, _, end in bounds]).astype(np.int64)
    mask = np.concatenate([data.mask[start:end] for start, _, end in bounds]).astype(bool)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    own = positions >= shared[sequence]
    # Where each token stands in the row: what a branch shares stands at the start of the other side's piece.
    pieces = lengths - shared
    first = np.cumsum(pieces) - pieces
    lender = np.where(shared > 0, np.arange(len(lengths)) - len(lengths) // 2, 0)
    place = np.where(own, (first - shared)[sequence], first[lender][sequence]) + positions
    targets = np.flatnonzero(mask & (positions >= np.maximum(1, prompts)[sequence]))
    return Batch(
        tokens=on_device(tokens[own], device)[None],
        positions=on_device(positions[own], device)[None],
        lengths=lengths.tolist(),
        shared=shared.tolist(),
        rows=rows,
        selected=on_device(place[targets - 1], device),
        targets=on_device(tokens[targets], device),
        target_ids=tokens[targets],
        sequence=sequence[targets],
    )


def pair_batch(data: Data, rows: np.ndarray, longest: int, device: torch.device, share: bool = True) -> Batch:
    """Pairs, each side cut to its first `longest` tokens: all chosen sequences, then all rejected ones."""
    starts, others = data.start[rows], data.rejected_start[rows]
    lengths, other_lengths = (
        np.minimum(data.length[rows], longest),
        np.minimum(data.rejected_length[rows], longest),
    )
    shared = np.zeros(len(rows), np.int64)
    if share:
        spans = zip(starts.tolist(), others.tolist(), np.minimum(lengths, other_lengths).tolist(), strict=True)
        for place, (start, other, length) in enumerate(spans):
            shared[place] = _common(
                data.tokens[start : start + length - 1], data.tokens[other : other + length - 1]
            )
    return make_batch(
        data,
        np.tile(rows, 2),
        np.concatenate([starts, others]),
        np.concatenate([lengths, other_lengths]),
        np.tile(data.prompt[rows], 2),
        device,
        np.concatenate([np.zeros_like(shared), shared]),
    )


def batch_of_units(data: Data, plan: Plan, units: np.ndarray, device: torch.device) -> Batch:
    """The batch of some units: fragments of documents, or pairs."""
    rows = plan.row[units]
    if not plan.other_length[units].any():
        return make_batch(data, rows, plan.start[units], plan.length[units], plan.prompt[units], device)
    return replace(pair_batch(data, rows, plan.longest, device), answer_tokens=plan.answer_tokens(int(units[0])))


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two sequences of one length have in common at their start."""
    different = one != other
    return int(different.argmax()) if different.any() else len(one)
