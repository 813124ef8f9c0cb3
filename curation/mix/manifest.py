"""The mix manifest: Parquet parts that name every selected document, and `mix.json` that accounts for them.

A manifest is the hand-off from curation to training. Its hash covers the recipe, the inputs, the account and the
bytes of every part; `verify_manifest` recomputes each number from the parts and trusts nothing that is written.
Both go through the rows once, some at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curation.files import file_hash, json_hash, read_json, write_json, write_parquet
from curation.mix.audit import WORDS, Audit, complete_account, tables_of, totals_of, unique_documents
from curation.schema import require_columns

FORMAT = "mixwright-mix/1"
HEAD = "mix.json"
FOOTER = b"mixwright.mix"  # key of the identity in each part's Parquet footer
PART_ROWS = 1 << 20
WRITERS = 2  # parts that are compressed at once

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

# What `write_manifest` is told (identity), and what it adds to `mix.json`.
IDENTITY = ("kind", "name", "recipe", "seed", "tokenizer_hash", "pools", "catalogs", "parents", "sequence_length")
ADDED = ("format", "recipe_hash", "code_version", "account", "totals", "parts", "hash")
# An account line: what planning says of it, then what the rows say of it.
PLANNED = ("source", "type", "bucket", "pool_documents", "pool_tokens", "target_tokens", "note")


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
    """Write the parts and `mix.json` of rows in any order, with the columns of MANIFEST. See `write_sorted`."""
    require_columns(rows, MANIFEST, f"rows of manifest '{head.get('name')}'")
    frame = pl.from_arrow(rows.select(MANIFEST.names)).sort(SORTED_BY)
    return write_sorted(folder, [frame.to_arrow().cast(MANIFEST)], head)


def write_sorted(folder: Path, tables: Iterable[pa.Table], head: dict[str, Any]) -> dict[str, Any]:
    """Write the parts and `mix.json`; return the complete head.

    `tables` are of schema MANIFEST, their rows in the order of SORTED_BY throughout. `head` has the keys of
    IDENTITY (`sequence_length` may be left out: then a fragment is an occurrence) and may have `account`: a list
    of lines, one for each (source, bucket), with the keys of PLANNED; without it the lines are made from the
    rows, with no pool and no target. The counts are taken from the rows; a line that brings its own must agree.
    Raises ValueError.
    """
    folder = Path(folder)
    head = {"sequence_length": None, **head}
    unknown, missing = sorted(set(head) - {*IDENTITY, "account"}), sorted(set(IDENTITY) - set(head))
    if unknown or missing:
        raise ValueError(f"manifest head: missing keys {missing}, unknown keys {unknown}")
    identity = {
        "format": FORMAT,
        **{key: head[key] for key in IDENTITY},
        "recipe_hash": text_hash(head["recipe"]),
        "code_version": f"mixwright {version('mixwright')}",
    }
    for stale in sorted(folder.glob("part-*.parquet")):
        stale.unlink()
    audit, parts = Audit(head["sequence_length"]), {}
    with ThreadPoolExecutor(WRITERS) as pool:
        waiting: deque = deque()
        for number, part in enumerate(_parts(tables)):
            audit.add(part)
            waiting.append(pool.submit(_write_part, folder, number, part, identity))
            if len(waiting) > WRITERS:
                parts |= waiting.popleft().result()
        for written in waiting:
            parts |= written.result()
    if not audit.sorted:
        raise ValueError(f"rows of manifest '{head['name']}': not sorted by {', '.join(SORTED_BY)}")
    account = complete_account(audit.lines, head.get("account"), PLANNED)
    totals = totals_of(audit.lines, unique_documents(folder, list(parts), audit.rows))
    whole = {**identity, "account": account, "totals": totals, "parts": parts}
    whole["hash"] = json_hash(whole)
    write_json(folder / HEAD, whole)
    return whole


def _parts(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows in tables of PART_ROWS; one of no rows where there are none."""
    held: list[pa.Table] = []
    rows, none = 0, True
    for table in tables:
        held.append(table)
        rows += len(table)
        while rows >= PART_ROWS:
            whole = pa.concat_tables(held)
            yield whole.slice(0, PART_ROWS)
            held, rows, none = [whole.slice(PART_ROWS)], rows - PART_ROWS, False
    if rows or none:
        yield pa.concat_tables([MANIFEST.empty_table(), *held])


def _write_part(folder: Path, number: int, part: pa.Table, identity: dict[str, Any]) -> dict[str, dict[str, Any]]:
    name = f"part-{number:05d}.parquet"
    part = part.combine_chunks().replace_schema_metadata({FOOTER: _footer(identity)})
    write_parquet(folder / name, part, dictionary=WORDS)
    return {name: {"rows": len(part), "hash": file_hash(folder / name)}}


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
        problems += _verify_rows(folder, head)
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


def _verify_rows(folder: Path, head: dict[str, Any]) -> list[str]:
    problems = []
    audit, parts = Audit(head["sequence_length"]), sorted(head["parts"])
    try:
        for table in tables_of(folder, parts):
            audit.add(table)
        if not audit.sorted:
            problems.append(f"rows: not sorted by {', '.join(SORTED_BY)}")
        found = totals_of(audit.lines, unique_documents(folder, parts, audit.rows))
        if found != head["totals"]:
            problems.append(f"totals: the rows have {found}, {HEAD} says {head['totals']}")
        complete_account(audit.lines, head["account"], PLANNED)
    except ValueError as error:
        problems.append(str(error))
    except (KeyError, TypeError) as error:
        problems.append(f"{HEAD}: the account is not a list of lines with the keys of one: {error!r}")
    return problems


def text_hash(text: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _footer(identity: dict[str, Any]) -> bytes:
    return json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()
