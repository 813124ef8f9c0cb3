"""The mix manifest: Parquet parts that name every selected document, and `mix.json` that accounts for them.

A manifest is the hand-off from curation to training. Its hash covers the recipe, the inputs, the account and the
bytes of every part; `verify_manifest` recomputes each number from the parts and trusts nothing that is written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curation.files import file_hash, json_hash, read_json, write_json, write_parquet
from curation.schema import require_columns

FORMAT = "mixwright-mix/1"
HEAD = "mix.json"
FOOTER = b"mixwright.mix"  # key of the identity in each part's Parquet footer
PART_ROWS = 1 << 20

MANIFEST = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("bucket", pa.string()),  # q01 to q20, length bucket, all: after the line's topics and /; mix:<parent>
        ("shard", pa.string()),  # shard of the source's pool
        ("row", pa.uint32()),  # row of the shard
        ("tokens", pa.uint32()),  # of one copy, under the row's transform
        ("copies", pa.uint16()),
        ("transform", pa.string()),  # none, chat, chat_plain, pair; curation.chat.CUT; "fim rate=0.5 spm=0.5"
        ("order", pa.uint64()),  # place of the first copy in the global order
    ]
)
SORTED_BY = ["source", "bucket", "id", "shard", "row"]
DOCUMENT_KEY = ["source", "id", "shard", "row", "transform"]  # one row at most for each

# What `write_manifest` is told (identity), and what it adds to `mix.json`.
IDENTITY = ("kind", "name", "recipe", "seed", "tokenizer_hash", "pools", "catalogs", "parents", "sequence_length")
ADDED = ("format", "recipe_hash", "code_version", "account", "totals", "parts", "hash")
# An account line: what planning says of it, then what the rows say of it.
PLANNED = ("source", "type", "bucket", "pool_documents", "pool_tokens", "target_tokens", "note")
COUNTED = ("documents", "occurrences", "fragments", "tokens", "share", "repeats", "error_tokens")


class ManifestError(Exception):
    """A manifest is missing, incomplete or not what it says it is."""


@dataclass(frozen=True)
class Manifest:
    """A manifest on disk. `head` is its `mix.json`."""

    folder: Path
    head: dict[str, Any]

    @property
    def hash(self) -> str:
        """Hash over everything in the manifest, 64 hex digits: what a checkpoint records."""
        return self.head["hash"]

    def rows(self) -> pa.Table:
        """All rows, of schema MANIFEST, sorted by source, bucket, id, shard, row."""
        parts = [pq.read_table(self.folder / name, partitioning=None) for name in sorted(self.head["parts"])]
        return pa.concat_tables(part.replace_schema_metadata(None) for part in parts)


def load_manifest(folder: Path) -> Manifest:
    """Open a manifest without checking it. Raises ManifestError where there is none."""
    path = Path(folder) / HEAD
    try:
        head = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(f"{folder}: no manifest here, it has no {HEAD}") from None
    except ValueError as error:
        raise ManifestError(f"{path}: not JSON: {error}; build the mix again") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        found = head.get("format") if isinstance(head, dict) else type(head).__name__
        raise ManifestError(f"{path}: format is {found!r}, expected {FORMAT!r}")
    if missing := sorted({*IDENTITY, *ADDED} - set(head)):
        raise ManifestError(f"{path}: keys are missing: {', '.join(missing)}")
    return Manifest(Path(folder), head)


def write_manifest(folder: Path, rows: pa.Table, head: dict[str, Any]) -> dict[str, Any]:
    """Write the parts and `mix.json`; return the complete head.

    `rows` has the columns of MANIFEST in any row order. `head` has the keys of IDENTITY (`sequence_length` may be
    left out: then a fragment is an occurrence) and may have `account`: a list of lines, one for each (source,
    bucket), with the keys of PLANNED; without it the lines are made from the rows, with no pool and no target.
    The counts are taken from the rows; a line that brings its own must agree. Raises ValueError.
    """
    folder = Path(folder)
    require_columns(rows, MANIFEST, f"rows of manifest '{head.get('name')}'")
    head = {"sequence_length": None, **head}
    unknown, missing = sorted(set(head) - {*IDENTITY, "account"}), sorted(set(IDENTITY) - set(head))
    if unknown or missing:
        raise ValueError(f"manifest head: missing keys {missing}, unknown keys {unknown}")
    frame = pl.from_arrow(rows.select(MANIFEST.names)).sort(SORTED_BY)
    _require_sound(frame)
    identity = {
        "format": FORMAT,
        **{key: head[key] for key in IDENTITY},
        "recipe_hash": text_hash(head["recipe"]),
        "code_version": f"mixwright {version('mixwright')}",
    }
    account = complete_account(frame, head.get("account"), head["sequence_length"])
    table = frame.to_arrow().cast(MANIFEST).replace_schema_metadata({FOOTER: _footer(identity)})
    for stale in sorted(folder.glob("part-*.parquet")):
        stale.unlink()
    parts = {}
    for number, start in enumerate(range(0, max(1, len(table)), PART_ROWS)):
        name, part = f"part-{number:05d}.parquet", table.slice(start, PART_ROWS)
        write_parquet(folder / name, part)
        parts[name] = {"rows": len(part), "hash": file_hash(folder / name)}
    whole = {**identity, "account": account, "totals": totals(frame, head["sequence_length"]), "parts": parts}
    whole["hash"] = json_hash(whole)
    write_json(folder / HEAD, whole)
    return whole


def complete_account(
    rows: pl.DataFrame, lines: list[dict[str, Any]] | None, sequence_length: int | None
) -> list[dict[str, Any]]:
    """The account lines with every count taken from the rows.

    Raises ValueError for a (source, bucket) that no line or two lines stand for, and for a line whose own counts
    differ from the rows'.
    """
    counted = counts_by_line(rows, sequence_length)
    if lines is None:
        lines = [{"source": source, "bucket": bucket} for source, bucket in counted]
    keys = [(line["source"], line["bucket"]) for line in lines]
    if len(set(keys)) < len(keys) or not set(counted) <= set(keys):
        raise ValueError(
            f"account: one line for each (source, bucket) is needed; lines {keys}, rows {sorted(counted)}"
        )
    everything = sum(line["tokens"] for line in counted.values())
    result = []
    for line in lines:
        planned = {key: line.get(key, "" if key in ("type", "note") else None) for key in PLANNED}
        count = counted.get((line["source"], line["bucket"]), {})
        full = planned | account_counts(planned, count, everything)
        for key in COUNTED:
            if key in line and line[key] != full[key]:
                where = f"account line {line['source']}/{line['bucket']}"
                raise ValueError(f"{where}: {key} is {line[key]}, the rows say {full[key]}")
        result.append(full)
    return result


def account_counts(planned: dict[str, Any], count: dict[str, int], everything: int) -> dict[str, Any]:
    """The COUNTED part of a line. `count` has documents, occurrences, fragments, tokens; `everything` is the
    tokens of the whole mix. `repeats` is tokens over the pool's tokens; null without a pool, as is the error
    without a target.
    """
    pool, target = planned["pool_tokens"], planned["target_tokens"]
    tokens = count.get("tokens", 0)
    return {
        **{key: count.get(key, 0) for key in ("documents", "occurrences", "fragments", "tokens")},
        "share": tokens / everything if everything else 0.0,
        "repeats": tokens / pool if pool else None,
        "error_tokens": None if target is None else tokens - target,
    }


def totals(rows: pl.DataFrame, sequence_length: int | None) -> dict[str, int]:
    """Unique documents, occurrences (with copies), fragments (occurrences cut at the sequence length), tokens."""
    return rows.select(unique_documents=pl.col("id").n_unique(), **_sums(sequence_length)).row(0, named=True)


def counts_by_line(rows: pl.DataFrame, sequence_length: int | None) -> dict[tuple[str, str], dict[str, int]]:
    """Documents, occurrences, fragments and tokens of each (source, bucket), sorted."""
    grouped = rows.group_by("source", "bucket").agg(documents=pl.col("id").n_unique(), **_sums(sequence_length))
    return {
        (line.pop("source"), line.pop("bucket")): line
        for line in grouped.sort("source", "bucket").iter_rows(named=True)
    }


def _sums(sequence_length: int | None) -> dict[str, pl.Expr]:
    copies, tokens = pl.col("copies").cast(pl.Int64), pl.col("tokens").cast(pl.Int64)
    pieces = (tokens + sequence_length - 1) // sequence_length if sequence_length else pl.lit(1, pl.Int64)
    return {
        "occurrences": copies.sum(),
        "fragments": (copies * pieces).sum(),
        "tokens": (copies * tokens).sum(),
    }


def verify_manifest(folder: Path) -> list[str]:
    """What is wrong with a manifest, a sentence each; an empty list means that every number is as written.

    Recomputed from the parts: their hashes and row counts, order and uniqueness of rows, the account, the totals;
    from the head: the recipe's hash and the hash over all. Raises ManifestError where there is no manifest.
    """
    manifest = load_manifest(folder)
    head, folder = manifest.head, manifest.folder
    problems = []
    whole = {key: value for key, value in head.items() if key != "hash"}
    if (found := json_hash(whole)) != head["hash"]:
        problems.append(f"{HEAD}: hash is {head.get('hash')}, its content has {found}")
    if (found := text_hash(head["recipe"])) != head["recipe_hash"]:
        problems.append(f"{HEAD}: recipe_hash is {head.get('recipe_hash')}, the recipe's text has {found}")
    problems += _verify_parts(folder, head)
    if all(problem.startswith(HEAD) for problem in problems):
        problems += _verify_rows(pl.from_arrow(manifest.rows()), head)
    return problems


def require_verified(folder: Path) -> Manifest:
    """The manifest in `folder`. Raises ManifestError with every problem that `verify_manifest` finds."""
    problems = verify_manifest(folder)
    if problems:
        raise ManifestError("\n".join([f"{folder}: the manifest does not verify; build the mix again", *problems]))
    return load_manifest(folder)


def _verify_parts(folder: Path, head: dict[str, Any]) -> list[str]:
    problems = []
    parts = head["parts"]
    there = {path.name for path in folder.glob("part-*.parquet")}
    problems += [f"{name}: listed in {HEAD}, but not there" for name in sorted(set(parts) - there)]
    problems += [f"{name}: there, but not listed in {HEAD}" for name in sorted(there - set(parts))]
    identity = {key: head[key] for key in ("format", *IDENTITY, "recipe_hash", "code_version")}
    for name in sorted(set(parts) & there):
        if (found := file_hash(folder / name)) != parts[name]["hash"]:
            problems.append(f"{name}: hash is {found}, {HEAD} says {parts[name]['hash']}")
            continue
        footer = pq.read_metadata(folder / name)
        if footer.num_rows != parts[name]["rows"]:
            problems.append(f"{name}: {footer.num_rows} rows, {HEAD} says {parts[name]['rows']}")
        if (footer.metadata or {}).get(FOOTER) != _footer(identity):
            problems.append(f"{name}: its footer and {HEAD} do not name the same recipe and inputs")
        if not pq.read_schema(folder / name).equals(MANIFEST):
            problems.append(f"{name}: its columns are not those of a manifest")
    return problems


def _verify_rows(rows: pl.DataFrame, head: dict[str, Any]) -> list[str]:
    problems = []
    if not rows.select(SORTED_BY).equals(rows.select(SORTED_BY).sort(SORTED_BY)):
        problems.append(f"rows: not sorted by {', '.join(SORTED_BY)}")
    try:
        _require_sound(rows)
        complete_account(rows, head["account"], head["sequence_length"])
    except ValueError as error:
        problems.append(str(error))
    except (KeyError, TypeError) as error:
        problems.append(f"{HEAD}: the account is not a list of lines with the keys of one: {error!r}")
    if (found := totals(rows, head["sequence_length"])) != head["totals"]:
        problems.append(f"totals: the rows have {found}, {HEAD} says {head['totals']}")
    return problems


def _require_sound(rows: pl.DataFrame) -> None:
    """Raise ValueError for a null, a row of no tokens or no copies, and a document on two rows."""
    nulls = [name for name, count in rows.null_count().row(0, named=True).items() if count]
    if nulls:
        raise ValueError(f"rows: null in {', '.join(nulls)}")
    empty = rows.filter((pl.col("tokens") == 0) | (pl.col("copies") == 0))
    if len(empty):
        raise ValueError(f"rows: {len(empty)} have no tokens or no copies, the first is {empty['id'][0]}")
    twice = rows.filter(pl.struct(DOCUMENT_KEY).is_duplicated())
    if len(twice):
        raise ValueError(f"rows: {len(twice)} rows name a document twice, the first is {twice['id'][0]}")


def text_hash(text: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _footer(identity: dict[str, Any]) -> bytes:
    return json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()
