"""A quality classifier: fastText trained on sources that the recipe calls good and bad, then applied to others.

A document's score is the probability of the positive class for its beginning (PREFIX characters), lower-cased,
blanks and line breaks as single blanks. The idea and the classes are those of DCLM (Li et al. 2024, section 4.4)
and of Dolma 3; fastText is Joulin et al. 2016.
"""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import zstandard

from curation.chat import DOCUMENT_COLUMNS
from curation.config import Count, Share, Strict
from curation.files import TEMPORARY, atomic, file_hash, write_parquet
from curation.keys import key_of, keyed_hash
from curation.ledger import alive
from curation.measure.render import rendered_text
from curation.schema import document_id, shard_rows
from curation.shards import batches, pick
from curation.steps import Build, Context, StepOutput, step

MODEL, REPORT = "model.bin", "report.json"
POSITIVE, NEGATIVE = "positive", "negative"
LABEL = "__label__"
PREFIX = 2000  # characters of a document that the classifier reads
EXCERPT = 300  # characters of a mistaken document in the report
MISTAKES = 10  # of each kind in the report


class QualityFile(Strict):
    """Examples from outside the pools: a text file, plain, gz or zst, one document a line."""

    file: str


class Quality(Strict):
    """What the quality classifier learns from and how. An example class is sources by name, or files."""

    positives: list[str | QualityFile]
    negatives: list[str | QualityFile]
    sample: Count = 20_000  # documents of each class at most; both classes are cut to the smaller one
    holdout: Share = 0.1  # of each class, for the report
    epochs: int = 5
    dim: int = 16
    lr: float = 0.5
    word_ngrams: int = 2
    buckets: Count = 100_000  # hash buckets of word n-grams; 4 * dim bytes each in the model file
    seed: int = 0


def train_quality(
    ctx: Context,
    pools: dict[str, StepOutput],
    measured: dict[str, StepOutput],
    ledgers: list[StepOutput],
    config: Quality,
) -> StepOutput:
    """The step `quality-model`: `model.bin` of fastText and `report.json` on the examples kept out of training.

    Both classes have the same number of examples, chosen by keyed hash of their ids from alive documents. One
    thread, so that the same examples give the same bytes. Raises ValueError for an unknown source, or for fewer
    than 10 examples in a class.
    """
    named = sorted({entry for entry in (*config.positives, *config.negatives) if isinstance(entry, str)})
    if unknown := [name for name in named if name not in pools]:
        raise ValueError(f"quality: no source named {', '.join(unknown)}; there are {', '.join(sorted(pools))}")
    inputs = {f"pool/{name}": pools[name].content for name in named}
    inputs |= {f"measured/{name}": measured[name].content for name in named}
    inputs |= {f"ledger/{ledger.name}": ledger.content for ledger in ledgers}
    literals = config.model_dump(mode="json")
    for label in ("positives", "negatives"):  # a file counts by its bytes, not by its path
        entries = getattr(config, label)
        literals[label] = [one if isinstance(one, str) else {"file": file_hash(Path(one.file))} for one in entries]

    def work(build: Build) -> None:
        examples = _examples(pools, measured, ledgers, config)
        held = _held_out(examples, config)
        with atomic(build.folder / MODEL) as temporary:
            _train([one for one, out in zip(examples, held, strict=True) if not out], config, temporary)
        report = evaluate(build.folder / MODEL, [one for one, out in zip(examples, held, strict=True) if out])
        build.write_json(REPORT, {"train": int(len(examples) - held.sum()), "prefix": PREFIX, **report})
        build.counts = {
            "documents_in": len(examples),
            "documents_out": int(len(examples) - held.sum()),
            "holdout_documents": int(held.sum()),
        }

    return step(ctx, "quality-model", 1, literals, inputs, work)


def apply_quality(
    ctx: Context, pool: StepOutput, measured: StepOutput, ledgers: list[StepOutput], model: StepOutput
) -> StepOutput:
    """The step `quality/<source>`: id, quality (float32, P(positive) in 0..1; null for dropped documents)."""
    inputs = {"pool": pool.content, "model": model.record["files"][MODEL]["hash"]}
    inputs |= {f"ledger/{ledger.name}": ledger.content for ledger in ledgers}

    def work(build: Build) -> None:
        units = {}
        for path in pool.shards():
            kept = np.flatnonzero(alive(ledgers, pool.source, path.stem, shard_rows(path)))
            units[path.stem] = (str(path), str(model.folder / MODEL), kept)
        results = build.map(score_shard, units, "processes").values()
        build.counts = {
            name: sum(result[name] for result in results) for name in ("documents_in", "documents_out")
        }

    return step(ctx, f"quality/{pool.source}", 1, {}, inputs, work)


def score_shard(folder: Path, key: str, shard: str, model: str, rows: np.ndarray) -> dict[str, int]:
    """Score `rows` of one shard; the others get null."""
    total = shard_rows(shard)
    quality, scored = np.zeros(total, np.float32), np.zeros(total, bool)
    ids = [table["id"] for _, table in batches(Path(shard), ["id"])]
    for numbers, table in batches(Path(shard), DOCUMENT_COLUMNS, rows):
        quality[numbers] = score(Path(model), rendered_text(table).to_pylist())
        scored[numbers] = True
    table = pa.table(
        {
            "id": pa.chunked_array([chunk for one in ids for chunk in one.chunks], pa.string()),
            "quality": pa.array(quality, pa.float32(), mask=~scored),
        }
    )
    write_parquet(folder / "shards" / f"{key}.parquet", table)
    return {"documents_in": total, "documents_out": int(scored.sum())}


def score(model: Path, texts: list[str]) -> np.ndarray:
    """P(positive) of each text. Shape (n,), float32 in 0..1."""
    classifier = _load(str(model))
    out = np.zeros(len(texts), np.float32)
    for place, text in enumerate(texts):
        # The wrapper's own predict makes arrays of one number each; this is what it calls.
        for probability, label in classifier.f.predict(normalised(text) + "\n", 2, 0.0, "strict"):
            if label == LABEL + POSITIVE:
                out[place] = probability
    return np.clip(out, 0.0, 1.0)  # fastText's softmax reaches 1.00001


def normalised(text: str) -> str:
    """What the classifier sees of a text: one line, and no word that fastText would take for a label."""
    words = text[:PREFIX].lower().replace("\0", " ").split()
    return " ".join(words).replace(LABEL, "label")


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties one half. NaN for one class.

    By ranks (Mann and Whitney 1947): (sum of the positives' mean ranks - p(p + 1)/2) / (p n).
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return float("nan")
    return float((mean_rank[inverse][positive].sum() - p * (p + 1) / 2) / (p * n))


def evaluate(model: Path, examples: list[tuple[str, str, str, str]]) -> dict:
    """Precision, recall, F1 at 0.5 and AUC of a model on (id, source, label, text), with its worst mistakes."""
    scores = score(model, [text for *_, text in examples]).astype(np.float64)
    truth = np.array([label == POSITIVE for _, _, label, _ in examples], bool)
    said = scores >= 0.5
    hits, false_alarms, misses = int((said & truth).sum()), int((said & ~truth).sum()), int((~said & truth).sum())
    order = sorted(range(len(examples)), key=lambda n: (-abs(scores[n] - truth[n]), examples[n][0]))
    wrong = [n for n in order if said[n] != truth[n]]
    area = auc(scores, truth)
    return {
        "holdout": len(examples),
        "true_positives": hits,
        "false_positives": false_alarms,
        "false_negatives": misses,
        "true_negatives": len(examples) - hits - false_alarms - misses,
        "precision": hits / (hits + false_alarms) if hits + false_alarms else None,
        "recall": hits / (hits + misses) if hits + misses else None,
        "f1": 2 * hits / (2 * hits + false_alarms + misses) if hits + false_alarms + misses else None,
        "auc": None if np.isnan(area) else area,
        "by_source": _by_source(examples, scores),
        "worst_false_positives": [_mistake(examples[n], scores[n]) for n in wrong if not truth[n]][:MISTAKES],
        "worst_false_negatives": [_mistake(examples[n], scores[n]) for n in wrong if truth[n]][:MISTAKES],
    }


def _by_source(examples: list[tuple[str, str, str, str]], scores: np.ndarray) -> dict[str, dict]:
    places: dict[str, list[int]] = {}
    for place, (_, source, label, _) in enumerate(examples):
        places.setdefault(f"{label}/{source}", []).append(place)
    return {name: {"holdout": len(at), "mean": float(scores[at].mean())} for name, at in sorted(places.items())}


def _mistake(example: tuple[str, str, str, str], value: float) -> dict:
    document, source, label, text = example
    return {"id": document, "source": source, "label": label, "score": float(value), "text": text[:EXCERPT]}


def _examples(
    pools: dict[str, StepOutput], measured: dict[str, StepOutput], ledgers: list[StepOutput], config: Quality
) -> list[tuple[str, str, str, str]]:
    """(id, source, label, beginning of the text) of a balanced sample, in the order of their keyed hash."""
    classes = []
    for label, entries in ((POSITIVE, config.positives), (NEGATIVE, config.negatives)):
        sources = [entry for entry in entries if isinstance(entry, str)]
        found = {}
        for one in pick(
            sources, pools, measured, ledgers, key_of(config.seed, "quality"), documents=config.sample
        ):
            for _, table in batches(one.path, DOCUMENT_COLUMNS, one.rows):
                for document, text in zip(table["id"].to_pylist(), rendered_text(table).to_pylist(), strict=True):
                    found[document] = (document, one.source, label, text[:PREFIX])
        for entry in entries:
            if isinstance(entry, QualityFile):
                found |= {example[0]: example for example in _file_examples(Path(entry.file), label, config)}
        classes.append(_in_hash_order(list(found.values()), config.seed))
    size = min(config.sample, *(len(one) for one in classes))
    if size < 10:
        sizes = f"{len(classes[0])} positives and {len(classes[1])} negatives"
        raise ValueError(f"quality: {sizes} are alive; a classifier needs 10 of each at least")
    return _in_hash_order([example for one in classes for example in one[:size]], config.seed)


def _in_hash_order(examples: list[tuple[str, str, str, str]], seed: int) -> list[tuple[str, str, str, str]]:
    hashes = keyed_hash([example[0] for example in examples], key_of(seed, "quality"))
    return [examples[place] for place in np.lexsort(([example[0] for example in examples], hashes))]


def _held_out(examples: list[tuple[str, str, str, str]], config: Quality) -> np.ndarray:
    """Which examples are kept out of training: of each class those first in the order of another keyed hash."""
    held = np.zeros(len(examples), bool)
    hashes = keyed_hash([example[0] for example in examples], key_of(config.seed, "quality/holdout"))
    for wanted in (POSITIVE, NEGATIVE):
        places = np.array([place for place, (_, _, label, _) in enumerate(examples) if label == wanted])
        count = min(len(places) - 1, max(1, round(config.holdout * len(places)))) if config.holdout else 0
        held[places[np.argsort(hashes[places], kind="stable")[:count]]] = True
    return held


def _file_examples(path: Path, label: str, config: Quality) -> list[tuple[str, str, str, str]]:
    """The lines of a file that come first in hash order, `config.sample` at most, in bounded memory."""
    best: list[tuple[str, str, str, str]] = []
    lines = ((document, "file", label, text) for document, text in _lines(path))
    while chunk := list(itertools.islice(lines, config.sample)):
        best = _in_hash_order(list(dict.fromkeys([*best, *chunk])), config.seed)[: config.sample]
    return best


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each line that is not blank. An id is that of a source named "file"."""
    with open(path, "rb") as raw:
        if path.suffix == ".gz":
            stream: io.IOBase = gzip.GzipFile(fileobj=raw)
        elif path.suffix == ".zst":
            stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        else:
            stream = raw
        for line in io.TextIOWrapper(stream, "utf-8", errors="replace"):
            if text := line.strip():
                yield document_id("file", text.encode()), text[:PREFIX]


def _train(examples: list[tuple[str, str, str, str]], config: Quality, path: Path) -> None:
    """Write the model of fastText to `path`. Its examples pass through a temporary file beside it."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
        lines = Path(folder) / "examples.txt"
        with open(lines, "w", encoding="utf-8") as file:
            file.writelines(f"{LABEL}{label} {normalised(text)}\n" for _, _, label, text in examples)
        model = fasttext.train_supervised(
            str(lines),
            epoch=config.epochs,
            dim=config.dim,
            lr=config.lr,
            wordNgrams=config.word_ngrams,
            bucket=config.buckets,
            seed=config.seed,
            thread=1,
            verbose=0,
        )
        model.save_model(str(path))


@functools.lru_cache(maxsize=2)
def _load(path: str) -> fasttext.FastText._FastText:
    return fasttext.load_model(path)
