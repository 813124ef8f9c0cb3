"""The gzip cut: without the documents of a pool that compress best (repetition) and worst (noise).

Olmo 3 leaves out the 20 % most and the 20 % least compressible long documents (report, 3.6.1). The cut is by rank
within the pool of one source that a line's other filters leave, so that the ratios where it falls come from the
data; percentiles count documents, not tokens.
"""

from __future__ import annotations

import math

import polars as pl

from curation.mix.filters import GzipCut, exact

# The ratio ranks; the id, and for two documents of one id their place, decide between equal ratios.
RANKED_BY = ("gzip_ratio", "id", "shard", "row")


def inside_cut(rows: pl.DataFrame, cut: GzipCut) -> pl.Series:
    """Which of a pool's documents stay. `rows` has the columns of RANKED_BY, in any order; bool (n,) as `rows`.

    Of n documents that have a ratio the floor(n * drop_lowest) of the lowest ratio (compressed / original, so the
    most compressible) and the floor(n * drop_highest) of the highest go; so does one without a ratio, of no text.
    """
    places = rows.select(*RANKED_BY).with_row_index("place").drop_nulls("gzip_ratio").sort(*RANKED_BY)["place"]
    lowest, highest = (math.floor(len(places) * exact(share)) for share in (cut.drop_lowest, cut.drop_highest))
    inside = places.slice(lowest, len(places) - lowest - highest)
    return pl.int_range(len(rows), dtype=pl.UInt32, eager=True).is_in(inside.implode()).rename("inside")


def describe_cut(rows: pl.DataFrame, inside: pl.Series) -> str:
    """What a cut did to a pool, for a person: how many documents stay and the ratios they span."""
    kept = rows.filter(inside)["gzip_ratio"]
    span = f", of ratios {kept.min():.3f} to {kept.max():.3f}" if len(kept) else ""
    return f"the gzip cut keeps {len(kept):,} of {len(rows):,} documents{span}"
