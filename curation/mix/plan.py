"""Planning: a recipe over catalogs gives the account and the rows, before a byte of text is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from curation.mix.manifest import MANIFEST, Manifest, complete_account, load_manifest, totals
from curation.mix.pool import (
    DOCUMENT_KEY,
    FILTERED_BY,
    Catalogs,
    Cell,
    RecipeError,
    admit_pairs,
    eligible,
    gzip_notes,
    line_cells,
    read_catalog,
    unfiltered_tokens,
)
from curation.mix.recipe import Recipe
from curation.mix.select import ROW_COLUMNS, select_documents, select_occurrences
from curation.mix.targets import Problem, Target, set_targets, shortage

EMPTY = pl.from_arrow(MANIFEST.empty_table())


class InfeasibleError(Exception):
    """A recipe that cannot be met. The message has a line for each problem, with the nearest ways out."""

    def __init__(self, recipe: Recipe, problems: list[Problem]):
        super().__init__(
            "\n".join([f"the mix '{recipe.name}' cannot be made as it is written:", *map(str, problems)])
        )
        self.problems = problems


@dataclass(frozen=True)
class Plan:
    """What a recipe gives. `account` and `totals` are those that the built manifest will have."""

    recipe: Recipe
    account: list[dict[str, Any]]
    totals: dict[str, int]
    problems: list[Problem]  # empty: the mix can be built
    notes: list[str]  # what a person should know: shortages taken as they are, curves, an unfilled budget
    rows: pl.DataFrame  # of schema MANIFEST, unsorted; with problems: what could be taken

    @property
    def feasible(self) -> bool:
        return not self.problems

    def require_feasible(self) -> None:
        """Raise InfeasibleError if there are problems."""
        if self.problems:
            raise InfeasibleError(self.recipe, self.problems)


def plan(
    recipe: Recipe,
    catalogs: Catalogs,
    parents: Mapping[str, Manifest | Path] | None = None,
    types: Mapping[str, str] | None = None,
) -> Plan:
    """Solve a recipe and select its documents.

    `catalogs`: a source's catalog.parquet or its table, by source. `parents`: the manifests of the mixes that it
    takes rows of, by mix. `types`: labels of sources for the account. Reads one source's catalog at a time.
    Raises RecipeError where the recipe does not fit the catalogs; what is merely too much is in `problems`.
    """
    left_out: list[str] = []
    if recipe.pairs is not None:
        catalogs, left_out = admit_pairs(recipe, catalogs)
    cells = line_cells(recipe, catalogs)
    targets = [Target(place, recipe.lines[place], cells[place]) for place in cells]
    replays, problems = set_targets(recipe, targets, lambda line: unfiltered_tokens(recipe, line, catalogs))
    drawn = [_draw_source(recipe, catalogs, source, targets) for source in recipe.sources()]
    for place, asked in replays.items():
        name = recipe.lines[place].mix
        parent = _parent(parents or {}, name)
        target, rows = _draw_mix(recipe, place, asked, parent, pl.concat([EMPTY, *drawn]))
        targets.append(target)
        drawn.append(rows)
        if target.asked > target.taken:
            problems.append(shortage(recipe, target, lambda line: 0))
    rows = pl.concat([EMPTY, *drawn])
    targets.sort(key=lambda target: target.place)
    account = complete_account(rows, _lines(targets, types or {}), recipe.sequence_length)
    counted = totals(rows, recipe.sequence_length)
    notes = [*_notes(recipe, targets, counted["tokens"]), *left_out, *gzip_notes(recipe, catalogs)]
    if recipe.on_shortage == "take_all":
        problems = [problem for problem in problems if problem.line is None]
    return Plan(recipe, account, counted, problems, notes, rows)


def _draw_source(recipe: Recipe, catalogs: Catalogs, source: str, targets: list[Target]) -> pl.DataFrame:
    """The rows that all lines take of one source."""
    frame = read_catalog(catalogs, source, [*DOCUMENT_KEY, *FILTERED_BY])
    drawn = [EMPTY]
    for target in targets:
        wanted = {
            cell.bucket: tokens
            for cell, tokens in zip(target.cells, target.by_cell(), strict=True)
            if cell.source == source and cell.documents
        }
        if wanted:
            rows = eligible(frame, recipe, target.line, source)
            drawn.append(select_documents(rows, wanted, source, recipe.kind, recipe.seed, recipe.exact))
    return pl.concat(drawn)


def _draw_mix(
    recipe: Recipe, place: int, asked: int, parent: Manifest, before: pl.DataFrame
) -> tuple[Target, pl.DataFrame]:
    """Rows of another mix, in its proportions of sources; without documents that this mix has already."""
    line = recipe.lines[place]
    key = ["source", "id", "shard", "row"]
    rows = pl.from_arrow(parent.rows()).join(before.select(key), on=key, how="anti")
    bucket = f"mix:{parent.head['name']}"
    counted = rows.group_by("source").agg(pl.len(), (pl.col("tokens").cast(pl.Int64) * pl.col("copies")).sum())
    cells = [
        Cell(source, bucket, "rows", documents, tokens)
        for source, documents, tokens in counted.sort("source").rows()
    ]
    target = Target(place, line, cells or [Cell(f"mix:{line.mix}", bucket, "rows", 0, 0)])
    target.settle(asked)
    drawn = [EMPTY]
    for cell, tokens in zip(target.cells, target.by_cell(), strict=True):
        if cell.documents:
            own = rows.filter(pl.col("source") == cell.source).with_columns(bucket=pl.lit(bucket))
            own = own.select(ROW_COLUMNS)
            drawn.append(select_occurrences(own, tokens, recipe.kind, recipe.seed, recipe.exact))
    return target, pl.concat(drawn)


def _parent(parents: Mapping[str, Manifest | Path], name: str) -> Manifest:
    if name not in parents:
        raise RecipeError(f"no mix '{name}' to take rows of; there are {', '.join(sorted(parents)) or 'none'}")
    found = parents[name]
    return found if isinstance(found, Manifest) else load_manifest(found)


def _lines(targets: list[Target], types: Mapping[str, str]) -> list[dict[str, Any]]:
    """The planned part of the account."""
    lines = []
    for target in targets:
        cells = zip(target.cells, target.asked_by_cell(), target.by_cell(), strict=True)
        for place, (cell, asked, taken) in enumerate(cells):
            note = f"{asked - taken} tokens short: the pool holds no more" if taken < asked else ""
            if target.curve:
                note = "; ".join(filter(None, [f"rate {target.curve.rates[place]:.3f}", note]))
            lines.append(
                {
                    "source": cell.source,
                    "type": types.get(cell.source, cell.kind),
                    "bucket": cell.bucket,
                    "pool_documents": cell.documents,
                    "pool_tokens": cell.tokens,
                    "target_tokens": asked,
                    "note": note,
                }
            )
    return lines


def _notes(recipe: Recipe, targets: list[Target], tokens: int) -> list[str]:
    notes = []
    for target in targets:
        where = f"lines.{target.place} ({target.line.name})"
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
