"""Targets: how many tokens each line of a recipe is to take, and what to do about a line that cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from curation.mix.curve import Curve, above_cut, solve_curve
from curation.mix.pool import Cell
from curation.mix.recipe import Line, Recipe, exact
from curation.mix.solve import apportion, water_fill


@dataclass(frozen=True)
class Problem:
    """Something that keeps a recipe from being met as it is written."""

    line: int | None  # place in the recipe's lines, None if it concerns the budget as a whole
    name: str
    asked_tokens: int
    available_tokens: int
    choices: tuple[str, ...]  # the nearest changes that would make it feasible

    @property
    def shortage_tokens(self) -> int:
        return self.asked_tokens - self.available_tokens

    def __str__(self) -> str:
        where = "budget" if self.line is None else f"lines.{self.line} ({self.name})"
        return (
            f"{where}: asks for {self.asked_tokens:,} tokens, {self.available_tokens:,} are to be had, "
            f"{self.shortage_tokens:,} short. To make it feasible: {'; or '.join(self.choices)}."
        )


@dataclass
class Target:
    """A line with what it asks for and what it takes, in all and by cell."""

    place: int
    line: Line
    cells: list[Cell]
    caps: list[int] = field(init=False)  # of each cell, in tokens
    weights: list[int | Fraction] = field(init=False)
    asked: int = 0  # what the recipe says
    taken: int = 0  # asked, or what there is
    curve: Curve | None = None

    def __post_init__(self):
        repeats = exact(self.line.max_repeats)
        self.caps = [math.floor(repeats * cell.tokens) for cell in self.cells]
        self.weights = [cell.tokens for cell in self.cells]
        if self.line.upsample:
            taken_from = above_cut(self.weights, self.line.upsample.cut)
            self.caps = [cap if above else 0 for cap, above in zip(self.caps, taken_from, strict=True)]

    @property
    def capacity(self) -> int:
        return sum(self.caps)

    @property
    def pool_tokens(self) -> int:
        return sum(cell.tokens for cell in self.cells)

    def settle(self, asked: int, taken: int | None = None) -> None:
        """Fix the totals; for an upsampling line also the curve."""
        self.asked, self.taken = asked, min(asked, self.capacity) if taken is None else taken
        if self.line.upsample and self.taken:
            tokens = [cell.tokens for cell in self.cells]
            self.curve = solve_curve(tokens, self.taken, self.line.upsample.cut, self.line.max_repeats)
            rates = self.curve.rates.tolist()
            self.weights = [Fraction(rate) * count for rate, count in zip(rates, tokens, strict=True)]

    def by_cell(self) -> list[int]:
        """Tokens that each cell is to give; they sum to `taken`."""
        if self.line.whole or self.line.fraction:
            return [_round(self._fraction() * cell.tokens) for cell in self.cells]
        return water_fill(self.weights, self.caps, self.taken)

    def asked_by_cell(self) -> list[int]:
        """Tokens that the recipe asks of each cell; they sum to `asked`."""
        if self.asked == self.taken:
            return self.by_cell()
        if not any(self.weights):
            return [self.asked] + [0] * (len(self.cells) - 1)
        return apportion(self.weights, self.asked)

    def _fraction(self) -> Fraction:
        return exact(self.line.fraction) if self.line.fraction else Fraction(1)


def set_targets(
    recipe: Recipe, targets: list[Target], unfiltered: Callable[[Line], int]
) -> tuple[dict[int, int], list[Problem]]:
    """Settle every target of documents. Returns what the lines of mixes are asked for, by place, and the problems.

    Shares and fixed tokens come first, the remainder last: it makes up for what other document lines lack, but not
    for a replay, whose pool is known only when the documents are drawn. `unfiltered` gives a line's pool in tokens
    without its filters.
    """
    asked = {**_shares(recipe), **{n: line.tokens for n, line in enumerate(recipe.lines) if line.tokens}}
    replays = {place: tokens for place, tokens in asked.items() if recipe.lines[place].mix}
    problems = []
    for target in targets:
        if target.line.whole or target.line.fraction:
            tokens = sum(target.by_cell())
            target.settle(tokens, tokens)
        elif not target.line.remainder:
            target.settle(asked[target.place])
            if target.asked > target.taken:
                problems.append(shortage(recipe, target, unfiltered))
    take_all = recipe.on_shortage == "take_all"
    used = sum(replays.values()) + sum(target.taken if take_all else target.asked for target in targets)
    if recipe.budget is not None and used > recipe.budget:
        problems.append(
            Problem(
                None, recipe.name, used, recipe.budget, (f"raise budget to {used}", "lower the absolute lines")
            )
        )
    rest = [target for target in targets if target.line.remainder]
    if rest:
        problems += _set_remainder(recipe, rest, max(0, recipe.budget - used), unfiltered)
    return replays, problems


def _shares(recipe: Recipe) -> dict[int, int]:
    """Tokens of each share line. Lines that are all shares fill the budget to the token."""
    shares = {place: exact(line.share) for place, line in enumerate(recipe.lines) if line.share is not None}
    if not shares:
        return {}
    total = recipe.budget if len(shares) == len(recipe.lines) else _round(sum(shares.values()) * recipe.budget)
    return dict(zip(shares, apportion(list(shares.values()), min(total, recipe.budget)), strict=True))


def _set_remainder(
    recipe: Recipe, rest: list[Target], left: int, unfiltered: Callable[[Line], int]
) -> list[Problem]:
    """Share what is left between the remainder lines in proportion to their pools, up to their caps."""
    pools, caps = [target.pool_tokens for target in rest], [target.capacity for target in rest]
    taken = water_fill(pools, caps, min(left, sum(caps)))
    asked = taken
    if left > sum(caps):
        asked = apportion(pools, left) if any(pools) else [left] + [0] * (len(rest) - 1)
        asked = [max(pair) for pair in zip(asked, taken, strict=True)]
    for target, wanted, given in zip(rest, asked, taken, strict=True):
        target.settle(wanted, given)
    shares = sum((exact(line.share) for line in recipe.lines if line.share is not None), Fraction(0))
    budget = math.floor(recipe.budget - (left - sum(taken) + 1) / (1 - shares)) if shares < 1 else None
    return [shortage(recipe, target, unfiltered, budget) for target in rest if target.asked > target.taken]


def shortage(
    recipe: Recipe, target: Target, unfiltered: Callable[[Line], int], budget: int | None = None
) -> Problem:
    """The problem of a line that asks for more than it may take, with the nearest ways out.

    `budget` is the one that a remainder line could fill; that of a share line follows from its share.
    """
    line, choices = target.line, []
    source_tokens = sum(
        cell.tokens for cell, cap in zip(target.cells, target.caps, strict=True) if cap or not line.upsample
    )
    if source_tokens:
        choices.append(f"raise max_repeats to {math.ceil(Fraction(100 * target.asked, source_tokens)) / 100:g}")
    if line.share is not None:
        budget = math.floor((target.capacity - 1) / exact(line.share))
    if budget is not None and budget > 0:
        choices.append(f"lower the budget to {budget}")
    if line.share is not None and target.capacity:
        choices.append(
            f"lower the share to {math.floor(Fraction(10_000 * target.capacity, recipe.budget)) / 100:g}%"
        )
    if line.tokens and target.capacity:
        choices.append(f"lower tokens to {target.capacity}")
    if line.quality or line.length or line.language or line.topic or line.gzip or line.upsample:
        wider = unfiltered(line)
        if wider > source_tokens:
            choices.append(f"widen the filter: without it the pool holds {wider:,} tokens, not {source_tokens:,}")
    choices.append("set on_shortage to take_all and take what there is")
    return Problem(target.place, line.name, target.asked, target.capacity, tuple(choices))


def _round(number: Fraction) -> int:
    return math.floor(number + Fraction(1, 2))
