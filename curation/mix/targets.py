"""Targets: how many tokens each line of a recipe is to take, and what to do about a line that cannot.

The lines of a recipe are a tree: the recipe divides its budget between its lines, and a line that has lines
divides its tokens between them by the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from curation.mix.curve import Curve, above_cut, solve_curve
from curation.mix.filters import exact
from curation.mix.pool import Cell
from curation.mix.recipe import FILTERS, Line, Recipe
from curation.mix.solve import apportion, water_fill


@dataclass(frozen=True)
class Problem:
    """Something that keeps a recipe from being met as it is written."""

    line: str | None  # place in the recipe ("lines.0"), None if it concerns the budget as a whole
    name: str
    asked_tokens: int
    available_tokens: int
    choices: tuple[str, ...]  # the nearest changes that would make it feasible
    where: str = ""  # file, line and column of the line, where they are known

    @property
    def shortage_tokens(self) -> int:
        return self.asked_tokens - self.available_tokens

    def __str__(self) -> str:
        where = "budget" if self.line is None else f"{self.where or self.line} ({self.name})"
        return (
            f"{where}: asks for {self.asked_tokens:,} tokens, {self.available_tokens:,} are to be had, "
            f"{self.shortage_tokens:,} short. To make it feasible: {'; or '.join(self.choices)}."
        )


@dataclass
class Target:
    """A line with what it asks for and what it takes. One that has lines takes what they do, of their cells."""

    place: str
    line: Line
    cells: list[Cell]
    lines: list[Target] = field(default_factory=list)
    caps: list[int] = field(init=False)  # of each cell, in tokens
    weights: list[int | Fraction] = field(init=False)
    asked: int = 0  # what the recipe says
    taken: int = 0  # asked, or what there is
    curve: Curve | None = None
    _by_cell: list[int] | None = None

    def __post_init__(self):
        self.set_cells(self.cells)

    def set_cells(self, cells: list[Cell]) -> None:
        """Name what the line may take; of rows of another mix that is known late."""
        self.cells, self._by_cell = cells, None
        if self.lines:
            self.caps = [cap for line in self.lines for cap in line.caps]
            return
        repeats = exact(self.line.max_repeats)
        self.caps = [math.floor(repeats * cell.tokens) for cell in cells]
        self.weights = [cell.tokens for cell in cells]
        if self.line.upsample:
            taken_from = above_cut(self.weights, self.line.upsample.cut)
            self.caps = [cap if above else 0 for cap, above in zip(self.caps, taken_from, strict=True)]

    @property
    def capacity(self) -> int:
        return sum(self.caps)

    @property
    def pool_tokens(self) -> int:
        return sum(cell.tokens for cell in self.cells)

    @property
    def floor(self) -> int:
        repeats = math.ceil(exact(self.line.min_repeats) * self.pool_tokens) if self.line.min_repeats else 0
        return max(self.line.min_tokens or 0, repeats)

    def leaves(self) -> Iterator[Target]:
        """The lines that take something themselves."""
        if not self.lines:
            yield self
        for line in self.lines:
            yield from line.leaves()

    def fixed(self) -> int:
        """What `whole` or `fraction` comes to."""
        if not self.lines:
            return sum(self.by_cell())
        return _round(self._fraction() * self.pool_tokens)

    def settle(self, asked: int, taken: int | None = None) -> None:
        """Fix the totals of a line that has no lines; for an upsampling one also the curve."""
        self.asked, self.taken = asked, min(asked, self.capacity) if taken is None else taken
        self._by_cell = None
        if self.line.upsample and self.taken:
            tokens = [cell.tokens for cell in self.cells]
            self.curve = solve_curve(tokens, self.taken, self.line.upsample.cut, self.line.max_repeats)
            rates = self.curve.rates.tolist()
            self.weights = [Fraction(rate) * count for rate, count in zip(rates, tokens, strict=True)]

    def by_cell(self) -> list[int]:
        """Tokens that each cell is to give; they sum to `taken`."""
        if self._by_cell is None:
            if self.line.whole or self.line.fraction:
                self._by_cell = [_round(self._fraction() * cell.tokens) for cell in self.cells]
            else:
                self._by_cell = water_fill(self.weights, self.caps, self.taken)
        return self._by_cell

    def asked_by_cell(self) -> list[int]:
        """Tokens that the recipe asks of each cell; they sum to `asked`."""
        if self.asked == self.taken:
            return self.by_cell()
        if not any(self.weights):
            return [self.asked] + [0] * (len(self.cells) - 1)
        return apportion(self.weights, self.asked)

    def rates(self) -> list[float]:
        """How fast each cell is drawn from, by the others: in proportion to its pool, or by the curve."""
        return self.curve.rates.tolist() if self.curve else [1.0] * len(self.cells)

    def _fraction(self) -> Fraction:
        return exact(self.line.fraction) if self.line.fraction else Fraction(1)


def targets_of(recipe: Recipe, cells: Mapping[str, list[Cell]]) -> list[Target]:
    """The tree of a recipe's lines. `cells`: those of each line that takes documents, by place."""

    def target(place: str, line: Line) -> Target:
        lines = [target(f"{place}.lines.{number}", one) for number, one in enumerate(line.lines)]
        own = [cell for one in lines for cell in one.cells] if lines else cells.get(place, [])
        return Target(place, line, own, lines)

    return [target(f"lines.{number}", line) for number, line in enumerate(recipe.lines)]


class Division:
    """Divides a recipe's budget over the tree, and collects what stands in the way."""

    def __init__(self, recipe: Recipe, targets: Sequence[Target], unfiltered: Callable[[Line], int]):
        """`unfiltered` gives a line's pool in tokens without its filters."""
        self.recipe, self.unfiltered = recipe, unfiltered
        self.problems: list[Problem] = []
        self._divide(targets, recipe.budget, None, Fraction(1))

    def _divide(
        self, targets: Sequence[Target], total: int | None, at: Target | None, share: Fraction | None
    ) -> None:
        """Settle these lines. `share`: the part of the budget that `total` is, if shares alone say so.

        Shares and fixed tokens come first, the remainder last: it makes up for what other document lines lack, but
        not for a replay, whose pool is known only when the documents are drawn.
        """
        underfill = at is None and bool(self.recipe.underfill)
        shares = self._shares(targets, total, at, underfill)
        all_shares = sum(exact(target.line.share) for target in targets if target.line.share is not None)
        whole = all_shares if len(shares) == len(targets) and not underfill else 1  # rounded shares fill it, too
        for target in targets:
            if target.line.remainder:
                continue
            asked = shares.get(target.place, target.line.tokens)
            shared = share is not None and target.line.share is not None
            own = share * exact(target.line.share) / whole if shared else None
            self._settle(target, target.fixed() if asked is None else asked, total, own)
        take_all = self.recipe.on_shortage == "take_all"
        used = sum(target.taken if take_all else target.asked for target in targets)
        if total is not None and used > total:
            self._too_much(used, total, at)
        if rest := [target for target in targets if target.line.remainder]:
            self._set_remainder(targets, rest, total, max(0, total - used), share)
        elif at is not None and (asked := sum(target.asked for target in targets)) < total:
            self._too_little(asked, total, at)

    def _settle(self, target: Target, asked: int, total: int | None, share: Fraction | None) -> None:
        line = target.line
        if target.lines:
            target.asked = asked
            self._divide(target.lines, asked, target, share)
            target.taken = sum(one.taken for one in target.lines)
        elif line.mix or line.whole or line.fraction:
            target.settle(asked, asked)
        else:
            target.settle(asked)
            if target.asked > target.taken:
                budget = math.floor((target.capacity - 1) / share) if share else None
                self.problems.append(shortage(self.recipe, target, self.unfiltered, budget, total))
        if line.tokens and target.floor > asked:
            choices = (f"raise tokens to {target.floor}", "lower min_repeats")
            self._problem(target, target.floor, asked, choices)

    def _shares(
        self, targets: Sequence[Target], total: int | None, at: Target | None, underfill: bool
    ) -> dict[str, int]:
        """Tokens of each share line. Lines that are all shares fill the total to the token, over their floors."""
        own = [target for target in targets if target.line.share is not None]
        if not own:
            return {}
        shares = [exact(target.line.share) for target in own]
        fills = len(own) == len(targets) and not underfill
        part = total if fills else min(total, _round(sum(shares) * total))
        floors = [target.floor for target in own]
        if fills and sum(floors) > part:
            for target in (one for one in own if one.floor > exact(one.line.share) * part):
                left = max(0, part - sum(floors) + target.floor)
                if left < target.floor:
                    choices = (f"raise the budget by {sum(floors) - part}", f"lower its floor to {left}")
                    self._problem(target, target.floor, left, choices)
            floors = [0] * len(own)
        parts = water_fill(shares, [part] * len(own), part, floors if fills else None)
        if not fills:
            parts = [max(pair) for pair in zip(parts, floors, strict=True)]
        return {target.place: tokens for target, tokens in zip(own, parts, strict=True)}

    def _set_remainder(
        self, targets: Sequence[Target], rest: list[Target], total: int, left: int, share: Fraction | None
    ) -> None:
        """Share what is left between the remainder lines in proportion to their pools, from floors up to caps."""
        pools, caps = [target.pool_tokens for target in rest], [target.capacity for target in rest]
        floors = [target.floor for target in rest]
        if sum(floors) > left:
            for target in (one for one in rest if one.floor):
                available = max(0, left - sum(floors) + target.floor)
                choices = (f"raise the budget by {sum(floors) - left}", f"lower its floor to {available}")
                self._problem(target, target.floor, available, choices)
            floors = [0] * len(rest)
        floors = [min(pair) for pair in zip(floors, caps, strict=True)]
        taken = water_fill(pools, caps, max(sum(floors), min(left, sum(caps))), floors)
        asked = taken
        if left > sum(caps):
            asked = apportion(pools, left) if any(pools) else [left] + [0] * (len(rest) - 1)
            asked = [max(pair) for pair in zip(asked, taken, strict=True)]
        shares = sum((exact(one.line.share) for one in targets if one.line.share is not None), Fraction(0))
        budget = None
        if share is not None and shares < 1:
            budget = math.floor((total - (left - sum(taken) + 1) / (1 - shares)) / share)
        for target, wanted in zip(rest, asked, strict=True):
            if target.lines:
                self._settle(target, wanted, total, None)
                continue
            target.settle(wanted)
            if target.asked > target.taken:
                self.problems.append(shortage(self.recipe, target, self.unfiltered, budget, total))

    def _too_much(self, used: int, total: int, at: Target | None) -> None:
        if at is None:
            choices = (f"raise budget to {used}", "lower the absolute lines")
            self.problems.append(Problem(None, self.recipe.name, used, total, choices))
        else:
            self._problem(at, used, total, (f"raise it to {used}", "lower the absolute lines within it"))

    def _too_little(self, used: int, total: int, at: Target) -> None:
        self._problem(at, total, used, (f"lower it to {used}", "add a remainder line within it"))

    def _problem(self, target: Target, asked: int, available: int, choices: tuple[str, ...]) -> None:
        where = self.recipe.where(target.place)
        self.problems.append(Problem(target.place, target.line.name, asked, available, choices, where))


def shortage(
    recipe: Recipe,
    target: Target,
    unfiltered: Callable[[Line], int],
    budget: int | None = None,
    total: int | None = None,
) -> Problem:
    """The problem of a line that asks for more than it may take, with the nearest ways out.

    `budget`: the one that the line could fill. `total`: what its share is a share of.
    """
    line, choices = target.line, []
    source_tokens = sum(
        cell.tokens for cell, cap in zip(target.cells, target.caps, strict=True) if cap or not line.upsample
    )
    if source_tokens:
        choices.append(f"raise max_repeats to {math.ceil(Fraction(100 * target.asked, source_tokens)) / 100:g}")
    if budget is not None and budget > 0:
        choices.append(f"lower the budget to {budget}")
    if line.share is not None and target.capacity and total:
        choices.append(f"lower the share to {math.floor(Fraction(10_000 * target.capacity, total)) / 100:g}%")
    if line.tokens and target.capacity:
        choices.append(f"lower tokens to {target.capacity}")
    if any(getattr(line, name) for name in FILTERS) or line.upsample:
        wider = unfiltered(line)
        if wider > source_tokens:
            choices.append(f"widen the filter: without it the pool holds {wider:,} tokens, not {source_tokens:,}")
    choices.append("set on_shortage to take_all and take what there is")
    where = recipe.where(target.place)
    return Problem(target.place, line.name, target.asked, target.capacity, tuple(choices), where)


def _round(number: Fraction) -> int:
    return math.floor(number + Fraction(1, 2))
