"""Measurements of a pool that was edited after measuring."""

from __future__ import annotations

import random

import pyarrow.parquet as pq

from curation.dedup.settings import Dedup
from curation.dedup.substring import dedup_substring
from curation.dedup.trimming import Substring
from curation.edits import edit_pool
from curation.measure.remeasure import ANEW, remeasure
from curation.measure.station import Measure, measure
from tests.curation.cuts import pool_of


def table_of(output):
    return pq.read_table(output.shards()[0])


def test_what_later_stations_ask_is_as_if_the_edited_pool_had_been_measured(context):
    generator = random.Random(1)
    notice = "".join(generator.choices("abcdefgh ", k=700))
    texts = ["".join(generator.choices("ijklmnop ", k=2000)) for _ in range(6)]
    pool = pool_of(context, "web", [text + (notice if number < 4 else "") for number, text in enumerate(texts)])
    config = Measure(language=None)
    measured = measure(context, pool, config)
    spans = dedup_substring(
        context, {"web": pool}, {"web": measured}, [], Dedup(substring=Substring(), alarm_share=1)
    )
    trimmed = edit_pool(context, "trim/web", pool, spans)
    output = remeasure(context, "trim-measure/web", trimmed, measured, spans, config)
    anew, before, again = table_of(output), table_of(measured), table_of(measure(context, trimmed, config))
    assert output.counts["edited"] == 3
    assert output.name == "trim-measure/web"
    for name in anew.column_names:
        assert anew[name].equals((again if name in ANEW else before)[name]), name
    assert anew["bytes"].to_pylist() != before["bytes"].to_pylist()
    assert set(before.column_names) - set(anew.column_names) == {"minhash"}
