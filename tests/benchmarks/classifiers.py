"""Classifiers on real data: speed against fastText's own predict, held-out figures, vigintiles per topic.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.classifiers [--workspace FOLDER]

Speed is measured as `tests.benchmarks.classifier_speed` does. The command fails unless 1 and 2 workers give the
same classes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curation.executor import LocalExecutor
from curation.measure.render import rendered_text
from curation.steps import Context
from flows.line import Line
from flows.pipeline import Pipeline
from tests.benchmarks.classifier_speed import HEADER, PREFIX, TEXTS, compare


def pipeline(root: str) -> Pipeline:
    """Web pages to be scored, what is good, what has a topic, and the labelled tweets."""

    def source(name: str, reader: str, include: str, kind: str = "text", **more) -> dict:
        return {"name": name, "reader": reader, "root": root, "include": [include], "kind": kind, **more}

    tweets = {"options": {"text_key": "tweet"}}
    lines = {"options": {"document": "line"}}
    sections = {"options": {"document": "section", "heading": "^ = [^=].*[^=] = *$"}}
    sources = [
        source("crawl-pages", "warc", "web/crawl-pages-*.warc.gz", profile="dolma3", quality=True),
        source("c4", "records", "text/c4-sample.jsonl.gz", quality=True),
        source("papers", "records", "text/papers-acl.parquet"),
        source("wikipedia", "plain_text", "text/wikipedia-plain.txt.gz", **lines),
        source("wikitext-2", "plain_text", "text/wikitext-2.valid.txt.gz", **sections),
        source("wikipedia-markup", "records", "text/wikipedia-wikitext.jsonl.zst"),
        source("alpaca", "alpaca", "instructions/alpaca_en_demo.json.gz", "chat"),
        source("movie-reviews", "records", "text/movie-reviews.jsonl.zst"),
        source("speeches", "records", "text/speeches-state-union.jsonl.zst"),
        source("rfc", "records", "text/rfc.jsonl.zst"),
        source("tweets", "records", "quality/davidson-labeled_data.csv.gz", **tweets),
    ]
    good = ["wikipedia", "wikitext-2", "wikipedia-markup", "papers", "alpaca"]
    quality = {"positives": good, "negatives": ["crawl-pages", "c4"]}
    classes = {"film": ["movie-reviews"], "politics": ["speeches"], "networks": ["rfc"], "language": ["papers"]}
    names = {"0": "toxic", "1": "toxic", "2": "clean"}
    toxic = {"labels": {"sources": ["tweets"], "key": "metadata.class", "names": names}, "positive": "toxic"}
    scored = ["crawl-pages", "c4"]
    return Pipeline.model_validate(
        {
            "name": "classifiers",
            "sources": sources,
            "tokenizer": {"vocab_size": 2000, "sample_bytes": "2MiB"},
            "classifiers": {
                "quality": {**quality, "holdout": "40%", "epochs": 10},
                "topic": {"classes": classes, "sources": scored, "epochs": 25},
                "toxicity": {**toxic, "sources": ["tweets", *scored], "holdout": "20%", "epochs": 10},
            },
        }
    )


def curate(folder: Path, workers: int) -> Line:
    with LocalExecutor(workers) as executor:
        line = Line(pipeline(os.environ["MIXWRIGHT_DATA"]), {}, folder, Context(folder, executor))
        line.run("curate")
    return line


def classes(line: Line) -> dict[str, str]:
    """The content of every step that classifies or holds its results."""
    prefixes = ("classifier/", "classify/", "catalog/")
    return {one.name: one.content for one in line.context.outputs if one.name.startswith(prefixes)}


def speed(line: Line) -> None:
    texts = []
    for name in ("crawl-pages", "c4", "papers"):
        for path in line.pools[name].shards():
            texts += rendered_text(pq.read_table(path)).to_pylist()
    texts = texts[:TEXTS]
    print(HEADER)
    for output in line.context.outputs:
        if output.name.startswith("classifier/"):
            print(compare(output.name, output.folder / "model.bin", texts, PREFIX, 7, split=True), flush=True)


def figures(line: Line) -> None:
    for output in line.context.outputs:
        if not output.name.startswith("classifier/"):
            continue
        report = json.loads((output.folder / "report.json").read_bytes())
        shown = {key: value for key, value in report.items() if not key.startswith("worst") and key != "account"}
        print(f"\n{output.name}: {json.dumps(shown)}\nexamples: {json.dumps(report['account']['examples'])}")
        for kind in [key for key in report if key.startswith("worst")]:
            for one in report[kind]:
                print(f"  {kind} {one['source']} {one['label']} {one['score']:.3f}: {one['text'][:200]!r}")


def vigintile_table(line: Line) -> None:
    print("\n| source | topic | documents | tokens | vigintiles | tokens of one, from to | scores, from to |")
    print("|---|---|---|---|---|---|---|")
    for source in ("crawl-pages", "c4"):
        table = pq.read_table(line.catalogs[source].folder / "catalog.parquet")
        rows = defaultdict(list)
        for row in table.to_pylist():
            rows[row["topic"]].append(row)
        for topic, found in sorted(rows.items()):
            tokens: dict[int, int] = defaultdict(int)
            for row in found:
                tokens[row["vigintile"]] += row["tokens"]
            scores = np.array([row["quality"] for row in found])
            print(
                f"| {source} | {topic} | {len(found)} | {sum(tokens.values())} | {len(tokens)} "
                f"| {min(tokens.values())}, {max(tokens.values())} | {scores.min():.3f}, {scores.max():.3f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path)
    given = parser.parse_args().workspace
    if not os.environ.get("MIXWRIGHT_DATA"):
        raise SystemExit("set MIXWRIGHT_DATA to the folder of the real data")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given or Path(temporary)
        (folder / "one").mkdir(parents=True, exist_ok=True)
        one, two = curate(folder / "one", 1), curate(folder / "two", 2)
        same = classes(one) == classes(two)
        print(f"1 and 2 workers: {len(classes(one))} steps, {'the same' if same else 'NOT THE SAME'}")
        assert same
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
        speed(one)
        figures(one)
        vigintile_table(one)


if __name__ == "__main__":
    main()
