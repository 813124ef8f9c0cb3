"""Ingest of JSON lines: megabytes of file a second of processor time on one core, and where the time goes.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.ingest [--megabytes 200]

The text is that of `tests.benchmarks.corpus`, as it is and cut into records of 300 characters. One pinned core,
the best of three runs; each line adds a step of the work to the one before, the last is the whole station with its
hashes and files.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from curation.ingest import Source, ingest
from curation.read.admit import admitted
from curation.read.record import Limits, RawFile
from curation.read.rows import json_rows, lines
from curation.read.shapes import TextOptions, records
from curation.steps import Context
from tests.benchmarks.corpus import write_corpus

SHORT = 300  # characters
RUNS = 3


def stages(path: Path, workspace: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    file, limits, options = RawFile(path, path.name, ""), Limits(), TextOptions()

    def rows() -> int:
        found = records(file, limits, options)
        return sum(1 for item in found if admitted("s", "text", file, item, limits.document_bytes))

    def whole() -> None:
        root = tempfile.mkdtemp(dir=workspace)
        ingest(Context(Path(root)), Source(name="s", reader="records", root=str(path.parent)))

    yield "lines", lambda: sum(1 for _ in lines(file, limits))
    yield "parsed", lambda: sum(1 for _ in json_rows(file, limits))
    yield "documents", lambda: sum(1 for _ in records(file, limits, options))
    yield "rows of the pool", rows
    yield "whole station", whole


def seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=200)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_corpus(folder / "raw", arguments.megabytes)
        for name in ("long", "short"):
            (folder / name).mkdir()
        with open(folder / "long/a.jsonl", "w") as long, open(folder / "short/a.jsonl", "w") as short:
            for path in sorted((folder / "raw").rglob("*.jsonl")):
                for line in path.read_text().splitlines(keepends=True):
                    long.write(line)
                    row = json.loads(line)
                    for start in range(0, len(row["text"]), SHORT):
                        short.write(json.dumps(row | {"text": row["text"][start : start + SHORT]}) + "\n")
        table = Table(title="MB of JSON lines a second of processor time, one core")
        for column in ("records", "MB", "bytes a record", "", "seconds", "MB/s"):
            table.add_column(column, justify="right")
        for name in ("long", "short"):
            path = folder / name / "a.jsonl"
            size = path.stat().st_size
            for stage, work in stages(path, folder):
                best = seconds(work)
                count = sum(1 for _ in lines(RawFile(path, "", ""), Limits())) if stage == "lines" else 0
                first = (f"{count:,}", f"{size / 1e6:.0f}", f"{size // count}") if count else ("", "", "")
                table.add_row(*first, stage, f"{best:.2f}", f"{size / 1e6 / best:.0f}")
        Console().print(table)


if __name__ == "__main__":
    main()
