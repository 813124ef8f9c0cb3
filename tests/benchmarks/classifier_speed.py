"""How many times faster fastText models predict here than in fastText's own library: one core, one run.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.classifier_speed [--only WORDS] [--runs 7]

1,500 texts of C4, papers and film reviews, the first 2,000 characters of each unless a row says otherwise, given
to both sides ready-made. Models of many kinds are trained on them (labels are a hash of the text: nothing can be
learnt, so no branch of a tree is unlikely), each dense and quantised; `lid.176.ftz` is real. Figures are processor
time of one pinned core, the best of some runs of each side. *After another*: the two sides alternate, so that each
finds the caches full of the other's model. *Again*: ours right after itself, with what it keeps of words emptied.
The library is taken at the better of its two public ways, `predict` of a text and `predict` of a list. The command
fails unless labels are equal (but where the library's two best lie within 1e-5) and scores lie within 1e-4.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import fasttext
import pyarrow as pa

from curation.classify.prepare import prepared, prepared_texts
from curation.measure.fasttext_kernel import predict
from curation.measure.fasttext_model import read_model
from curation.measure.language import language_model
from tests.benchmarks.corpus import data_folder, json_lines, paper_texts

TEXTS, PREFIX = 1500, 2000
COLUMNS = ["model", "fastText MB/s", "ours, after another", "ours, again", "times, after another", "times, again"]
HEADER = f"| {' | '.join([*COLUMNS, 'worst'])} |\n|{'---|' * 7}"
KINDS = {  # name: (labels, arguments of fastText)
    "words, 2 labels": (2, {"dim": 16}),
    "words, 40 labels": (40, {"dim": 16}),
    "words and bigrams, 2 labels": (2, {"dim": 16, "wordNgrams": 2}),
    "words and bigrams, 40 labels": (40, {"dim": 16, "wordNgrams": 2}),
    "words to trigrams, 50 wide, 3 labels": (3, {"dim": 50, "wordNgrams": 3}),
    "words to trigrams, 50 wide, 100 labels": (100, {"dim": 50, "wordNgrams": 3}),
    "subwords 2 to 4, 50 wide, 3 labels": (3, {"dim": 50, "minn": 2, "maxn": 4}),
    "words and bigrams, 2,000,000 buckets, 2 labels": (2, {"dim": 16, "wordNgrams": 2, "bucket": 2_000_000}),
    "words and bigrams, 2,000,000 buckets, 100 wide, 40 labels": (
        40,
        {"dim": 100, "wordNgrams": 2, "bucket": 2_000_000},
    ),
    "words and bigrams, tree of 100 labels": (100, {"dim": 16, "wordNgrams": 2, "loss": "hs"}),
}


def corpus() -> list[str]:
    """A third each of C4, papers and film reviews."""
    data, each = data_folder(), TEXTS // 3
    c4 = [row["text"] for row in json_lines(data / "text" / "c4-sample.jsonl.gz")][:each]
    reviews = [row["text"] for row in json_lines(data / "text" / "movie-reviews.jsonl.zst")][:each]
    papers = paper_texts(data)[:each]
    return [*c4, *papers, *reviews, *papers][:TEXTS]


def models(texts: list[str], folder: Path, only: str) -> Iterator[tuple[str, Path, int]]:
    """(name, file, characters of a text) of each model, made when it is asked for."""
    if only in "lid.176.ftz, whole documents":
        yield "lid.176.ftz", language_model(), PREFIX
        yield "lid.176.ftz, whole documents", language_model(), 1 << 30
    lines = prepared_texts(pa.array(texts, pa.large_string()), PREFIX, True)
    examples = folder / "examples.txt"
    for name, (labels, arguments) in KINDS.items():
        if only not in name:
            continue
        examples.write_text("".join(f"__label__{zlib.crc32(line.encode()) % labels} {line}\n" for line in lines))
        found = fasttext.train_supervised(
            str(examples), thread=1, epoch=2, verbose=0, **{"bucket": 100_000, **arguments}
        )
        found.save_model(str(folder / "model.bin"))
        yield name, folder / "model.bin", PREFIX
        found.quantize(cutoff=20_000, retrain=False, qnorm=True)
        found.save_model(str(folder / "model.ftz"))
        yield "the same, quantised", folder / "model.ftz", PREFIX


def timed(work: Callable[[], object]) -> float:
    """Processor seconds of one run."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(name: str, path: Path, texts: list[str], prefix: int, runs: int, split: bool = False) -> str:
    """One row of the table. Raises AssertionError where labels or scores differ."""
    own, library = read_model(path), fasttext.load_model(str(path))
    seen_as = (prefix, "lid" not in path.name, split)
    data, offsets = prepared(pa.array(texts, pa.large_string()), *seen_as)
    seen = prepared_texts(pa.array(texts, pa.large_string()), *seen_as)
    places, scores = predict(own, data, offsets[:-1], offsets[1:])
    labels, values = library.predict(seen, k=2)
    worst, equal = 0.0, 0
    for row in range(len(seen)):
        worst = max(worst, abs(float(values[row][0]) - float(scores[row])))
        tied = len(values[row]) > 1 and values[row][0] - values[row][1] < 1e-5
        equal += tied or labels[row][0].removeprefix("__label__") == own.labels[places[row]]
    assert equal == len(seen), f"{name}: {equal} of {len(seen)} labels are equal"
    assert worst < 1e-4, f"{name}: scores differ by {worst}"

    def ours() -> None:
        own.kept.__dict__.clear()
        predict(own, data, offsets[:-1], offsets[1:])

    library_best = after = again = float("inf")
    for _ in range(runs):
        library_best = min(library_best, timed(lambda: library.predict(seen)))
        after = min(after, timed(ours))
        again = min(again, timed(ours))
        library_best = min(library_best, timed(lambda: [library.predict(text) for text in seen]))
    size = len(data) / 1e6
    rates = f"{size / library_best:.1f} | {size / after:.0f} | {size / again:.0f}"
    return f"| {name} | {rates} | {library_best / after:.1f} | {library_best / again:.1f} | {worst:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="of the models whose names hold this")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    texts = corpus()
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        for name, path, prefix in models(texts, Path(folder), options.only):
            some = texts if prefix == PREFIX else texts[:: TEXTS // 600]
            print(compare(name, path, some, prefix, options.runs), flush=True)


if __name__ == "__main__":
    main()
