"""What changed between two mixes, told to a person: the command `diff`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curation.mix.diff import diff
from curation.mix.manifest import Manifest, load_manifest
from curation.mix.reasons import with_reasons
from flows.run import manifest_folder

REASON = ("source", "change", "reason", "documents")


@dataclass(frozen=True)
class Changes:
    """`counts`: a line for each source. `documents`: those that changed, with `reason` where it was asked for."""

    before: Manifest
    after: Manifest
    counts: list[dict[str, Any]]
    documents: list[dict[str, Any]]

    def reasons(self) -> list[tuple[str, str, str, int]]:
        """(source, change, reason, documents), most documents first within a source."""
        keys = ((row["source"], row["change"], row.get("reason", "")) for row in self.documents)
        counted = Counter(key for key in keys if key[2])
        return sorted(((*key, n) for key, n in counted.items()), key=lambda line: (line[0], -line[3], line[1:3]))

    def as_json(self) -> dict[str, Any]:
        return {
            "before": self.before.hash,
            "after": self.after.hash,
            "totals": {"before": self.before.head["totals"], "after": self.after.head["totals"]},
            "sources": self.counts,
            "reasons": [
                dict(zip(("source", "change", "reason", "documents"), line, strict=True))
                for line in self.reasons()
            ],
            "documents": self.documents,
        }


def compare(before: str, after: str, workspace: Path, reasons: bool) -> Changes:
    """Compare two manifests: folders, RUN:MIX, or mixes of the latest run.

    Raises RunNotFoundError for one that there is none of, ManifestError for one that is broken, and HistoryError
    where `reasons` are asked for and the steps behind a manifest are gone.
    """
    old, new = (load_manifest(_folder(name, workspace)) for name in (before, after))
    changes = diff(old, new)
    documents = with_reasons(workspace, old, new, changes) if reasons else changes.documents
    return Changes(old, new, changes.counts, documents.to_pylist())


def _folder(name: str, workspace: Path) -> Path:
    run, colon, mix = name.rpartition(":")
    in_run = colon and (workspace / "runs" / run).is_dir()
    return manifest_folder(mix, workspace, run) if in_run else manifest_folder(name, workspace, None)


def print_changes(changes: Changes, shown: int, console: Console) -> None:
    """A table by source, then the reasons, then the first documents."""
    old, new = changes.before.head, changes.after.head
    console.print(
        Text(f"{old['name']} {changes.before.hash[:16]} → {new['name']} {changes.after.hash[:16]}", "bold")
    )
    if not changes.documents:
        console.print("no document came, went or has another number of copies")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    for column in ("came", "went", "other copies", "same", "tokens"):
        table.add_column(column, justify="right")
    for line in changes.counts:
        numbers = [f"{line[key]:,}" for key in ("came", "went", "copies", "same")]
        table.add_row(Text(line["source"]), *numbers, f"{line['tokens']:+,}")
    console.print(table)
    for source, change, reason, documents in changes.reasons():
        console.print(Text.assemble((f"· {source}: ", "dim"), f"{documents:,} {change}: {reason}"))
    for row in changes.documents[:shown]:
        copies = f"{row['copies_before']} → {row['copies_after']} copies"
        console.print(
            Text(f"  {row['id']}  {row['source']}  {row['change']}, {copies}, {row['tokens']:+,} tokens")
        )
    if len(changes.documents) > shown:
        console.print(Text(f"  and {len(changes.documents) - shown:,} more (--documents N, or --json)", "dim"))
