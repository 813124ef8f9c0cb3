"""What a recipe's lines may take: documents of a source that pass the filters, counted by bucket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from curation.mix.buckets import axes_of, bucket_of, bucket_order
from curation.mix.recipe import RENDERINGS, Line, Recipe
from curation.mix.rows import (
    AXES,
    PASSED,
    Catalogs,
    Piece,
    RecipeError,
    catalog_of,
    columns_of,
    each,
    pieces,
    profile_counts,
    values_of,
)
from curation.mix.screens import Screens, axis_filter
from curation.preference.admit import admitted
from curation.schema import LENGTH_BUCKETS
from curation.transforms.count import CHANGED_BY, TOKENS_UNDER

ADVICE = "split them by topic, quality, length or language, without overlap, or make them one line"


@dataclass(frozen=True)
class Cell:
    """One line of the account before selection: the documents of a source in a bucket that a line may take."""

    source: str
    bucket: str
    kind: str  # of its documents: text, chat, pairs; rows of a mix
    documents: int
    tokens: int
    squares: float = field(default=0.0, compare=False)  # the sum of tokens squared
    profiles: tuple[tuple, ...] = field(default=(), compare=False)


@dataclass
class Pool:
    """A source as the lines of a recipe see it. `counts` has a line for each profile (rows.profile_counts)."""

    source: str
    kind: str | None  # of its documents; None if it has none
    lines: dict[str, Line]  # those that take it, by place
    transforms: dict[str, str]  # of each line
    tokens: dict[str, str]  # the column that each line counts by
    counts: pl.DataFrame
    axes: tuple[str, ...]
    catalog: Path | pa.Table | None = None  # None: only counts are known
    screens: Screens | None = None
    left_out: dict[str, np.ndarray] = field(default_factory=dict)  # rows of each shard that other mixes hold

    def cells(self, recipe: Recipe) -> dict[str, list[Cell]]:
        """The cells of each line. Raises RecipeError where two lines may take the same document or bucket."""
        taken, cells = {}, {}
        for place, line in self.lines.items():
            frame = self._eligible(recipe, place, line)
            taken[place] = frame
            cells[place] = self._count(frame, place, line)
        self._require_disjoint(recipe, taken, cells)
        return cells

    def rows(self, piece: Piece, more: list[str]) -> tuple[pa.Table, np.ndarray | None]:
        """A piece of the catalog, the columns of profiles and tokens and `more`; and the filters its rows pass."""
        columns = [axis for axis in self.axes if axis != PASSED]
        columns += ["holdout", *self.tokens.values(), *(self.screens.columns if self.screens else ()), *more]
        columns += [name for name in map(changed_by, self.transforms.values()) if name]
        if self.left_out:
            columns += ["shard", "row"]
        table = piece.read(list(dict.fromkeys(columns)))
        return table, self.screens.passed(piece, table) if self.screens else None

    def held(self, table: pa.Table) -> np.ndarray:
        """Which rows no line may take: those held out, and those of the mixes that the recipe leaves out."""
        held = table["holdout"].to_numpy()
        if not self.left_out:
            return held
        codes, shards = values_of(table["shard"])
        rows = table["row"].to_numpy()
        for code, shard in enumerate(shards):
            if shard in self.left_out:
                held = held | ((codes == code) & np.isin(rows, self.left_out[shard]))
        return held

    def _eligible(self, recipe: Recipe, place: str, line: Line) -> pl.DataFrame:
        """The profiles that a line may take, with documents, tokens and squares as it counts them."""
        counts, name = self.counts, self.tokens.get(place, "tokens")
        where = recipe.where(place)
        if line.topic:
            known = counts["topic"].unique().drop_nulls().sort().to_list()
            if len(counts) and (unknown := [topic for topic in line.topic if topic not in known]):
                there = ", ".join(known) or "none"
                raise RecipeError(
                    f"{where}: line {line.name}: source '{self.source}' has no topic {unknown[0]}; it has {there}"
                )
        if (line.quality or line.upsample) and len(counts) and counts["vigintile"].null_count() == len(counts):
            raise RecipeError(
                f"{where}: line {line.name}: source '{self.source}' has no quality scores to filter or upsample by"
            )
        keep = axis_filter(line) & (pl.col(f"documents:{name}") > 0)
        if self.screens and (bit := self.screens.bits.get(place)):
            keep &= (pl.col(PASSED) // bit) % 2 == 1
        numbers = {key: pl.col(f"{key}:{name}") for key in ("documents", "tokens", "squares")}
        return counts.with_row_index("profile").filter(keep).select("profile", *self.axes, **numbers)

    def _count(self, frame: pl.DataFrame, place: str, line: Line) -> list[Cell]:
        """Cells in the order of their buckets. A pool of nothing is one cell of nothing: the account shows it."""
        found: dict[str, list] = {}
        for row in frame.iter_rows(named=True):
            found.setdefault(bucket_of(line, row), []).append(row)
        if not found:
            best = line.quality.max_vigintile if line.quality else 20
            empty = {"vigintile": best, "length_bucket": line.length[0] if line.length else LENGTH_BUCKETS[0]}
            first = {"topic": line.topic[0] if line.topic else None}
            first |= {"language": line.language[0] if line.language else None}
            return [Cell(self.source, bucket_of(line, empty | first), self.kind or "text", 0, 0)]
        cells = [
            Cell(
                self.source,
                bucket,
                self.kind or "text",
                sum(row["documents"] for row in rows),
                sum(row["tokens"] for row in rows),
                sum(row["squares"] for row in rows),
                tuple(tuple(row[axis] for axis in self.axes) for row in rows),
            )
            for bucket, rows in found.items()
        ]
        return sorted(cells, key=lambda cell: bucket_order(cell.bucket))

    def _require_disjoint(
        self, recipe: Recipe, taken: dict[str, pl.DataFrame], cells: dict[str, list[Cell]]
    ) -> None:
        if len(taken) < 2:
            return
        names = ", ".join(f"{place} ({self.lines[place].name})" for place in taken)
        frames = pl.concat([frame.select("profile", "documents") for frame in taken.values()])
        again = (
            frames.filter(pl.col("profile").is_duplicated())
            .group_by("profile")
            .agg(pl.col("documents").sum() - pl.col("documents").max())
        )
        first = recipe.where(next(reversed(taken)))
        if shared := int(again["documents"].sum()):
            raise RecipeError(
                f"{first}: {names} may take the same {shared} documents of '{self.source}': {ADVICE}"
            )
        buckets = [cell.bucket for place in taken for cell in cells[place]]
        if twice := sorted(bucket for bucket, count in Counter(buckets).items() if count > 1):
            raise RecipeError(
                f"{first}: {names} take the same buckets of '{self.source}' ({', '.join(twice)}): {ADVICE}, "
                "or give each a label"
            )


def open_pools(
    recipe: Recipe, catalogs: Catalogs, measured: Mapping[str, Path] | None, left_out: pl.DataFrame
) -> dict[str, Pool]:
    """The pools of a recipe, counted in one pass over their catalogs, by source in order. `left_out`: source,
    shard and row of documents that it does not take.
    """
    rows = {
        source: {shard: own["row"].to_numpy() for (shard,), own in part.group_by("shard")}
        for (source,), part in left_out.group_by("source")
    }
    return {
        source: _open(recipe, catalogs, (measured or {}).get(source), source, rows.get(source, {}))
        for source in recipe.sources()
    }


def _open(
    recipe: Recipe, catalogs: Catalogs, measured: Path | None, source: str, left_out: dict[str, np.ndarray]
) -> Pool:
    catalog = catalog_of(catalogs, source)
    lines = lines_of(recipe, source)
    kind = _kind_of(catalog, source)
    transforms = {place: _transform(recipe, place, line, kind, source) for place, line in lines.items()}
    tokens = {place: token_column(name) for place, name in transforms.items()}
    there = columns_of(catalog)
    for place, column in tokens.items():
        if column not in there:
            raise RecipeError(f"source '{source}': its tokens under '{transforms[place]}' have not been counted")
    axes = axes_of(lines.values())
    screens = Screens(recipe, source, lines, tokens, catalog, measured)
    if screens.bits:
        axes = (*axes, PASSED)
    pool = Pool(source, kind, lines, transforms, tokens, pl.DataFrame(), axes, catalog, screens, left_out)

    def count(piece: Piece) -> pl.DataFrame:
        table, passed = pool.rows(piece, [])
        held = pool.held(table)
        taken = {name: np.where(held, 0, table[name].to_numpy()) for name in sorted({*tokens.values()})}
        return profile_counts(table, axes, passed, taken)

    parts = list(each(count, pieces(catalog)))
    counts = _merged(pl.concat(parts), axes) if parts else pl.DataFrame()
    pool.counts = with_all_axes(counts, sorted({*tokens.values()}))
    return pool


def _merged(counts: pl.DataFrame, axes: tuple[str, ...]) -> pl.DataFrame:
    sums = [pl.col(name).sum() for name in counts.columns if name not in axes]
    return counts.group_by(axes, maintain_order=True).agg(sums) if axes else counts.select(sums)


def with_all_axes(counts: pl.DataFrame, tokens: list[str]) -> pl.DataFrame:
    """With every column that filters may look at, null where the recipe does not ask for it."""
    types = dict.fromkeys(AXES, pl.String) | {"vigintile": pl.UInt8, PASSED: pl.Int64}
    for name in tokens:
        types |= {f"documents:{name}": pl.Int64, f"tokens:{name}": pl.Int64, f"squares:{name}": pl.Float64}
    missing = {name: pl.lit(None, kind) for name, kind in types.items() if name not in counts.columns}
    if not counts.columns:
        return pl.DataFrame(schema=types)
    return counts.with_columns(**missing)


def admit_pairs(recipe: Recipe, catalogs: Catalogs) -> tuple[Catalogs, list[str]]:
    """The catalogs without the pairs that the recipe's `pairs` leave out, and those whose prompt another source of
    the mix holds out; and notes on both. Raises RecipeError for a source that is not there or holds no pairs.
    """
    for source in recipe.sources():
        catalog_of(catalogs, source)
    try:
        return admitted(catalogs, recipe.sources(), recipe.pairs, recipe.seed)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def lines_of(recipe: Recipe, source: str) -> dict[str, Line]:
    """The lines that take a source, by place."""
    return {place: line for place, line in recipe.leaves().items() if source in line.source}


def token_column(transform: str) -> str:
    """The column of a catalog that counts tokens under a transform."""
    if is_rendering(transform):
        return "tokens_plain" if transform == "chat_plain" else "tokens"
    return f"{TOKENS_UNDER}{transform}"


def is_rendering(transform: str) -> bool:
    """Whether a catalog counts its tokens anyway; a margin after the name of a pair counts as none."""
    return transform.partition(" ")[0] in RENDERINGS


def changed_by(transform: str) -> str | None:
    """The column that says which documents a transform leaves as they are: their transform is `none`."""
    return None if is_rendering(transform) else f"{CHANGED_BY}{transform}"


def _transform(recipe: Recipe, place: str, line: Line, kind: str | None, source: str) -> str:
    if kind is None:
        return "none"
    try:
        return recipe.transform_of(line, kind, source)
    except ValueError as error:
        raise RecipeError(f"{recipe.where(place)}: {error}") from None


def _kind_of(catalog: Path | pa.Table, source: str) -> str | None:
    """The kind of a source's documents, None if it has none. Raises RecipeError if there are several."""
    found = each(
        lambda piece: pc.unique(piece.read(["kind"])["kind"]).cast(pa.string()).to_pylist(), pieces(catalog)
    )
    kinds = sorted({kind for part in found for kind in part})
    if len(kinds) > 1:
        raise RecipeError(f"catalog of '{source}': documents of several kinds: {', '.join(kinds)}")
    return kinds[0] if kinds else None


def unfiltered_tokens(pool: Pool, line: Line) -> int:
    """Tokens of a pool without a line's filters, as the line's profiles know them."""
    name = next((pool.tokens.get(place) for place, one in pool.lines.items() if one is line), None) or "tokens"
    return int(pool.counts[f"tokens:{name}"].sum() or 0) if len(pool.counts) else 0
