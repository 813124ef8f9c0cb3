"""Peak memory of ingest, measuring and rules over growing amounts of text: bounded by workers, not by the data.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.memory [--megabytes 500 2000 5000] [--workers 2]
        [--shard-megabytes 16] [--folder DIR]

The text is that of `tests.benchmarks.corpus`: real documents cut up and put together anew, as JSONL. For each size
a process of its own runs the three stations; the resident memory of it and of all its children is added up ten
times a second (pages that they share count once for each), and the highest sum of each station is told. The
processes that ingest has started stay, and count, until the end. What memory does depend on is held fast: shards
are of the same size whatever the pool's (left alone they are the larger the larger a file is), and the kernels are
compiled before, by a run over WARM megabytes: a process that compiles them keeps 600 MiB of that to its end. DIR
needs about 1.6 times the largest size on disk. The command fails if the peak at the largest size is over 1.25
times that at the smallest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from curation.executor import LocalExecutor
from curation.ingest import Source, ingest
from curation.measure.station import Measure, measure
from curation.rules.decide import decide
from curation.rules.profile import load_profile
from curation.steps import Context

STATIONS = ("ingest", "measure", "rules")
WARM = 2
ALLOWED = 1.25  # the largest peak to the smallest: noise of allocators, not growth


def stations(root: str, workspace: str, workers: int, profile: str, shard_bytes: int) -> None:
    """Run the stations; a line of JSON on standard output as each begins, and one at the end."""

    def say(**values) -> None:
        print(json.dumps(values), flush=True)

    rules = load_profile(profile)
    with LocalExecutor(workers) as executor:
        context = Context(Path(workspace), executor)
        say(station="ingest")
        source = Source(name="text", reader="records", root=root, include=["**/*.jsonl"], shard_bytes=shard_bytes)
        pool = ingest(context, source)
        say(station="measure")
        measured = measure(context, pool, Measure(), rules.edits, Path(), rules)
        say(station="rules")
        decided = decide(context, measured, rules)
    say(station="end", text=pool.counts["bytes_text"], shards=len(pool.shards()), **_counts(pool, decided))


def _counts(pool, decided) -> dict[str, int]:
    return {"documents": pool.counts["documents_out"], "kept": decided.counts["documents_out"]}


def watched(root: Path, workspace: Path, workers: int, profile: str, shard_bytes: int) -> dict:
    """Run the stations in a process and sample its memory: by station the peak in bytes and the seconds."""
    code = (
        "import sys\n"
        "from tests.benchmarks.memory import stations\n"
        "if __name__ == '__main__':\n"
        "    stations(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))\n"
    )
    script = workspace.parent / "stations.py"
    script.write_text(code)
    command = [sys.executable, *map(str, (script, root, workspace, workers, profile, shard_bytes))]
    said = workspace.parent / "said"
    peaks, seconds = dict.fromkeys(STATIONS, 0), dict.fromkeys(STATIONS, 0.0)
    repository = Path(__file__).parents[2]
    with open(said, "w") as out, psutil.Popen(command, stdout=out, cwd=repository, env=_environment()) as process:
        before = time.monotonic()
        while process.poll() is None:
            station = _latest(said).get("station")
            resident = _resident(process)
            now = time.monotonic()
            if station in peaks:
                peaks[station] = max(peaks[station], resident)
                seconds[station] += now - before
            before = now
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"the stations failed with exit code {process.returncode}")
    return {"peaks": peaks, "seconds": seconds, **_latest(said)}


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def _latest(said: Path) -> dict:
    lines = said.read_text().splitlines()
    return json.loads(lines[-1]) if lines else {}


def _resident(process: psutil.Process) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[500, 2000, 5000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-megabytes", type=int, default=16, help="text of a shard")
    parser.add_argument("--profile", default="dolma3")
    parser.add_argument("--folder", type=Path, help="where to put the texts and the workspace; default: temporary")
    arguments = parser.parse_args()
    shard_bytes = arguments.shard_megabytes * 10**6
    title = f"{arguments.workers} workers, shards of {arguments.shard_megabytes} MB, profile {arguments.profile}"
    table = Table(title=f"{title}: peak resident memory, MiB")
    for column in ("text, MB", "documents", "kept", "shards", *STATIONS, *(f"{name}, s" for name in STATIONS)):
        table.add_column(column, justify="right")
    highest = []
    for megabytes in (WARM, *sorted(arguments.megabytes)):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
            raw, workspace = Path(scratch) / "raw", Path(scratch) / "workspace"
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.corpus", str(raw), "--megabytes", str(megabytes)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            found = watched(raw, workspace, arguments.workers, arguments.profile, shard_bytes)
        if megabytes == WARM:
            continue
        highest.append(max(found["peaks"].values()))
        table.add_row(
            f"{found['text'] / 1e6:.0f}",
            *(f"{found[name]:,}" for name in ("documents", "kept", "shards")),
            *(f"{peak >> 20}" for peak in found["peaks"].values()),
            *(f"{one:.1f}" for one in found["seconds"].values()),
        )
        Console(width=120).print(table)
    ratio = highest[-1] / highest[0]
    Console(width=120).print(f"largest to smallest size: {ratio:.2f} times the peak")
    if ratio > ALLOWED:
        sys.exit(f"the peak grows with the data: {ratio:.2f} times, expected at most {ALLOWED}")


if __name__ == "__main__":
    main()
