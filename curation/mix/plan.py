"""Planning: a recipe over catalogs gives the account and the rows, before a byte of text is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pyarrow as pa

from curation.mix.audit import account_counts, totals_of
from curation.mix.draw import Draw
from curation.mix.ends import WIDER, CellDraw, end_lines
from curation.mix.manifest import MANIFEST, PLANNED, Manifest, load_manifest
from curation.mix.pool import Cell, Pool, admit_pairs, open_pools, unfiltered_tokens
from curation.mix.recipe import Line, Recipe
from curation.mix.rows import Catalogs, RecipeError
from curation.mix.select import ROW_COLUMNS, select_occurrences
from curation.mix.sorting import SourceRows, all_tables
from curation.mix.targets import Division, Problem, Target, shortage, targets_of

EMPTY = pl.from_arrow(MANIFEST.empty_table())
ROW_KEY = ["source", "id", "shard", "row"]


class InfeasibleError(Exception):
    """A recipe that cannot be met. The message has a line for each problem, with the nearest ways out."""

    def __init__(self, recipe: Recipe, problems: list[Problem]):
        super().__init__(
            "\n".join([f"the mix '{recipe.name}' cannot be made as it is written:", *map(str, problems)])
        )
        self.problems = problems


@dataclass
class Plan:
    """What a recipe gives. `account` and `totals` are those that the built manifest will have."""

    recipe: Recipe
    account: list[dict[str, Any]]
    lines: list[dict[str, Any]]  # of the recipe: place, name, asked, taken, tokens, documents
    totals: dict[str, int]
    problems: list[Problem]  # empty: the mix can be built
    notes: list[str]  # what a person should know: shortages taken as they are, curves, an unfilled budget
    draws: dict[str, Draw] = field(default_factory=dict)  # by source
    replayed: pl.DataFrame = field(default_factory=lambda: EMPTY)  # rows of other mixes

    @property
    def feasible(self) -> bool:
        return not self.problems

    def require_feasible(self) -> None:
        """Raise InfeasibleError if there are problems."""
        if self.problems:
            raise InfeasibleError(self.recipe, self.problems)

    def tables(self, scratch: Path) -> Iterator[pa.Table]:
        """The rows, of schema MANIFEST, in the order of a manifest. `scratch`: for what memory does not hold."""
        sources = sorted({*self.draws, *self.replayed["source"].unique()})
        parts = self.replayed.partition_by("source", as_dict=True)
        found = (SourceRows(name, self.draws.get(name), parts.get((name,), EMPTY)) for name in sources)
        return all_tables(found, scratch)

    @cached_property
    def rows(self) -> pl.DataFrame:
        """All rows at once, for a mix that memory holds."""
        with TemporaryDirectory() as scratch:
            return pl.from_arrow(pa.concat_tables([MANIFEST.empty_table(), *self.tables(Path(scratch))]))


def plan(
    recipe: Recipe,
    catalogs: Catalogs,
    parents: Mapping[str, Manifest | Path] | None = None,
    types: Mapping[str, str] | None = None,
    measured: Mapping[str, Path] | None = None,
) -> Plan:
    """Solve a recipe and find where its draws end.

    `catalogs`: a source's catalog.parquet or its table, by source. `parents`: the manifests of the mixes that it
    takes rows of, or leaves out, by mix. `types`: labels of sources for the account. `measured`: by source, the
    step whose shards hold its measurements. Catalogs are read in pieces, twice; rows of other mixes at once.
    Raises RecipeError where the recipe does not fit the catalogs; what is merely too much is in `problems`.
    """
    notes: list[str] = []
    if recipe.kind == "preference":
        catalogs, notes = admit_pairs(recipe, catalogs)
    manifests = {name: _parent(recipe, parents or {}, name) for name in recipe.parents()}
    held = pl.concat([EMPTY, *(pl.from_arrow(manifests[name].rows()) for name in recipe.without)]).select(ROW_KEY)
    pools = open_pools(recipe, catalogs, measured, held)
    cells: dict[str, list[Cell]] = {}
    for pool in pools.values():
        for place, own in pool.cells(recipe).items():
            cells.setdefault(place, []).extend(own)
    targets = targets_of(recipe, cells)
    division = Division(recipe, targets, partial(_unfiltered, pools))
    leaves = [leaf for target in targets for leaf in target.leaves()]
    draws, by_line = _draw(recipe, pools, targets)
    replayed = [EMPTY]
    for leaf in leaves:
        if leaf.line.mix:
            rows = pl.from_arrow(manifests[leaf.line.mix].rows())
            before = pl.concat([held, _taken(draws, rows).select(ROW_KEY)])
            replayed.append(_replay(recipe, leaf, rows.join(before, on=ROW_KEY, how="anti")))
            if leaf.asked > leaf.taken:
                division.problems.append(shortage(recipe, leaf, lambda line: 0))
    rows = pl.concat(replayed)
    planned = _planned(recipe, targets, division.problems, pools, draws, by_line, rows, types or {})
    planned.notes += notes
    return planned


def _unfiltered(pools: Mapping[str, Pool], line: Line) -> int:
    return sum(unfiltered_tokens(pools[source], line) for source in line.source)


def _draw(
    recipe: Recipe, pools: Mapping[str, Pool], targets: list[Target]
) -> tuple[dict[str, Draw], dict[str, list[CellDraw]]]:
    """Draw every line; windows that do not show where a line ends are made wider until they do."""
    draws = {name: Draw(pool, recipe.kind, recipe.seed, recipe.sequence_length) for name, pool in pools.items()}
    by_line: dict[str, list[CellDraw]] = {}
    for leaf in (leaf for target in targets for leaf in target.leaves()):
        sources = sorted(leaf.line.source)
        by_line[leaf.place] = [cell for source in sources for cell in draws[source].add(leaf, leaf.place)]
    together = [[by_line[leaf.place] for leaf in target.leaves()] for target in targets]
    owners = {id(cell): draw for draw in draws.values() for cell in draw.cells}
    stale = [draw for draw in draws.values() if draw.cells]
    while stale:
        for draw in stale:
            draw.weigh()
        unseen = [cell for lines in together for cell in end_lines(lines, recipe.exact)]
        for cell in unseen:
            cell.width *= WIDER
        stale = list({id(owners[id(cell)]): owners[id(cell)] for cell in unseen}.values())
    return draws, by_line


def _taken(draws: Mapping[str, Draw], rows: pl.DataFrame) -> pl.DataFrame:
    """What is drawn of the sources that some rows are of."""
    there = rows["source"].unique()
    found = [SourceRows(name, draw, EMPTY) for name, draw in draws.items() if name in there]
    with TemporaryDirectory() as scratch:
        return pl.from_arrow(pa.concat_tables([MANIFEST.empty_table(), *all_tables(found, Path(scratch))]))


def _replay(recipe: Recipe, target: Target, rows: pl.DataFrame) -> pl.DataFrame:
    """Some of the `rows` of another mix, in its proportions of sources. What rounding leaves of one source is
    asked of the next, so that it does not add up.
    """
    bucket = f"mix:{target.line.mix}"
    counted = rows.group_by("source").agg(pl.len(), (pl.col("tokens").cast(pl.Int64) * pl.col("copies")).sum())
    cells = [
        Cell(source, bucket, "rows", documents, tokens)
        for source, documents, tokens in counted.sort("source").rows()
    ]
    target.set_cells(cells or [Cell(bucket, bucket, "rows", 0, 0)])
    target.settle(target.asked)
    drawn, carried = [EMPTY], 0
    for cell, tokens, cap in zip(target.cells, target.by_cell(), target.caps, strict=True):
        if cell.documents:
            own = rows.filter(pl.col("source") == cell.source).with_columns(bucket=pl.lit(bucket))
            wanted = min(max(0, tokens + carried), cap)
            found = select_occurrences(own.select(ROW_COLUMNS), wanted, recipe.kind, recipe.seed, recipe.exact)
            carried += tokens - _tokens(found)
            drawn.append(found)
    return pl.concat(drawn)


def _parent(recipe: Recipe, parents: Mapping[str, Manifest | Path], name: str) -> Manifest:
    if name not in parents:
        place = next((place for place, line in recipe.leaves().items() if line.mix == name), "without")
        there = ", ".join(sorted(parents)) or "none"
        raise RecipeError(f"{recipe.where(place)}: no mix '{name}' to take rows of; there are {there}")
    found = parents[name]
    return found if isinstance(found, Manifest) else load_manifest(found)


def _tokens(rows: pl.DataFrame) -> int:
    return int((rows["tokens"].cast(pl.Int64) * rows["copies"].cast(pl.Int64)).sum())


def _planned(
    recipe: Recipe,
    targets: list[Target],
    problems: list[Problem],
    pools: Mapping[str, Pool],
    draws: dict[str, Draw],
    by_line: Mapping[str, list[CellDraw]],
    replayed: pl.DataFrame,
    types: Mapping[str, str],
) -> Plan:
    """The account of what is drawn."""
    sequence = recipe.sequence_length or 0
    counted = {
        (cell.cell.source, cell.cell.bucket): cell.counts(sequence) for own in by_line.values() for cell in own
    }
    counted |= _counts_of(replayed, sequence)
    everything = sum(counts["tokens"] for counts in counted.values())
    account, lines = account_of(targets, counted, types)
    totals = totals_of(counted, sum(counts["documents"] for counts in counted.values()))
    notes = notes_of(recipe, targets, everything)
    notes += [note for pool in pools.values() if pool.screens for note in pool.screens.notes]
    if recipe.on_shortage == "take_all":
        problems = [problem for problem in problems if problem.line is None]
    return Plan(recipe, account, lines, totals, problems, notes, draws, replayed)


def account_of(
    targets: list[Target], counted: Mapping[tuple[str, str], dict[str, int]], types: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The account, and what each line of the recipe comes to. `counted`: by source and bucket."""
    everything = sum(counts["tokens"] for counts in counted.values())
    account, lines = [], []
    for target in targets:
        own = [line for leaf in target.leaves() for line in _planned_lines(leaf, types)]
        for line in own:
            line |= account_counts(line, counted.get((line["source"], line["bucket"]), {}), everything)
        account += own
        lines += _line_summaries(target, {(line["source"], line["bucket"]): line for line in own})
    return account, lines


def _counts_of(rows: pl.DataFrame, sequence: int) -> dict[tuple[str, str], dict[str, int]]:
    copies, tokens = pl.col("copies").cast(pl.Int64), pl.col("tokens").cast(pl.Int64)
    pieces = (tokens + sequence - 1) // sequence if sequence else pl.lit(1, pl.Int64)
    counted = rows.group_by("source", "bucket").agg(
        documents=pl.col("id").n_unique(),
        occurrences=copies.sum(),
        fragments=(copies * pieces).sum(),
        tokens=(copies * tokens).sum(),
    )
    return {(line.pop("source"), line.pop("bucket")): line for line in counted.iter_rows(named=True)}


def _planned_lines(target: Target, types: Mapping[str, str]) -> list[dict[str, Any]]:
    """The planned part of the account of a line."""
    lines = []
    for place, (cell, asked, taken) in enumerate(
        zip(target.cells, target.asked_by_cell(), target.by_cell(), strict=True)
    ):
        note = f"{asked - taken} tokens short: the pool holds no more" if taken < asked else ""
        if target.curve:
            note = "; ".join(filter(None, [f"rate {target.curve.rates[place]:.3f}", note]))
        values = (
            cell.source,
            types.get(cell.source, cell.kind),
            cell.bucket,
            cell.documents,
            cell.tokens,
            asked,
            note,
        )
        lines.append(dict(zip(PLANNED, values, strict=True)))
    return lines


def _line_summaries(target: Target, account: Mapping[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """A line of the recipe and those within it: what it asks for, what it gets."""
    own = [account[cell.source, cell.bucket] for leaf in target.leaves() for cell in leaf.cells]
    tokens = sum(line["tokens"] for line in own)
    summary = {
        "line": target.place,
        "name": target.line.name,
        "target_tokens": target.asked,
        "pool_tokens": sum(line["pool_tokens"] for line in own),
        "documents": sum(line["documents"] for line in own),
        "tokens": tokens,
        "error_tokens": tokens - target.asked,
    }
    return [summary, *(one for line in target.lines for one in _line_summaries(line, account))]


def notes_of(recipe: Recipe, targets: list[Target], tokens: int) -> list[str]:
    """What a person should know of the targets."""
    notes = []
    for target in (leaf for one in targets for leaf in one.leaves()):
        where = f"{target.place} ({target.line.name})"
        if target.taken < target.asked:
            notes.append(f"{where}: {target.asked - target.taken:,} of {target.asked:,} tokens are not to be had")
        if (curve := target.curve) is not None:
            notes.append(
                f"{where}: upsampling curve p={curve.power:.3f} lambda={curve.rate:.3f} C={curve.scale:.3f}, "
                f"cut at {curve.cut:.1%}, best bucket {curve.rates.max():.2f} times"
            )
    left = recipe.budget - sum(target.taken for target in targets) if recipe.budget else 0
    if left > 0:
        notes.append(f"the lines add up to {tokens:,} tokens; {left:,} of the budget are not used")
    return notes


def manifest_rows(planned: Plan) -> pa.Table:
    """The planned rows as an Arrow table of schema MANIFEST."""
    return planned.rows.to_arrow().cast(MANIFEST)
