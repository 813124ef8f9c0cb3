"""Deduplication of files as a tool of its own: the stations of the pipeline over records that stay where they are.

1. read     each piece of a file: ids, hashes and signatures; texts are not copied
2. exact    `dedup_exact`
3. fuzzy    `dedup_fuzzy`: candidates' texts are fetched from their files and compared
4. results  kept.parquet, removed.parquet, clusters.parquet, and the kept records where they are wanted

The steps lie in OUT/work, so that a run that was killed goes on where it was, and another threshold or keep policy
reads no file again but for candidates.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import model_validator

from curation import remote
from curation.config import Bytes, ConfigError, Share, Strict
from curation.dedup.copying import copy_records
from curation.dedup.documents import Shard, list_shards
from curation.dedup.exact import dedup_exact
from curation.dedup.forecast import Forecast, forecast, memory_of
from curation.dedup.fuzzy import dedup_fuzzy
from curation.dedup.inputs import find_inputs
from curation.dedup.reading import read
from curation.dedup.records import Fields
from curation.dedup.reference import reference_of
from curation.dedup.results import write_tables
from curation.dedup.settings import Dedup
from curation.files import TEMPORARY, json_hash, read_parquet, remove, remove_unfinished, write_json
from curation.read.record import Limits
from curation.steps import RECORD, Build, Context, StepOutput, step

VERSION = 1
SUMMARY = "summary.json"
TABLES = ("kept.parquet", "removed.parquet", "clusters.parquet", "quarantine.parquet", SUMMARY)


class Request(Strict):
    """What is wanted of `dedup_files`. `dedup` is as in a pipeline; the rest concerns files."""

    inputs: tuple[str, ...]
    fields: Fields = Fields()
    dedup: Dedup = Dedup()
    exact_only: bool = False
    write_records: bool = False
    alarm_share: Share = 0.5
    memory: Bytes = 4 << 30
    max_document_bytes: Bytes = 32 << 20
    max_file_bytes: Bytes = 1 << 44  # decompressed
    max_ratio: int = 1000

    @model_validator(mode="after")
    def _options_fit_together(self) -> Request:
        dated = [wish for wish in self.dedup.keep.then if wish in ("newest", "oldest")]
        if self.fields.created is None and dated:
            raise ValueError(f"to keep the {dated[0]}, name the field that holds the date: --date-field")
        if self.fields.score is None and "best" in self.dedup.keep.then:
            raise ValueError("to keep the best, name the field that holds its score: --score-field")
        if self.exact_only and self.dedup.index:
            raise ValueError("an index compares near-duplicates too: leave out --exact-only or --index")
        return self

    @property
    def read_fields(self) -> Fields:
        """The fields that are read of each record: those named, and what exact deduplication compares."""
        by = self.dedup.exact.by
        return self.fields.model_copy(update={"value": None if by == "text" else by})

    @property
    def limits(self) -> Limits:
        return Limits(self.max_document_bytes, self.max_file_bytes, self.max_ratio)


@dataclass(frozen=True)
class Deduplicated:
    """A finished run: where its files are, its counts, alarms, and the shards that the tables point into."""

    out: Path
    counts: dict
    alarms: list[str]
    shards: list[Shard]
    reused: bool


def plan(request: Request, workers: int) -> Forecast:
    """What a run will need, estimated from a sample of the files. Raises ConfigError for inputs that are none."""
    return forecast(find_inputs(request.inputs), request.fields, request.limits, request.dedup, workers)


def fit_workers(request: Request, workers: int) -> int:
    """The workers that the memory setting allows, of the ones wanted.

    Raises ConfigError if a single one would need more, with what it needs.
    """
    one = plan(request, 1)
    if one.memory > request.memory:
        raise ConfigError(
            f"about {one.memory >> 20} MiB are needed for these documents with one worker, --memory allows "
            f"{request.memory >> 20} MiB: give more, or leave out some of the inputs"
        )
    fitting = (
        memory_of(one.documents, one.text, request.dedup, more) <= request.memory for more in range(2, workers + 1)
    )
    return 1 + sum(itertools.takewhile(bool, fitting))


def dedup_files(ctx: Context, request: Request, out: Path) -> Deduplicated:
    """Deduplicate the records of `request.inputs` into the folder `out`; the context's workspace is `out`/work.

    Writes `kept.parquet` (id, source, origin), `removed.parquet` (record, stage, similarity, twin),
    `clusters.parquet`, `quarantine.parquet` (records that cannot be read), `summary.json`, and with
    `write_records` the kept records under `records/<source>/`. With `dedup.index` records are compared with those
    of the index, too, which is extended; `reversals.parquet` tells which old ones change sides. A mirror of
    `curation.remote` is published, without `work`.

    Raises ConfigError for inputs that are none, StrictError under a strict context for what raises an alarm.
    """
    files = find_inputs(request.inputs)
    scheme = None if request.exact_only else request.dedup.scheme
    outputs = ctx.executor.each(
        lambda name: read(ctx, name, files[name], request.read_fields, request.limits, scheme), files
    )
    pools = dict(zip(files, outputs, strict=True))
    settings = request.dedup.model_copy(update={"memory": request.memory})
    stages = [dedup_exact(ctx, pools, pools, {}, settings)]
    if not request.exact_only:
        stages.append(dedup_fuzzy(ctx, pools, pools, stages, settings))
    shards = list_shards(pools, pools)
    result = _results(ctx, request, out, pools, stages, shards)
    if (store := remote.of_results(out)) is not None:
        store.publish_results(out, SUMMARY, leave_out="work")
    alarms = [alarm for output in (*pools.values(), *stages, result) for alarm in output.record["alarms"]]
    return Deduplicated(out, result.counts, alarms, shards, result.reused)


def _results(
    ctx: Context,
    request: Request,
    out: Path,
    pools: dict[str, StepOutput],
    stages: list[StepOutput],
    shards: list[Shard],
) -> StepOutput:
    config = {"write_records": request.write_records, "alarm_share": request.alarm_share}
    inputs = {output.name: output.content for output in (*pools.values(), *stages)}
    targets = record_files(out, shards) if request.write_records else {}
    reversals = stages[-1].folder / "reversals.parquet" if request.dedup.index else None
    complete = out / "work" / "results.json"  # which result the files beside it are
    identity = json_hash([VERSION, config, inputs])

    def work(build: Build) -> None:
        remove(complete)
        for leftover in out.glob(f"{TEMPORARY}*"):
            remove(leftover)
        remove_unfinished(out / "records")
        counts = write_tables(out, shards, stages, request.dedup.index)
        if reversals is not None:
            changed = read_parquet(reversals)
            pq.write_table(changed, out / "reversals.parquet", compression="zstd")
            counts["reversals"] = len(changed)
        problems = [read_parquet(pool.folder / "quarantine.parquet") for pool in pools.values()]
        pq.write_table(pa.concat_tables(problems), out / "quarantine.parquet", compression="zstd")
        units = {f"records {at}": (str(path), own, stages) for at, (path, own) in enumerate(targets.items())}
        build.map(copy_records, units, "threads")
        build.counts = _counts(build, request.alarm_share, pools, stages) | counts
        write_json(out / SUMMARY, build.counts)
        write_json(complete, identity)

    there = complete.is_file() and complete.read_text().strip() == f'"{identity}"'
    if not there or not all(path.is_file() for path in [*(out / name for name in TABLES), *targets]):
        for record in (ctx.workspace / "steps" / "results").glob(f"*/{RECORD}"):
            remove(record)
    return step(ctx, "results", VERSION, config, inputs, work)


def record_files(out: Path, shards: Sequence[Shard]) -> dict[Path, list[Shard]]:
    """Where the kept records of each input file go, and the file's shards in order."""
    by_file: dict[tuple[str, str], list[Shard]] = {}
    for shard in shards:
        by_file.setdefault((shard.source, reference_of(shard.pool)[0].path), []).append(shard)
    roots = {
        source: os.path.commonpath(
            [os.path.dirname(os.path.abspath(path)) for name, path in by_file if name == source]
        )
        for source, _ in by_file
    }
    return {
        out / "records" / source / os.path.relpath(os.path.abspath(path), roots[source]): own
        for (source, path), own in by_file.items()
    }


def _counts(build: Build, alarm_share: float, pools: dict[str, StepOutput], stages: list[StepOutput]) -> dict:
    """Documents in and out, in all and by source; an alarm for each source that loses too much over all stages."""
    by_source = {}
    for name, pool in pools.items():
        before = pool.counts["documents_out"]
        lost = {
            stage.name.removeprefix("dedup-"): counts["documents_in"] - counts["documents_out"]
            for stage in stages
            for counts in [stage.counts["by_source"][name]]
        }
        gone = sum(lost.values())
        by_source[name] = {"documents_in": before, "documents_out": before - gone, **lost}
        if gone > alarm_share * before:
            build.alarm(
                f"source '{name}' loses {gone} of {before} documents ({gone / before:.1%}), more than "
                f"{alarm_share:.1%} (--alarm-share): look at the largest clusters"
            )
    total = {key: sum(own[key] for own in by_source.values()) for key in next(iter(by_source.values()))}
    quarantined = sum(pool.counts["quarantined"] for pool in pools.values())
    size = sum(pool.counts["bytes"] for pool in pools.values())
    return {**total, "quarantined": quarantined, "bytes": size, "by_source": by_source}
