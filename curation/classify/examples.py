"""Labelled examples from pools, files and the documents' own metadata: a sample by keyed hash of their ids."""

from __future__ import annotations

import gzip
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import zstandard

from curation.chat import DOCUMENT_COLUMNS
from curation.classify.settings import Classifier, ExampleFile, Labels
from curation.keys import key_of, keyed_hash
from curation.measure.render import rendered_text
from curation.schema import document_id, metadata_of
from curation.shards import batches, pick
from curation.steps import StepOutput

FEWEST = 10  # examples of a class
Outputs = dict[str, StepOutput]


class Example(NamedTuple):
    """A text whose class is known; `text` is its beginning."""

    id: str
    source: str
    label: str
    text: str


def examples_of(
    name: str, settings: Classifier, pools: Outputs, measured: Outputs, ledgers: list[StepOutput]
) -> list[Example]:
    """A sample of each class from alive documents, in the order of their keyed hash.

    Balanced: classes are of one size, and each takes of its sources evenly, as far as they go: the largest would
    drown the others. Raises ValueError for fewer than two classes, or fewer than 10 examples of one.
    """
    if settings.labels:
        classes = _by_label(settings, settings.labels, pools, measured, ledgers)
    else:
        classes = {}
        for label, entries in sorted(settings.examples().items()):
            sources = [entry for entry in entries if isinstance(entry, str)]
            found = [
                one
                for source in dict.fromkeys(sources)
                for one in _from_pools(source, label, settings, pools, measured, ledgers)
            ]
            for entry in entries:
                if isinstance(entry, ExampleFile):
                    found += _from_file(Path(entry.file), label, settings)
            classes[label] = _in_hash_order(list({one.id: one for one in found}.values()), settings.seed)
    sizes = {label: len(found) for label, found in classes.items()}
    if len(classes) < 2 or min(sizes.values()) < FEWEST:
        shown = " and ".join(f"{size} {label}" for label, size in sizes.items()) or "no examples"
        raise ValueError(
            f"classifiers.{name}: {shown} are alive; a classifier needs two classes and {FEWEST} of each at least"
        )
    most = min(settings.sample, *sizes.values()) if settings.balanced else settings.sample
    if settings.balanced:
        classes = {label: _by_rank(found) for label, found in classes.items()}
    return _in_hash_order([one for found in classes.values() for one in found[:most]], settings.seed)


def held_out(examples: list[Example], settings: Classifier) -> np.ndarray:
    """Which examples are kept out of training: of each class those first in the order of another keyed hash."""
    held = np.zeros(len(examples), bool)
    hashes = keyed_hash([one.id for one in examples], key_of(settings.seed, "quality/holdout"))
    for label in sorted({one.label for one in examples}):
        places = np.array([place for place, one in enumerate(examples) if one.label == label])
        count = min(len(places) - 1, max(1, round(settings.holdout * len(places)))) if settings.holdout else 0
        held[places[np.argsort(hashes[places], kind="stable")[:count]]] = True
    return held


def metadata_value(metadata: str | None, key: str) -> str | None:
    """The value at a dotted key ("metadata.label") of JSON metadata, as a string; None without one."""
    value: Any = metadata_of(metadata)
    for part in key.split(".")[1:]:
        value = value.get(part) if isinstance(value, dict) else None
    if value is None or isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _by_rank(examples: list[Example]) -> list[Example]:
    """The first of each source, then the second of each: any beginning of it is of all sources evenly."""
    ranks: Counter[str] = Counter()
    ranked = []
    for one in examples:
        ranked.append((ranks[one.source], one))
        ranks[one.source] += 1
    return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]


def _from_pools(
    source: str,
    label: str,
    settings: Classifier,
    pools: Outputs,
    measured: Outputs,
    ledgers: list[StepOutput],
) -> list[Example]:
    key, found = key_of(settings.seed, "quality"), []
    for one in pick([source], pools, measured, ledgers, key, documents=settings.sample):
        for _, table in batches(one.path, DOCUMENT_COLUMNS, one.rows):
            for document, text in zip(table["id"].to_pylist(), rendered_text(table).to_pylist(), strict=True):
                found.append(Example(document, one.source, label, text[: settings.prefix]))
    return found


def _by_label(
    settings: Classifier, labels: Labels, pools: Outputs, measured: Outputs, ledgers: list[StepOutput]
) -> dict[str, list[Example]]:
    """The first `sample` documents of each class in hash order: all labels are read, texts of the chosen alone."""
    known: dict[str, dict[str, str]] = {}
    everything = pick(labels.sources, pools, measured, ledgers, key_of(settings.seed, "quality"))
    for one in everything:
        for _, table in batches(one.path, ["id", "metadata"], one.rows):
            for document, metadata in zip(table["id"].to_pylist(), table["metadata"].to_pylist(), strict=True):
                value = metadata_value(metadata, labels.key)
                label = labels.names.get(value) if labels.names else value
                if label and not any(mark.isspace() for mark in label):
                    known.setdefault(label, {})[document] = one.source
    chosen = {}
    for label, found in sorted(known.items()):
        ids = np.array(sorted(found))
        hashes = keyed_hash(list(ids), key_of(settings.seed, "quality"))
        chosen |= dict.fromkeys(ids[np.argsort(hashes, kind="stable")[: settings.sample]].tolist(), label)
    classes: dict[str, dict[str, Example]] = {label: {} for label in sorted(known)}
    for one in everything:
        for _, table in batches(one.path, DOCUMENT_COLUMNS, one.rows):
            table = table.filter(
                pa.array([document in chosen for document in table["id"].to_pylist()], pa.bool_())
            )
            for document, text in zip(table["id"].to_pylist(), rendered_text(table).to_pylist(), strict=True):
                label = chosen[document]
                classes[label][document] = Example(document, one.source, label, text[: settings.prefix])
    return {label: _in_hash_order(list(found.values()), settings.seed) for label, found in classes.items()}


def _in_hash_order(examples: list[Example], seed: int) -> list[Example]:
    hashes = keyed_hash([one.id for one in examples], key_of(seed, "quality"))
    return [examples[place] for place in np.lexsort(([one.id for one in examples], hashes))]


def _from_file(path: Path, label: str, settings: Classifier) -> list[Example]:
    """The lines of a file that come first in hash order, `sample` at most, in bounded memory."""
    best: list[Example] = []
    lines = (Example(document, "file", label, text[: settings.prefix]) for document, text in _lines(path))
    while chunk := list(itertools.islice(lines, settings.sample)):
        best = _in_hash_order(list(dict.fromkeys([*best, *chunk])), settings.seed)[: settings.sample]
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
                yield document_id("file", text.encode()), text
