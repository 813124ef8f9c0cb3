"""Extraction of web pages: our whole ingest of WARC files against trafilatura on the same pages, one core each.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.extraction [--pages 3000] [--runs 3]

The pages are those of web/*.warc.gz. Ours is the ingest of a WARC file as a pipeline runs it: decompression, HTTP,
character sets, main text, title, date, ids, Parquet; both processes of it are counted, pinned to one core.
trafilatura is called in its own environment (`make benchmark-peers` builds it) on the same HTML in memory, read
before the clock starts: as it comes (text alone), in its fast mode, with the settings of datatrove's Trafilatura
extractor, and with its metadata (title and date, which ours always gives). Megabytes are of HTML, a second of
processor time; the sides take turns, and the best run of each counts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from fastwarc.warc import ArchiveIterator
from rich.console import Console
from rich.table import Table

from curation.ingest import Source, ingest
from curation.steps import Context

PEERS = Path(__file__).parents[2] / ".peers" / "trafilatura" / "bin" / "python"
WAYS = {
    "trafilatura": {},
    "trafilatura, fast": {"fast": True},
    "trafilatura, as datatrove calls it": {
        "favor_precision": True,
        "include_comments": False,
        "deduplicate": True,
    },
    "trafilatura, with metadata": {"with_metadata": True},
}
# Run by the peer's interpreter: no import of ours. A page: 4 bytes of length, then its bytes.
PEER = """
import json, logging, os, struct, sys, time, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
import trafilatura
pages, ways = [], json.loads(sys.argv[2])
with open(sys.argv[1], "rb") as file:
    while size := file.read(4):
        pages.append(file.read(struct.unpack("<I", size)[0]))
found = {}
for name, options in ways.items():
    trafilatura.extract(pages[0], **options)
    start = time.process_time()
    texts = [trafilatura.extract(page, **options) for page in pages]
    found[name] = [time.process_time() - start, sum(map(bool, texts)), sum(len(text or "") for text in texts)]
print(json.dumps({"version": trafilatura.__version__, "ways": found}))
"""
OURS = """
import os, sys
from tests.benchmarks.extraction import ours
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
ours(sys.argv[1], sys.argv[2])
"""


def pages(limit: int) -> tuple[list[bytes], bytes]:
    """HTML pages of the real archives, as many of each file in turn, and a WARC file of those records alone."""
    folder = Path(os.environ["MIXWRIGHT_DATA"]) / "web"
    found, records = [], []
    for path in sorted(folder.glob("*.warc.gz")):
        with open(path, "rb") as stream:
            kept = 0
            for record in ArchiveIterator(stream, parse_http=False):
                record.freeze()
                body = record.reader.read()
                head, _, html = body.partition(b"\r\n\r\n")
                if not head.startswith(b"HTTP/") or b"text/html" not in head:
                    continue
                names = b"".join(b"%s: %s\r\n" % (k.encode(), v.encode()) for k, v in record.headers)
                records.append(gzip.compress(b"WARC/1.0\r\n" + names + b"\r\n" + body + b"\r\n\r\n", 6, mtime=0))
                found.append(html)
                kept += 1
                if kept == limit // 3:
                    break
    return found, b"".join(records)


def ours(root: str, workspace: str) -> None:
    """Ingest the folder and print what it took: processor seconds of this process and its helper."""
    warm = Path(root) / "warm"
    for number, folder in enumerate((warm, Path(root) / "in")):
        if number:
            before = _seconds()
        source = Source(name="s", reader="warc", root=str(folder))
        output = ingest(Context(Path(workspace) / folder.name), source)
    print(json.dumps([_seconds() - before, output.counts["documents_out"], output.counts["bytes_text"]]))


def _seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pages", type=int, default=3000, help="a third of them of each archive at most")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--python", type=Path, default=PEERS, help="interpreter that has trafilatura")
    arguments = parser.parse_args()
    if "MIXWRIGHT_DATA" not in os.environ:
        sys.exit("MIXWRIGHT_DATA does not name the folder of real data")
    if not arguments.python.exists():
        sys.exit(f"{arguments.python} is missing; `make benchmark-peers` builds it")
    found, archive = pages(arguments.pages)
    size = sum(map(len, found)) / 1e6
    best: dict[str, list] = {}
    version = ""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, data in (("in", archive), ("warm", gzip.compress(gzip.decompress(archive)[:50_000]))):
            (folder / name).mkdir()
            (folder / name / "pages.warc.gz").write_bytes(data)
        listing = folder / "pages"
        listing.write_bytes(b"".join(len(page).to_bytes(4, "little") + page for page in found))
        for run in range(arguments.runs):
            got = {"mixwright, whole ingest": _call(sys.executable, OURS, str(folder), str(folder / f"ws-{run}"))}
            peer = _call(str(arguments.python), PEER, str(listing), json.dumps(WAYS))
            version, got = peer["version"], got | peer["ways"]
            for name, figures in got.items():
                best[name] = min(best.get(name, figures), figures)
    _print(best, size, len(found), version)


def _call(python: str, code: str, *arguments: str):
    done = subprocess.run([python, "-c", code, *arguments], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _print(best: dict[str, list], size: float, count: int, version: str) -> None:
    first = next(iter(best.values()))[0]
    table = Table(title=f"{count} pages, {size:.1f} MB of HTML; trafilatura {version}; one core, processor time")
    for column in ("", "seconds", "MB/s", "pages/s", "texts", "MB of text", "times faster"):
        table.add_column(column, justify="left" if not column else "right")
    for name, (seconds, texts, length) in best.items():
        rates = (f"{seconds:.2f}", f"{size / seconds:.1f}", f"{count / seconds:.0f}")
        table.add_row(name, *rates, str(texts), f"{length / 1e6:.2f}", f"{seconds / first:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
