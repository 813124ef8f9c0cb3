"""The map of buckets: a cell for each, as full as it is taken often, and nothing of a name alive in it."""

from __future__ import annotations

import re

from flows.report.buckets import maps


def line(bucket: str, tokens: int, pool: int = 100, source: str = "web") -> dict:
    return {"source": source, "bucket": bucket, "tokens": tokens, "pool_tokens": pool, "repeats": tokens / pool}


LINES = [
    line("law/q19", 50),
    line("law/q20", 400),
    line("<sea>/q19", 1),
    line("<sea>/q20", 0),
    line("all", 9, 10, "b"),
]


def cells(markup: str) -> dict[str, str]:
    """The class of each cell, by the bucket that its title names."""
    found = re.findall(r'class="(h\d+)" rx="2"><title>([^:<]+): [0-9.]+ times, [^<]*</title>', markup)
    return {bucket: css for css, bucket in found}


def test_a_cell_is_as_full_as_its_bucket_is_taken_often():
    ((source, drawn),) = maps(LINES)  # a source of one bucket has no map
    assert source == "web"
    assert cells(drawn) == {"law/q19": "h1", "law/q20": "h10", "&lt;sea&gt;/q19": "h1", "&lt;sea&gt;/q20": "h0"}
    assert "<sea>" not in drawn
    assert drawn.index("law") < drawn.index("sea")  # by tokens
    assert "99.8%" in drawn


def test_lengths_stand_in_their_order():
    lengths = [line("8K-16K", 1), line("16K-32K", 2), line("<1K", 3)]
    ((_, drawn),) = maps(lengths)
    names = re.findall(r'class="t tiny" text-anchor="middle">([^<]+)<', drawn)
    assert names == ["&lt;1K", "8K-16K", "16K-32K"]
