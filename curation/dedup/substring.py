"""Substring deduplication: strings of bytes that an earlier place has too are cut, exactly, in any source.

What is cut, before gaps are bridged and cuts are drawn back to words: each byte of each window of `min_bytes`
bytes that are at an earlier place too (`windows.py` says what is earlier), that is each repeat of at least
`min_bytes` bytes but the first. So a byte that is cut has its like at an earlier place, in the same `min_bytes`
bytes; that place may be cut itself, for one before it, and the last in the chain stays.

Nothing here depends on shards, partitions, workers or the order of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from curation.dedup.anchors import find_anchors
from curation.dedup.cuts import Search, count_bytes, settle
from curation.dedup.documents import discard, gather, list_shards, write_decisions
from curation.dedup.keep import preference
from curation.dedup.settings import Dedup
from curation.dedup.windows import repeated_windows
from curation.steps import Build, Context, StepOutput, step

VERSION = 1
STAGE = "substring"
RULE = "repeated_substring"


def dedup_substring(
    ctx: Context,
    pools: Mapping[str, StepOutput],
    measured: Mapping[str, StepOutput],
    ledgers: Iterable[StepOutput],
    config: Dedup,
) -> StepOutput:
    """Find repeated substrings in pools of text; the step `dedup-substring`, by `config.substring`.

    Looks at the documents that no ledger has dropped, of the sources given. Writes, each as
    `<what>/<source>/<shard>.parquet`: `edits` (EDITS, rule "repeated_substring"), `repeats` (REPEATS: each run and
    its twin) and `ledger` (stage "substring", rule "repeated_substring_share" for documents that would lose more
    than `max_removed`, value = that share, twin = the document that has most of it). Counts: documents_in,
    documents_out, runs, bytes_repeated, spans, trimmed (documents), bytes_in, bytes_cut, bytes_dropped, rounds,
    by_source.

    Raises ValueError where pools and measurements do not match.
    """
    settings, ledgers = config.substring, list(ledgers)
    outputs = [*pools.values(), *measured.values(), *ledgers]
    literals = settings.model_dump(mode="json", exclude={"sources"})
    literals |= {"keep": config.keep.model_dump(mode="json"), "alarm_share": config.alarm_share}

    take, find = partial(_take, settings.min_bytes), partial(_find, settings.min_bytes)
    search = Search(RULE, take, find, settings.max_removed, settings.bridge, settings.snap)

    def work(build: Build) -> None:
        shards = list_shards(pools, measured)
        documents = gather(build, pools, shards, ledgers, config.keep)
        order = preference(config.keep, documents.names, documents.columns, documents.origins)
        decisions = settle(build, documents, order, search, STAGE)
        write_decisions(build, documents, ledgers, decisions, config.alarm_share)
        count_bytes(build, documents, config.alarm_share)
        discard(build)

    inputs = {output.name: output.content for output in outputs}
    return step(ctx, "dedup-substring", VERSION, literals, inputs, work)


def _take(min_bytes: int, source: str, data: np.ndarray, offsets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return find_anchors(data, offsets, numbers, min_bytes)


def _find(
    min_bytes: int, anchors: np.ndarray, texts: np.ndarray, starts: np.ndarray, dropped: np.ndarray
) -> np.ndarray:
    anchors = anchors[np.lexsort((anchors["place"], anchors["document"], anchors["key"]))]
    return repeated_windows(anchors, texts, starts, dropped, min_bytes)
