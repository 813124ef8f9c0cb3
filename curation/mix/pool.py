"""What a recipe's lines may take: catalog rows that pass the filters, counted by bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curation.mix.gzip_cut import describe_cut, inside_cut
from curation.mix.recipe import RENDERINGS, Line, Recipe
from curation.preference.admit import admitted
from curation.schema import CATALOG, LENGTH_BUCKETS, require_columns
from curation.transforms.count import CHANGED_BY, TOKENS_UNDER

Catalogs = Mapping[str, Path | pa.Table]
FILTERED_BY = ["kind", "tokens", "tokens_plain", "language", "topic", "vigintile", "length_bucket", "gzip_ratio"]
FILTERED_BY += ["holdout"]
DOCUMENT_KEY = ["id", "shard", "row"]
WHOLE_SOURCE = "all"
TRANSFORMED = (TOKENS_UNDER, CHANGED_BY)  # how the further columns of a catalog begin


class RecipeError(ValueError):
    """A recipe does not fit the catalogs that it is planned over."""


@dataclass(frozen=True)
class Cell:
    """One line of the account before selection: the documents of a source in a bucket that a line may take."""

    source: str
    bucket: str
    kind: str  # of its documents: text, chat, pairs
    documents: int
    tokens: int


def read_catalog(catalogs: Catalogs, source: str, columns: list[str]) -> pl.DataFrame:
    """Columns of a source's catalog. Raises RecipeError for a source that there is none of."""
    if source not in catalogs:
        raise RecipeError(f"no source '{source}'; there are {', '.join(sorted(catalogs)) or 'none'}")
    found = catalogs[source]
    names = found.column_names if isinstance(found, pa.Table) else pq.read_schema(found).names
    columns = [*columns, *(name for name in names if name.startswith(TRANSFORMED))]
    if isinstance(found, pa.Table):
        require_columns(found, CATALOG, f"catalog of {source}")
        return pl.from_arrow(found.select(columns))
    return pl.from_arrow(pq.read_table(found, columns=columns, partitioning=None))


def eligible(frame: pl.DataFrame, recipe: Recipe, line: Line, source: str) -> pl.DataFrame:
    """The rows that a line may take, with `bucket`, `transform` and `tokens` as the mix counts them.

    Never a held-out document, never one of no tokens. Raises RecipeError for a quality filter on a source without
    quality, a gzip cut on one without ratios, and for a kind of document that does not fit the mix.
    """
    kind = kind_of(frame, source)
    if kind is None:
        return frame.with_columns(bucket=pl.lit(WHOLE_SOURCE), transform=pl.lit("none"))
    try:
        transform = recipe.transform_of(line, kind, source)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    by_quality = bool(line.quality or line.upsample)
    if by_quality and frame["vigintile"].null_count() == len(frame):
        raise RecipeError(f"line {line.name}: source '{source}' has no quality scores to filter or upsample by")
    tokens, applied = _counted(frame, transform, source)
    keep = ~pl.col("holdout") & (tokens > 0)
    if by_quality:
        lowest, highest = (line.quality.min_vigintile, line.quality.max_vigintile) if line.quality else (1, 20)
        keep &= pl.col("vigintile").is_between(lowest, highest)
    if line.length:
        keep &= pl.col("length_bucket").is_in(list(line.length))
    if line.language:
        keep &= pl.col("language").is_in(list(line.language))
    if line.topic:
        known = frame["topic"].unique().drop_nulls().sort().to_list()
        if unknown := [topic for topic in line.topic if topic not in known]:
            there = ", ".join(known) or "none"
            raise RecipeError(f"line {line.name}: source '{source}' has no topic {unknown[0]}; it has {there}")
        keep &= pl.col("topic").is_in(list(line.topic))
    rows = frame.filter(keep).with_columns(bucket=bucket_of(line), transform=applied, tokens=tokens.cast(pl.Int64))
    if line.gzip is None:
        return rows
    if rows["gzip_ratio"].null_count() == len(rows) > 0:
        advice = "set measure.gzip_prefix_bytes above 0"
        raise RecipeError(f"line {line.name}: source '{source}' has no gzip ratios to cut by; {advice}")
    return rows.filter(inside_cut(rows, line.gzip))


def _counted(frame: pl.DataFrame, transform: str, source: str) -> tuple[pl.Expr, pl.Expr]:
    """The tokens of a row under a transform, and the transform's name in the manifest: `none` where it leaves the
    document as it is.
    """
    if transform.partition(" ")[0] in RENDERINGS:
        return pl.col("tokens_plain" if transform == "chat_plain" else "tokens"), pl.lit(transform)
    if f"{TOKENS_UNDER}{transform}" not in frame.columns:
        raise RecipeError(f"source '{source}': its tokens under '{transform}' have not been counted")
    changed = pl.col(f"{CHANGED_BY}{transform}")
    name = pl.when(changed).then(pl.lit(transform)).otherwise(pl.lit("none"))
    return pl.col(f"{TOKENS_UNDER}{transform}"), name


def bucket_of(line: Line) -> pl.Expr:
    """The bucket of a row: its vigintile (q01 to q20), its length bucket, or "all"; whatever the line goes by.

    The topics of the line come before it ("law/q20"), so that each topic may have a line of its own.
    """
    bucket = pl.col("length_bucket") if line.length else pl.lit(WHOLE_SOURCE)
    if line.quality or line.upsample:
        bucket = pl.format("q{}", pl.col("vigintile").cast(pl.String).str.zfill(2))
    return pl.concat_str(pl.lit(topics_of(line)), bucket)


def topics_of(line: Line) -> str:
    """How the buckets of a line that names topics begin: "law+sea/"."""
    return "+".join(line.topic) + "/" if line.topic else ""


def admit_pairs(recipe: Recipe, catalogs: Catalogs) -> tuple[Catalogs, list[str]]:
    """The catalogs without the pairs that the recipe's `pairs` leave out, and notes on those.

    Raises RecipeError for a source that is not there or holds no pairs.
    """
    for source in recipe.sources():
        read_catalog(catalogs, source, [])
    try:
        return admitted(catalogs, recipe.sources(), recipe.pairs, recipe.seed)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def kind_of(frame: pl.DataFrame, source: str) -> str | None:
    """The kind of a source's documents, None if it has none. Raises RecipeError if there are several."""
    kinds = frame["kind"].unique().sort().to_list()
    if len(kinds) > 1:
        raise RecipeError(f"catalog of '{source}': documents of several kinds: {', '.join(kinds)}")
    return kinds[0] if kinds else None


def line_cells(recipe: Recipe, catalogs: Catalogs) -> dict[int, list[Cell]]:
    """The cells of each line that takes documents, by the line's place in the recipe.

    Raises RecipeError where two lines may take the same document, or the same bucket of a source.
    """
    cells: dict[int, list[Cell]] = {place: [] for place, line in enumerate(recipe.lines) if line.source}
    for source in recipe.sources():
        frame = read_catalog(catalogs, source, [*DOCUMENT_KEY, *FILTERED_BY]).with_row_index("place")
        takers: dict[int, pl.DataFrame] = {}
        for place, line in enumerate(recipe.lines):
            if source in line.source:
                takers[place] = eligible(frame, recipe, line, source).select("place", "bucket", "tokens")
                cells[place] += _count(takers[place], line, source, kind_of(frame, source) or "text")
        _require_disjoint(recipe, source, takers, cells)
    return cells


def unfiltered_tokens(recipe: Recipe, line: Line, catalogs: Catalogs) -> int:
    """Tokens of a line's sources without its filters."""
    bare = line.model_copy(
        update={"quality": None, "length": (), "language": (), "topic": (), "gzip": None, "upsample": None}
    )
    frames = (
        eligible(read_catalog(catalogs, source, FILTERED_BY), recipe, bare, source) for source in line.source
    )
    return sum(int(frame["tokens"].sum()) for frame in frames)


def gzip_notes(recipe: Recipe, catalogs: Catalogs) -> list[str]:
    """What the gzip cut of each line did to each of its sources."""
    notes = []
    for place, line in enumerate(recipe.lines):
        for source in line.source if line.gzip else ():
            frame = read_catalog(catalogs, source, [*DOCUMENT_KEY, *FILTERED_BY])
            rows = eligible(frame, recipe, line.model_copy(update={"gzip": None}), source)
            notes.append(f"lines.{place} ({source}): {describe_cut(rows, inside_cut(rows, line.gzip))}")
    return notes


def _count(rows: pl.DataFrame, line: Line, source: str, kind: str) -> list[Cell]:
    """Cells in the order of their buckets. A pool of nothing is one cell of nothing: the account shows it."""
    counted = {
        bucket: (documents, tokens)
        for bucket, documents, tokens in rows.group_by("bucket").agg(pl.len(), pl.col("tokens").sum()).iter_rows()
    }
    topics = topics_of(line)
    places = {f"{topics}{bucket}": place for place, bucket in enumerate(LENGTH_BUCKETS)}
    buckets = sorted(counted, key=lambda bucket: (places[bucket] if line.length else 0, bucket))
    if not buckets:
        empty = line.length[0] if line.length else "q20" if line.quality or line.upsample else WHOLE_SOURCE
        return [Cell(source, topics + empty, kind, 0, 0)]
    return [Cell(source, bucket, kind, *counted[bucket]) for bucket in buckets]


def _require_disjoint(
    recipe: Recipe, source: str, takers: dict[int, pl.DataFrame], cells: dict[int, list[Cell]]
) -> None:
    if len(takers) < 2:
        return
    names = ", ".join(f"lines.{place} ({recipe.lines[place].name})" for place in takers)
    advice = "split them by quality or by length, without overlap, or make them one line"
    places = pl.concat([rows["place"] for rows in takers.values()])
    if shared := len(places) - places.n_unique():
        raise RecipeError(f"{names} may take the same {shared} documents of '{source}': {advice}")
    buckets = [cell.bucket for place in takers for cell in cells[place] if cell.source == source]
    if twice := sorted({bucket for bucket in buckets if buckets.count(bucket) > 1}):
        raise RecipeError(f"{names} take the same buckets of '{source}' ({', '.join(twice)}): {advice}")
