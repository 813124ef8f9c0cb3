"""Decontamination measured: megabytes a second on one core, planted items found, hits in the instruction sources.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.decontaminate speed
    MIXWRIGHT_DATA=... python -m tests.benchmarks.decontaminate planted
    MIXWRIGHT_DATA=... python -m tests.benchmarks.decontaminate report -w WORKSPACE [--min-words 10]

All take the evaluation sets of manifests/real/pipeline.yaml. `speed` is processor time of scanning texts that
are in memory, best of three. `planted` hides every item in real prose, each in another document, and counts those
found, and the documents of the same prose without any. `report` reads the instruction and preference sources of
that pipeline and prints each match; the training questions of GSM8K are an evaluation set more, which another
source is known to hold: flan-cot.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curation.config import load_config
from curation.decontaminate.benchmarks import Benchmark, Item, raw_files, read_items
from curation.decontaminate.detect import DeconScanner
from curation.decontaminate.index import decon_index, memory, share_index
from curation.decontaminate.settings import Decon, Decontaminate, NgramShare
from curation.decontaminate.share import ShareScanner
from curation.decontaminate.station import decontaminate
from curation.ingest import ingest
from curation.steps import Context
from flows.pipeline import Pipeline
from tests.benchmarks.kernels import corpora, machine, megabytes, speed
from tests.curation.decontamination import inserted, recased, repunctuated

PIPELINE = Path(__file__).parents[2] / "manifests/real/pipeline.yaml"
METHODS = {"decon": (decon_index, DeconScanner, Decon()), "ngram_share": (share_index, ShareScanner, NgramShare())}
HIDE = {
    "verbatim": lambda item, _: f"{item.prompt}\n{item.answer}",
    "re-cased": lambda item, chance: recased(f"{item.prompt}\n{item.answer}", chance),
    "re-punctuated": lambda item, chance: repunctuated(f"{item.prompt}\n{item.answer}", chance),
    "a word put in every 30 or so": lambda item, chance: inserted(f"{item.prompt}\n{item.answer}", chance, 30),
    "a word put in every 15 or so": lambda item, chance: inserted(f"{item.prompt}\n{item.answer}", chance, 15),
    "question only": lambda item, _: item.prompt,
    "answer only": lambda item, _: item.answer,
}


def items_of(benchmarks: list[Benchmark], workspace: Path) -> list[Item]:
    context = Context(workspace)
    return [item for one in benchmarks for item in read_items(one, raw_files(context, one))[0]]


def measure_speed(items: list[Item], size: int, console: Console) -> None:
    table = Table(title="MB/s on one core", caption=machine())
    table.add_column("")
    kinds = {kind: texts for kind, texts in corpora(size).items() if texts}
    for kind, texts in kinds.items():
        table.add_column(f"{kind}\n{len(texts)} documents, {megabytes(texts):.1f} MB", justify="right")
    for method, (make, scanner, settings) in METHODS.items():
        index, kept, _ = make(items, settings)
        cells = []
        for texts in kinds.values():
            one, array = scanner(index, settings), pa.array(texts, pa.large_string())
            list(one.scan(array.slice(0, 1)))
            cells.append(f"{speed(lambda one=one, array=array: list(one.scan(array)), megabytes(texts)):.1f}")
        table.add_row(f"{method}: {len(kept)} items, index {memory(index) / 1e6:.1f} MB", *cells)
    console.print(table)


def measure_planted(items: list[Item], size: int, console: Console) -> None:
    """Item n goes between the halves of document n of the prose, cut to 3,000 characters each."""
    prose = [text for text in corpora(size)["prose"] if len(text) > 6000]
    for method, (make, scanner, settings) in METHODS.items():
        index, kept, _ = make(items, settings)
        one = scanner(index, settings)
        clean = [text[start : start + 6000] for text in prose for start in range(0, len(text) - 6000, 6000)]
        false = {match.row for match in one.scan(pa.array(clean, pa.large_string()))}
        compared = range(len(kept)) if method == "decon" else sorted(set(index.items[index.totals > 0].tolist()))
        names = sorted({item.benchmark for item in kept})
        table = Table("hidden", *names, title=f"{method}: planted items found")
        for how, hide in HIDE.items():
            chance = random.Random(1)
            texts = [prose[number % len(prose)] for number in range(len(kept))]
            hidden = [
                f"{text[:3000]}\n\n{hide(item, chance)}\n\n{text[3000:6000]}"
                for item, text in zip(kept, texts, strict=True)
            ]
            found = {
                match.row for match in one.scan(pa.array(hidden, pa.large_string())) if match.row == match.item
            }
            cells = []
            for name in names:
                own = [number for number in compared if kept[number].benchmark == name]
                cells.append(f"{sum(number in found for number in own) / len(own):.1%}")
            table.add_row(how, *cells)
        console.print(table)
        console.print(f"{method}: {len(false)} of {len(clean)} documents without an item are hit")


def report(benchmarks: list[Benchmark], workspace: Path, min_words: int, console: Console) -> None:
    """Both methods over the chat and pairs sources of the pipeline, each match printed."""
    context = Context(workspace)
    sources = [source for source in load_config(PIPELINE, Pipeline).sources if source.kind != "text"]
    pools = {source.name: ingest(context, source) for source in sources}
    root = f"{os.environ['MIXWRIGHT_DATA']}/instructions/gsm8k"
    keys = {"question": "question", "answer": "answer"}
    gsm8k = Benchmark(name="gsm8k-train", root=root, include=["train.jsonl.gz"], **keys)
    runs = [("evaluation sets", benchmarks, {}), ("GSM8K", [gsm8k], {"gsm8k": "none"})]
    for method in METHODS:
        for title, sets, left_out in runs:
            settings = {method: {"min_words": min_words}} if min_words else {}
            config = Decontaminate(benchmarks=sets, method=method, by_source=left_out, **settings)
            output = decontaminate(context, pools, pools, [], config)
            rows = pq.read_table(output.folder / "matches.parquet").to_pylist()
            table = Table(
                "benchmark", "items", "compared", "items hit", "documents hit", title=f"{title}: {method}"
            )
            for name, counts in output.counts["by_benchmark"].items():
                cells = counts["items"], counts[method]["compared"], counts["items_hit"], counts["documents_hit"]
                table.add_row(name, *(f"{cell:,}" for cell in cells))
            console.print(table)
            hits = {name: one["documents_hit"] for name, one in output.counts["by_source"].items()}
            console.print(f"documents looked at: {output.counts['documents_in']:,}; hit: {_nonzero(hits)}")
            for row in sorted(rows, key=lambda row: row["score"])[:: max(1, len(rows) // 12)]:
                head = f"{row['source']} row {row['row']}, {row['benchmark']} {row['item']}: {row['score']:.3f}"
                console.print(f"[bold]{escape(head)}[/] (threshold {row['threshold']:.3f})")
                console.print(f"  document: {escape(repr(row['text'][:300]))}", soft_wrap=True)
                console.print(f"  item:     {escape(repr(row['item_text'][:300]))}", soft_wrap=True)


def _nonzero(hits: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in hits.items() if number}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "planted", "report"])
    parser.add_argument("-w", "--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--megabytes", type=float, default=24, help="text of each kind")
    parser.add_argument("--min-words", type=int, default=0, help="of an item, in the report; 0: each method's own")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    console = Console(width=160)
    settings = load_config(PIPELINE, Pipeline).decontaminate
    if settings is None:
        raise SystemExit(f"{PIPELINE} names no evaluation sets")
    if options.what == "report":
        report(settings.benchmarks, options.workspace, options.min_words, console)
        return 0
    items = items_of(settings.benchmarks, options.workspace)
    measure = measure_speed if options.what == "speed" else measure_planted
    measure(items, int(options.megabytes * 1e6), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
