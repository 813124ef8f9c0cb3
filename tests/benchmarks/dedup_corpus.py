"""Documents for the benchmark of deduplication: real texts, longer sets made of their paragraphs, labelled pairs.

Everything is drawn by seed: the same size gives the same documents.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import orjson

from curation.dedup.shingles import shingles
from tests.benchmarks.kernels import corpora

LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)  # bounds of the bins of Jaccard similarity
KINDS = ("revision", "truncation", "boilerplate", "moved", "template")
WORDS = 150  # of a base document of the labelled pairs, about


class Pair(NamedTuple):
    """Two documents of the labelled set, and the Jaccard similarities of their word 3-grams and 5-grams."""

    first: str
    second: str
    kind: str
    jaccard3: float
    jaccard5: float


def real_texts(limit: int) -> list[str]:
    """Real documents of every kind that there is, up to about `limit` bytes."""
    found = corpora(limit)
    return [text for texts in found.values() for text in texts if text.strip()]


def documents(size: int, seed: int = 1) -> Iterator[tuple[str, str]]:
    """(id, text) of about `size` bytes: the real texts, then documents put together from their paragraphs. One in
    ten is followed by a revision of it, one in twenty by a copy."""
    generator = random.Random(seed)
    texts = real_texts(size)
    generator.shuffle(texts)
    written = number = 0
    paragraphs: list[str] = []
    while written < size:
        if number < len(texts):
            text = texts[number]
        else:
            paragraphs = paragraphs or [part for one in texts for part in _paragraphs(one)]
            text = "\n\n".join(generator.choices(paragraphs, k=generator.randint(4, 24)))
        yield f"d{number}", text
        written += len(text)
        draw = generator.random()
        if draw < 0.10:
            revised = _revised(generator, text.split(" "), ["revised"], 0.004 + 0.02 * generator.random())
            yield f"d{number}-revised", " ".join(revised)
            written += len(text)
        elif draw < 0.15:
            yield f"d{number}-copy", text
            written += len(text)
        number += 1


def short_documents(count: int, seed: int = 1) -> Iterator[tuple[str, str]]:
    """(id, text) of `count` documents of one to three real paragraphs, cut to about 60 words; one in ten is a
    revision of the one before it, one in fifty a copy."""
    generator = random.Random(seed)
    pieces = [part for text in real_texts(40_000_000) for part in _paragraphs(text)]
    text = ""
    for number in range(count):
        draw = generator.random()
        if number and draw < 0.10:
            text = " ".join(_revised(generator, text.split(" "), ["revised"], 0.02))
        elif number == 0 or draw >= 0.12:
            parts = (piece.split(" ") for piece in generator.choices(pieces, k=3))
            starts = ((part, generator.randrange(max(1, len(part) - 20))) for part in parts)
            text = " ".join(" ".join(part[start : start + 20]) for part, start in starts)
        yield str(number), text


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of 200 to 2,000 characters; longer ones are cut."""
    parts = (part for one in re.split(r"\n\s*\n", text) for part in re.findall(r"(?s).{1,2000}", one))
    return [part for part in parts if len(part) >= 200]


def _revised(generator: random.Random, words: list[str], others: list[str], share: float) -> list[str]:
    """Some words replaced, at random places."""
    changed = list(words)
    for place in generator.sample(range(len(words)), min(len(words), max(1, round(share * len(words))))):
        changed[place] = generator.choice(others)
    return changed


def labelled(pairs: int, seed: int = 1) -> tuple[list[tuple[str, str]], list[Pair]]:
    """(documents, pairs): about `pairs` pairs over all kinds of edit and bins of similarity, of real text that
    occurs in no other document."""
    generator = random.Random(seed)
    bases = _bases(pairs)
    generator.shuffle(bases)
    made: list[tuple[str, str]] = []
    labels: list[Pair] = []
    bins = list(pairwise(LEVELS))
    fillers = bases[-max(1, len(bases) // 20) :]
    for number, base in enumerate(bases[: -len(fillers)][:pairs]):
        low, high = bins[number % len(bins)]
        kind = KINDS[number // len(bins) % len(KINDS)]
        target = generator.uniform(low, high)
        first, second = _edited(generator, kind, base, target, generator.choice(fillers))
        names = f"p{number}", f"p{number}-{kind}"
        texts = " ".join(first), " ".join(second)
        made += zip(names, texts, strict=True)
        labels.append(Pair(*names, kind, *(jaccard(*texts, ngram) for ngram in (3, 5))))
    return made, labels


def _bases(pairs: int) -> list[list[str]]:
    """Runs of words of real documents; no two begin alike, and none stands in two documents."""
    chunks, seen = [], set()
    for text in real_texts(200_000_000):
        words = text.split()
        for start in range(0, len(words) - WORDS + 1, WORDS):
            chunk = words[start : start + WORDS]
            grams = {tuple(chunk[at : at + 5]) for at in range(0, WORDS - 5, 5)}
            if len(set(chunk)) > WORDS // 3 and seen.isdisjoint(grams):
                seen |= grams
                chunks.append(chunk)
        if len(chunks) > pairs * 1.2:
            break
    return chunks


def _edited(
    generator: random.Random, kind: str, base: list[str], target: float, filler: list[str]
) -> tuple[list[str], list[str]]:
    """(the document, its edited twin), whose word 5-grams have a Jaccard similarity of about `target`."""
    words = len(base)
    lost = (1 - target) / (1 + target)  # share of the 5-grams of each side that the other has not
    if kind == "revision":
        return base, _revised(generator, base, filler, lost / 5)
    if kind == "truncation":
        return base, base[: max(6, round(target * words))]
    if kind == "boilerplate":
        return base, filler[: max(1, round(words / target) - words)] + base
    if kind == "moved":
        cuts = sorted(generator.sample(range(1, words), min(words // 6, max(1, round(lost * words / 4)))))
        parts = [base[a:b] for a, b in zip([0, *cuts], [*cuts, words], strict=True)]
        generator.shuffle(parts)
        return base, [word for part in parts for word in part]
    shared = round(words * 2 * target / (1 + target) / 2) * 2  # a template around contents of their own
    own = max(1, words - shared)
    return base[:shared] + base[shared : shared + own], base[:shared] + filler[:own]


def jaccard(first: str, second: str, ngram: int) -> float:
    a, b = set(shingles(first, ngram)), set(shingles(second, ngram))
    return len(a & b) / len(a | b) if a | b else 0.0


def write_jsonl(path: Path, made: Iterator[tuple[str, str]] | list[tuple[str, str]], parts: int = 1) -> int:
    """Write documents as JSON lines to `path`, or turn by turn to `parts` files of that stem. Returns their bytes
    of text."""
    paths = [path] if parts == 1 else [path.with_name(f"{path.stem}-{at}.jsonl") for at in range(parts)]
    files = [open(one, "wb") for one in paths]  # noqa: SIM115
    size = 0
    for at, (name, text) in enumerate(made):
        size += len(text.encode())
        files[at % parts].write(orjson.dumps({"id": name, "text": text}) + b"\n")
    for file in files:
        file.close()
    return size
