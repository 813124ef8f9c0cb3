"""The station `rules/<source>`: a profile decides over measurements. No text is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.files import read_parquet, write_parquet
from curation.ledger import write_ledger
from curation.rules.profile import Profile, decisions, failures
from curation.rules.short_circuit import require_whole, was_short
from curation.steps import Context, StepOutput, step

VERSION = 1
STAGE = "rules"
FAILURES = pa.schema([("id", pa.string()), ("row", pa.uint32()), ("rules", pa.list_(pa.string()))])


def decide(context: Context, measured: StepOutput, profile: Profile) -> StepOutput:
    """Apply a profile to the measurements `measure/<source>`; the step `rules/<source>`.

    Writes the ledger (stage "rules", the first failing rule) and, since that one hides the others,
    `failures/<shard>.parquet` with all the rules that each dropped document fails. Counts `dropped` (by first
    rule), `failing` (by rule, whichever is first) and `failing_alone` (documents that this rule alone drops).
    After a short circuit a document has one reason, so that `failing` is `dropped` and `failing_alone` is empty.
    Raises ConfigError for a rule that names no measurement, and for a pool that a short circuit for another
    profile has left without it.
    """
    source = measured.source
    require_whole(profile, measured)
    short = was_short(measured)

    def work(build) -> None:
        units = {shard.stem: (str(shard), source, profile, short) for shard in measured.shards()}
        results = list(build.map(decide_shard, units, "either").values())
        build.counts = {
            name: sum(result[name] for result in results) for name in ("documents_in", "documents_out")
        }
        for name in ("dropped", "failing", "failing_alone"):
            build.counts[name] = {
                rule.name: sum(result[name][place] for result in results)
                for place, rule in enumerate(profile.rules)
            }
        if short:
            build.counts["failing_alone"] = {}

    return step(context, f"rules/{source}", VERSION, profile, {"measured": measured.content}, work)


def decide_shard(
    folder: Path, key: str, shard: str, source: str, profile: Profile, short: bool
) -> dict[str, int | list[int]]:
    """Decide on one shard; returns the counts, those by rule in the profile's order."""
    present = set(pq.read_schema(shard).names)
    wanted = [name for name in profile.measurements if name in present]  # `failures` names the one that is not
    table = read_parquet(shard, list(dict.fromkeys(["id", *wanted])))
    ids = table["id"].combine_chunks()
    failed = failures(profile, table)
    if short:  # of the rules that a document fails only the first is known to be one
        failed &= np.cumsum(failed, axis=1) == 1
    keep, rule, value, threshold = decisions(profile, table, failed)
    write_ledger(
        folder,
        source,
        key,
        stage=STAGE,
        ids=ids,
        rows=np.arange(len(ids)),
        keep=keep,
        rule=rule,
        value=value,
        threshold=threshold,
    )
    write_parquet(folder / "failures" / f"{key}.parquet", _failure_table(profile, ids, failed))
    first = failed & (np.cumsum(failed, axis=1) == 1)
    alone = failed & (failed.sum(axis=1, keepdims=True) == 1)
    return {
        "documents_in": len(ids),
        "documents_out": int(keep.sum()),
        "dropped": first.sum(axis=0).tolist(),
        "failing": failed.sum(axis=0).tolist(),
        "failing_alone": alone.sum(axis=0).tolist(),
    }


def _failure_table(profile: Profile, ids: pa.Array, failed: np.ndarray) -> pa.Table:
    """A row for each document that fails a rule, with all the rules it fails in the profile's order."""
    rows = np.flatnonzero(failed.any(axis=1))
    names = pa.array([rule.name for rule in profile.rules], pa.string())
    offsets = np.concatenate([[0], np.cumsum(failed[rows].sum(axis=1))]).astype(np.int32)
    rules = pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(np.nonzero(failed[rows])[1])))
    return pa.table([ids.take(pa.array(rows)), pa.array(rows, pa.uint32()), rules], schema=FAILURES)
