"""Several processes that train one model: each takes its share of a step, sums go over all of them.

Under torchrun every process is a *rank*. Each rank holds the whole plan and feeds every `size`-th micro-batch of a
step, beginning with its own number; sums, counts and gradients are then added over all ranks, and divided once. So
a step is the same for any number of ranks, to rounding, and shares may be uneven: a rank without one adds nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

BUCKET = 1 << 23  # numbers that are added over the ranks at once: 32 MiB of float32
PATIENCE = timedelta(hours=2)  # how long a rank waits for another one, which may be writing a checkpoint

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """One process among `size`; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """What this rank takes. The first rank has at least as much as any other."""
        return items[self.rank :: self.size]

    def rounds(self, items: Sequence[Item]) -> list[tuple[Item, bool]]:
        """What this rank takes, with the same number on every rank: one that has no last item of its own takes the
        first of all instead, marked False, for nothing but to take part."""
        share = list(self.share(items))
        missing = -(-len(items) // self.size) - len(share)
        return [(item, True) for item in share] + [(items[0], False)] * missing

    def sum(self, values: np.ndarray) -> np.ndarray:
        """float64 (n,), added over all ranks. Counts below 2^53 stay exact."""
        if self.size == 1:
            return values
        return self._sum(torch.from_numpy(values)).cpu().numpy()

    def wait(self) -> None:
        """Until every rank has come here."""
        self.sum(np.zeros(1))

    def agree(self, value: Any) -> Any:
        """The first rank's value on every rank; plain data that JSON holds."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.first else b""
        length = int(self.sum(np.array([float(len(text))]))[0])
        content = np.frombuffer(text.ljust(length, b"\0"), np.uint8).astype(np.float64)
        return json.loads(self.sum(content).astype(np.uint8).tobytes())

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add the gradients over all ranks, in place, many parameters at a time.

        A parameter that no rank has a gradient of stays without, as it would in a single process.
        """
        if self.size == 1:
            return
        known = self.sum(np.array([parameter.grad is not None for parameter in parameters], np.float64))
        used = [parameter for parameter, ranks in zip(parameters, known, strict=True) if ranks]
        for group in _buckets(used):
            flat = torch.cat(
                [torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in group]
            )
            flat = self._sum(flat)
            for one, part in zip(group, flat.split([one.numel() for one in group]), strict=True):
                one.grad = part.view_as(one)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        if dist.get_backend() == "nccl":
            values = values.cuda()
        dist.all_reduce(values)
        return values


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Neighbours of one type, of BUCKET numbers together or one alone."""
    group: list[torch.nn.Parameter] = []
    size = 0
    for one in parameters:
        if group and (size + one.numel() > BUCKET or one.dtype != group[0].dtype):
            yield group
            group, size = [], 0
        group.append(one)
        size += one.numel()
    if group:
        yield group


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Inside: a member of the group that torchrun has started, by NCCL on GPUs and by gloo elsewhere."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
