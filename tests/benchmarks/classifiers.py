"""Classifiers on real data: speed against fastText's own predict, held-out figures, vigintiles per topic.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.classifiers [--workspace FOLDER]

Speed is processor time on one pinned core, the best of five runs of each, alternating, each after a run of its own
that is not timed; the library is taken at the better of its two public ways (`predict` of one text, `predict` of
a list). What the kernel keeps of words it has seen is emptied before each of its runs. The command fails unless
labels are equal (but where the library's two best lie within 1e-5), scores lie within 1e-4, and 1 and 2 workers
give the same classes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.classify.prepare import prepared, prepared_texts
from curation.executor import LocalExecutor
from curation.measure.fasttext_kernel import predict
from curation.measure.fasttext_model import read_model
from curation.measure.language import language_model
from curation.measure.render import rendered_text
from curation.steps import Context
from flows.line import Line
from flows.pipeline import Pipeline

RUNS = 5


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
                "quality": {**quality, "holdout": "30%", "epochs": 10},
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


def seconds(works: list) -> list[float]:
    """Processor seconds of each, the best of several alternating runs."""
    best = [float("inf")] * len(works)
    for _ in range(RUNS):
        for place, work in enumerate(works):
            work()
            start = time.process_time()
            work()
            best[place] = min(best[place], time.process_time() - start)
    return best


def compare(name: str, path: Path, texts: list[str], lowercase: bool, prefix: int = 2000) -> str:
    """One row of the speed table. Raises AssertionError where labels or scores differ."""
    column = pa.array(texts, pa.large_string())
    own, library = read_model(path), fasttext.load_model(str(path))
    data, offsets = prepared(column, prefix, lowercase)
    seen = prepared_texts(column, prefix, lowercase)
    places, scores = predict(own, data, offsets[:-1], offsets[1:])
    labels, values = library.predict(seen, k=2)
    worst, equal = 0.0, 0
    for row in range(len(texts)):
        worst = max(worst, abs(float(values[row][0]) - float(scores[row])))
        tied = len(values[row]) > 1 and values[row][0] - values[row][1] < 1e-5
        equal += tied or labels[row][0].removeprefix("__label__") == own.labels[places[row]]
    assert equal == len(texts), f"{name}: {equal} of {len(texts)} labels are equal"
    assert worst < 1e-4, f"{name}: scores differ by {worst}"
    ours, whole, listed, single = seconds(
        [
            lambda: (own.kept.__dict__.clear(), predict(own, data, offsets[:-1], offsets[1:])),
            lambda: predict(own, *(lambda d, o: (d, o[:-1], o[1:]))(*prepared(column, prefix, lowercase))),
            lambda: library.predict(seen),
            lambda: [library.predict(text) for text in seen],
        ]
    )
    size, best = len(data) / 1e6, min(listed, single)
    rates = f"{size / ours:.0f} | {size / whole:.0f} | {size / best:.0f}"
    return f"| {name} | {len(texts)} | {rates} | {best / ours:.1f} | {best / whole:.1f} | {worst:.0e} |"


def speed(line: Line, folder: Path) -> None:
    texts = []
    for name in ("crawl-pages", "c4", "papers"):
        for path in line.pools[name].shards():
            texts += rendered_text(pq.read_table(path)).to_pylist()
    texts = texts[:1500]
    print("| model | texts | kernel MB/s | with preparation | fastText MB/s | times | with preparation | worst |")
    print("|---|---|---|---|---|---|---|---|")
    for output in line.context.outputs:
        if output.name.startswith("classifier/"):
            print(compare(output.name, output.folder / "model.bin", texts, True), flush=True)
    print(compare("lid.176.ftz, 2,000 characters", language_model(), texts, False), flush=True)
    print(compare("lid.176.ftz, whole documents", language_model(), texts[:600], False, 1 << 30), flush=True)
    examples = folder / "examples.txt"
    examples.write_text(
        "".join(
            f"__label__{'abc'[n % 3]} {text}\n"
            for n, text in enumerate(prepared_texts(pa.array(texts, pa.large_string()), 2000, True))
        )
    )
    for name, kind in {
        "words only": {"wordNgrams": 1},
        "trigrams, 50 wide": {"wordNgrams": 3, "dim": 50},
        "subwords 2 to 4, 50 wide": {"minn": 2, "maxn": 4, "dim": 50},
    }.items():
        model = fasttext.train_supervised(
            str(examples), thread=1, epoch=2, verbose=0, bucket=100_000, **{"dim": 16, **kind}
        )
        model.save_model(str(folder / "model.bin"))
        print(compare(name, folder / "model.bin", texts, True), flush=True)
        model.quantize(cutoff=20_000, retrain=False, qnorm=True)
        model.save_model(str(folder / "model.ftz"))
        print(compare(f"{name}, quantised", folder / "model.ftz", texts, True), flush=True)


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
        speed(one, folder / "one")
        figures(one)
        vigintile_table(one)


if __name__ == "__main__":
    main()
