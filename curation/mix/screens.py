"""Row filters: bounds on measurements and the gzip cut. No profile tells them; each document is looked at."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.mix.filters import Bounds
from curation.mix.gzip_cut import RANKED_BY, describe_cut, inside_cut
from curation.mix.recipe import Line, Recipe
from curation.mix.rows import Piece, RecipeError, columns_of, each, pieces


class Screens:
    """The row filters of one source's lines, a bit for each line that has any."""

    def __init__(
        self,
        recipe: Recipe,
        source: str,
        lines: Mapping[str, Line],
        tokens: Mapping[str, str],
        catalog: Path | pa.Table,
        measured: Path | None,
    ):
        """`lines`: those that take the source, by place. `tokens`: the column each counts by. `measured`: the step
        whose shards hold the source's measurements. Raises RecipeError for a measurement that there is none of.
        """
        self._recipe, self._source, self._catalog, self._measured = recipe, source, catalog, measured
        screened = {place: line for place, line in lines.items() if line.where or line.gzip}
        self.bits = {place: 1 << number for number, place in enumerate(screened)}
        self.notes: list[str] = []
        self._lines = screened
        self._inside: dict[str, np.ndarray] = {}
        if len(screened) > 62:
            raise RecipeError(f"source '{source}': {len(screened)} lines filter by where or gzip; 62 can")
        names = sorted({name for line in screened.values() for name in line.where})
        there = columns_of(catalog)
        self._beside = [name for name in names if name not in there]
        self.columns = [name for name in names if name in there]
        if self._beside:
            self._require_measured(there)
            self.columns += [name for name in ("shard", "row") if name not in self.columns]
        for place, line in screened.items():
            if line.gzip:
                self._cut(place, line, tokens[place])

    def passed(self, piece: Piece, table: pa.Table) -> np.ndarray | None:
        """The bits of the filters that each row of a piece passes; None if there are no filters. Shape (n,)."""
        if not self.bits:
            return None
        table = self._with_measured(table)
        bits = np.zeros(len(table), np.int64)
        for place, line in self._lines.items():
            inside = _within(table, line)
            if place in self._inside:
                inside &= self._inside[place][piece.start : piece.start + len(table)]
            bits |= inside * self.bits[place]
        return bits

    def _require_measured(self, there: list[str]) -> None:
        known = list(there)
        if self._measured is not None:
            known += _measured_names(self._measured)
        for name in self._beside:
            if name not in known:
                place = next(place for place, line in self._lines.items() if name in line.where)
                close = difflib.get_close_matches(name, known, 1)
                advice = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(sorted({*known}))}"
                raise RecipeError(
                    f"{self._recipe.where(place)}: source '{self._source}' has no measurement '{name}'; {advice}"
                )

    def _with_measured(self, table: pa.Table) -> pa.Table:
        """A piece with the measurements of its rows that the catalog does not hold."""
        if not self._beside:
            return table
        shards = table["shard"].combine_chunks()
        shards = shards if pa.types.is_dictionary(shards.type) else shards.dictionary_encode()
        codes, numbers = shards.indices.to_numpy(), table["row"].to_numpy()
        found, places = [], []
        for code, shard in enumerate(shards.dictionary.to_pylist()):
            own = np.flatnonzero(codes == code)
            if len(own):
                measures = _measures(self._measured / "shards" / f"{shard}.parquet", tuple(self._beside))
                found.append(measures.take(pa.array(numbers[own])))
                places.append(own)
        joined = pa.concat_tables(found)
        order = np.argsort(np.concatenate(places), kind="stable")
        for name in self._beside:
            table = table.append_column(name, joined[name].take(pa.array(order)))
        return table

    def _cut(self, place: str, line: Line, tokens: str) -> None:
        """Which rows a line's gzip cut leaves, of the whole catalog: the ranks need all ratios at once."""
        axes = ["topic", "language", "vigintile", "length_bucket", "holdout"]
        names = list(dict.fromkeys([*RANKED_BY, *axes, tokens, *self.columns]))

        def eligible(piece: Piece) -> pl.DataFrame:
            table = piece.read(names)
            keep = _within(self._with_measured(table), line)
            frame = pl.from_arrow(table).with_columns(pl.col(pl.Categorical).cast(pl.String))
            frame = frame.with_row_index("place", piece.start).filter(
                pl.Series(keep)
                & frame.select((~pl.col("holdout")) & (pl.col(tokens) > 0) & axis_filter(line)).to_series()
            )
            return frame.select("place", *RANKED_BY)

        parts = list(each(eligible, pieces(self._catalog)))
        rows = pl.concat(parts) if parts else pl.DataFrame(schema={"place": pl.UInt32, **dict.fromkeys(RANKED_BY)})
        if len(rows) and rows["gzip_ratio"].null_count() == len(rows):
            advice = "set measure.gzip_prefix_bytes above 0"
            where = self._recipe.where(place)
            raise RecipeError(f"{where}: source '{self._source}' has no gzip ratios to cut by; {advice}")
        inside = inside_cut(rows, line.gzip) if len(rows) else pl.Series([], dtype=pl.Boolean)
        mask = np.zeros(sum(piece.rows for piece in pieces(self._catalog)), bool)
        mask[rows.filter(inside)["place"].to_numpy()] = True
        self._inside[place] = mask
        self.notes.append(f"{place} ({self._source}): {describe_cut(rows, inside)}")


def axis_filter(line: Line) -> pl.Expr:
    """The filters of a line that a profile tells: topic, language, quality, length."""
    keep = pl.lit(True)
    if line.topic:
        keep &= pl.col("topic").is_in(list(line.topic))
    if line.language:
        keep &= pl.col("language").is_in(list(line.language))
    if line.length:
        keep &= pl.col("length_bucket").is_in(list(line.length))
    if line.quality or line.upsample:
        lowest, highest = (line.quality.min_vigintile, line.quality.max_vigintile) if line.quality else (1, 20)
        keep &= pl.col("vigintile").is_between(lowest, highest)
    return keep.fill_null(False)


def _within(table: pa.Table, line: Line) -> np.ndarray:
    inside = np.ones(len(table), bool)
    for name, bounds in line.where.items():
        inside &= _bounded(table[name], bounds)
    return inside


def _bounded(column: pa.ChunkedArray, bounds: Bounds) -> np.ndarray:
    if bounds.among:
        found = pc.is_in(column.cast(pa.string()), pa.array(bounds.among))
    else:
        found = pc.is_valid(column)
        for compare, bound in ((pc.greater_equal, bounds.min), (pc.less_equal, bounds.max)):
            if bound is not None:
                found = pc.and_kleene(found, compare(column.cast(pa.float64()), bound))
    return found.combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)


def _measured_names(folder: Path) -> list[str]:
    first = next(iter(sorted((folder / "shards").glob("*.parquet"))), None)
    return [one.name for one in pq.read_schema(first) if not pa.types.is_nested(one.type)] if first else []


@lru_cache(maxsize=8)
def _measures(path: Path, names: tuple[str, ...]) -> pa.Table:
    return pq.read_table(path, columns=list(names), partitioning=None).combine_chunks()
