"""Line and paragraph deduplication: what stands in many documents of a source, menus and notices, is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from curation.dedup.cuts import Search, count_bytes, settle
from curation.dedup.documents import discard, gather, list_shards, write_decisions
from curation.dedup.keep import preference
from curation.dedup.segments import find_segments, frequent_segments
from curation.dedup.settings import Dedup
from curation.keys import key_of
from curation.steps import Build, Context, StepOutput, step

VERSION = 1
STAGE = "lines"


def dedup_lines(
    ctx: Context,
    pools: Mapping[str, StepOutput],
    measured: Mapping[str, StepOutput],
    ledgers: Iterable[StepOutput],
    config: Dedup,
) -> StepOutput:
    """Find the lines or paragraphs of text that stand too often; the step `dedup-lines`, by `config.lines`.

    Looks at the documents that no ledger has dropped, of the sources given. Two lines are equal if 128 bits of
    hash are. Writes and counts as `dedup_substring`, stage "lines", rules "repeated_line" or "repeated_paragraph".
    Raises ValueError where pools and measurements do not match.
    """
    settings, ledgers = config.lines, list(ledgers)
    outputs = [*pools.values(), *measured.values(), *ledgers]
    literals = settings.model_dump(mode="json", exclude={"sources"})
    literals |= {"keep": config.keep.model_dump(mode="json"), "alarm_share": config.alarm_share}

    def take(source: str, data: np.ndarray, offsets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        scope = key_of(0, f"lines/{source}" if settings.scope == "source" else "lines")
        return find_segments(
            data,
            offsets,
            numbers,
            scope,
            paragraphs=settings.unit == "paragraph",
            words=settings.normalise == "words",
            min_bytes=settings.min_bytes,
        )

    def find(segments: np.ndarray, texts: np.ndarray, starts: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        return frequent_segments(
            segments,
            dropped,
            settings.repeats,
            occurrences=settings.count == "occurrences",
            keep_first=settings.keep == "first",
        )

    search = Search(f"repeated_{settings.unit}", take, find, settings.max_removed)

    def work(build: Build) -> None:
        shards = list_shards(pools, measured)
        documents = gather(build, pools, shards, ledgers, config.keep)
        order = preference(config.keep, documents.names, documents.columns, documents.origins)
        decisions = settle(build, documents, order, search, STAGE)
        write_decisions(build, documents, ledgers, decisions, config.alarm_share)
        count_bytes(build, documents, config.alarm_share)
        discard(build)

    inputs = {output.name: output.content for output in outputs}
    return step(ctx, "dedup-lines", VERSION, literals, inputs, work)
