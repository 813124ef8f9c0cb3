"""The cores of a CPU share a micro-batch by its documents.

Left to itself torch splits every operation over its threads, and they wait for each other after each. So a
micro-batch is split into as many *parts* as there are threads (a setting), whole documents or pairs each; every
part goes through both passes on a thread and core of its own. Parts are made of the data and the settings alone,
and their gradients are added in the order of the parts: the bits of a step depend on nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

from training.plan import Plan

EVEN = 0.8  # what a part may be of the largest one, on average: below, threads would wait too long for it

Member = TypeVar("Member")
Item = TypeVar("Item")
Result = TypeVar("Result")
Module = TypeVar("Module", bound=torch.nn.Module)


class Crew(Generic[Member]):
    """Members, such as models, each with a thread of its own that computes on one core. A context manager."""

    def __init__(self, members: Sequence[Member]):
        self.members = members
        self._threads = [ThreadPoolExecutor(1, f"crew-{place}", _on_one_core) for place in range(len(members))]

    def __enter__(self) -> Crew[Member]:
        return self

    def __exit__(self, *_) -> None:
        for thread in self._threads:
            thread.shutdown()

    def each(self, work: Callable[[Member, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """work(member, item) for each item, in their order; item i is the work of member i modulo their number.

        A single item, or one member alone, is worked on here, with all of torch's threads.
        """
        if len(items) == 1 or len(self.members) == 1:
            yield from (work(self.members[0], item) for item in items)
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # MKL has one number for all threads
        places = [place % len(self.members) for place in range(len(items))]
        work_of = zip(places, items, strict=True)
        futures = [self._threads[place].submit(work, self.members[place], item) for place, item in work_of]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)
            torch.set_num_threads(before)


def _on_one_core() -> None:
    torch.get_num_threads()  # the first question of a thread sets its number to everyone's
    torch.set_num_threads(1)


def twin(model: Module) -> Module:
    """The model again, of modules of its own, with the same memory for its weights and another for gradients."""
    memo: dict[int, torch.Tensor] = {id(one): one for one in model.buffers()}
    for one in model.parameters():
        memo[id(one)] = torch.nn.Parameter(one.detach(), one.requires_grad)
    return copy.deepcopy(model, memo)


@dataclass(frozen=True)
class Costs:
    """What a unit costs beyond the products that every token goes through in every layer, which cost 1 a token."""

    answer: float = 0.0  # a token in the loss: the output matrix, and what `training.last_layer` leaves to others
    pair: float = 0.0  # a query with a key, in attention

    def of(self, plan: Plan, units: np.ndarray) -> np.ndarray:
        """float64, of each unit. The prompt of a pair is computed once."""
        length, other = plan.length[units], plan.other_length[units]
        branch = other - np.where(other > 0, plan.prompt[units], 0)
        pairs = length**2 + branch * (2 * other - branch)
        return length + branch + self.answer * plan.in_loss[units] + self.pair / 2 * pairs


def split(plan: Plan, units: np.ndarray, parts: int, costs: Costs) -> list[np.ndarray]:
    """The units of a micro-batch in parts of about the same cost, or in one where that cannot be.

    The largest unit first, each goes to the part with the least so far; then units move or change places between
    the largest part and the smallest one as long as that brings them nearer to each other.
    """
    each = costs.of(plan, units)
    loads, part = np.zeros(parts), np.zeros(len(units), np.int64)
    for place in np.argsort(-each, kind="stable"):
        part[place] = loads.argmin()
        loads[part[place]] += each[place]
    for _ in range(len(units)):
        most, least = loads.argmax(), loads.argmin()
        ours, theirs = np.flatnonzero(part == most), np.flatnonzero(part == least)
        change = each[ours][:, None] - np.append(each[theirs], 0.0)  # the last column: nothing comes back
        gap = loads[most] - loads[least]
        best = np.unravel_index(np.abs(change - gap / 2).argmin(), change.shape)
        if not 1e-9 * gap < change[best] < (1 - 1e-9) * gap:
            break
        part[ours[best[0]]] = least
        if best[1] < len(theirs):
            part[theirs[best[1]]] = most
        loads[most] -= change[best]
        loads[least] += change[best]
    if loads.sum() < EVEN * parts * loads.max():
        return [units]
    return [units[part == number] for number in range(parts) if (part == number).any()]
