"""Plans from what is known of pools alone: documents and tokens by source and bucket, no row and no text.

What a plan over catalogs counts, this one expects: documents of the mean length of their bucket. Its tokens are
exact; its documents are as true as that mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from curation.mix.audit import COUNTED, totals_of
from curation.mix.plan import Plan, account_of, notes_of
from curation.mix.pool import Cell, Pool, lines_of, unfiltered_tokens, with_all_axes
from curation.mix.recipe import Recipe
from curation.mix.rows import AXES, RecipeError
from curation.mix.targets import Division, Target, shortage, targets_of

NEEDED = {"source": pl.String, "documents": pl.Int64, "tokens": pl.Int64}
OPTIONAL = {"kind": pl.String, "type": pl.String, "note": pl.String, **dict.fromkeys(AXES, pl.String)}
OPTIONAL["vigintile"] = pl.UInt8
NOTE = "from pool statistics: documents are what the mean length of each bucket comes to"


def read_statistics(path: Path) -> pl.DataFrame:
    """A Parquet or CSV file with the columns source, documents and tokens; of kind, type, topic, language,
    vigintile, length_bucket and note those that it has. A row for each bucket of a source; for a mix that others
    take rows of, the source is `mix:<name>`. Raises RecipeError.
    """
    try:
        if path.suffix == ".csv":
            frame = pl.read_csv(path, comment_prefix="#", infer_schema_length=None)
        else:
            frame = pl.read_parquet(path, hive_partitioning=False)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; give a Parquet or CSV file of pool statistics") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecipeError(f"{path}: cannot be read as pool statistics: {error}") from None
    types = NEEDED | OPTIONAL
    if missing := [name for name in NEEDED if name not in frame.columns]:
        raise RecipeError(f"{path}: column {missing[0]} is missing; it has {', '.join(frame.columns)}")
    if unknown := [name for name in frame.columns if name not in types]:
        raise RecipeError(f"{path}: there is no column {unknown[0]}; expected some of {', '.join(types)}")
    try:
        frame = frame.cast({name: types[name] for name in frame.columns})
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"{path}: a number is expected in documents, tokens and vigintile: {error}") from None
    wrong = frame.with_row_index("row", 1).filter(
        pl.any_horizontal(pl.col(*NEEDED).is_null()) | (pl.col("documents") < 0) | (pl.col("tokens") < 0)
    )
    if len(wrong):
        raise RecipeError(f"{path}: row {wrong['row'][0]}: source, documents and tokens are needed, none below 0")
    return frame


def plan_statistics(recipe: Recipe, statistics: pl.DataFrame, types: Mapping[str, str] | None = None) -> Plan:
    """Solve a recipe over pool statistics (`read_statistics`). The plan has an account, but no rows.

    Fragments are those of documents laid end to end and cut every `sequence_length` tokens. Raises RecipeError
    where the recipe asks for more than statistics know.
    """
    pools = {source: _pool(recipe, statistics, source) for source in recipe.sources()}
    cells: dict[str, list[Cell]] = {}
    for pool in pools.values():
        for place, own in pool.cells(recipe).items():
            cells.setdefault(place, []).extend(own)
    cells |= {
        place: [_mix(recipe, statistics, place, line.mix)] for place, line in recipe.leaves().items() if line.mix
    }
    targets = targets_of(recipe, cells)
    division = Division(
        recipe, targets, lambda line: sum(unfiltered_tokens(pools[source], line) for source in line.source)
    )
    leaves = [leaf for target in targets for leaf in target.leaves()]
    for leaf in leaves:
        if leaf.line.mix:
            leaf.settle(leaf.asked)
            if leaf.asked > leaf.taken:
                division.problems.append(shortage(recipe, leaf, lambda line: 0))
    counted = {key: counts for leaf in leaves for key, counts in _expected(leaf, recipe.sequence_length)}
    everything = sum(counts["tokens"] for counts in counted.values())
    labels = dict(types or {})
    if "type" in statistics.columns:
        labels = {**dict(statistics.drop_nulls("type").select("source", "type").iter_rows()), **labels}
    account, lines = account_of(targets, counted, labels)
    totals = totals_of(counted, sum(counts["documents"] for counts in counted.values()))
    problems = [one for one in division.problems if recipe.on_shortage == "error" or one.line is None]
    return Plan(recipe, account, lines, totals, problems, [NOTE, *notes_of(recipe, targets, everything)])


def _pool(recipe: Recipe, statistics: pl.DataFrame, source: str) -> Pool:
    own = statistics.filter(pl.col("source") == source)
    if not len(own):
        there = ", ".join(statistics["source"].unique().sort())
        raise RecipeError(f"the pool statistics have no source '{source}'; there are {there}")
    lines = lines_of(recipe, source)
    for place, line in lines.items():
        if extra := [name for name in ("where", "gzip") if getattr(line, name)]:
            raise RecipeError(
                f"{recipe.where(place)}: {extra[0]} looks at each document; plan over a workspace, not statistics"
            )
    axes = tuple(axis for axis in AXES if axis in own.columns)
    squares = pl.lit(0.0).alias("squares:tokens")
    counts = own.select(
        *axes, pl.col("documents").alias("documents:tokens"), pl.col("tokens").alias("tokens:tokens"), squares
    )
    kind = own["kind"][0] if "kind" in own.columns else None
    return Pool(source, kind or "text", lines, {}, {}, with_all_axes(counts, ["tokens"]), AXES)


def _mix(recipe: Recipe, statistics: pl.DataFrame, place: str, mix: str) -> Cell:
    name = f"mix:{mix}"
    own = statistics.filter(pl.col("source") == name)
    if not len(own):
        raise RecipeError(f"{recipe.where(place)}: the pool statistics have no row of source '{name}'")
    return Cell(name, name, "rows", int(own["documents"].sum()), int(own["tokens"].sum()))


def _expected(target: Target, sequence: int | None) -> list[tuple[tuple[str, str], dict[str, int]]]:
    found = []
    for cell, tokens in zip(target.cells, target.by_cell(), strict=True):
        occurrences = round(cell.documents * tokens / cell.tokens) if cell.tokens else 0
        fragments = occurrences + (tokens // sequence if sequence else 0)
        numbers = (min(cell.documents, occurrences), occurrences, fragments, tokens)
        found.append(((cell.source, cell.bucket), dict(zip(COUNTED, numbers, strict=True))))
    return found
