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

import numpy as np
import orjson

from curation.dedup.shingles import shingles
from curation.keys import key_of, keyed_hash_of
from tests.benchmarks.kernels import corpora

LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)  # bounds of the bins of Jaccard similarity
KINDS = ("revision", "truncation", "boilerplate", "moved", "template")
WORDS = 150  # of a base document of the labelled pairs, about
RUN, SHORT_RUNS = 4, 15  # words that stay together in a short document, and how many such runs it has
RUN_CHARACTERS = 48  # what has no space for long is code or data, and would be most of a document
DRAWN = 10_000  # short documents drawn at once


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
    """(id, text) of `count` documents of 60 words: one in ten a revision of an earlier one, one in fifty a copy.

    The others are new, however many there are: each is SHORT_RUNS runs of RUN words, drawn from the two million
    different ones that 40 MB of real text have. A shingle of five words reaches over two runs (but for "words"
    with punctuation inside), so two new documents share one only where they draw the same two runs in turn. The
    pairs of near-duplicates are therefore those of revisions and copies, in proportion to `count`. What a document
    revises is any new one before it, wherever that is: text number n depends on `seed` and n alone.
    """
    runs = np.array(_runs(), object)
    for first in range(0, count, DRAWN):
        numbers = np.arange(first, min(first + DRAWN, count))
        drawn = _drawn(seed, numbers, SHORT_RUNS + 3)
        tens, word = drawn[:, -3] % (numbers // 10 + 1), drawn[:, -1] % (SHORT_RUNS * RUN)
        earlier = 10 * tens + drawn[:, -2] % 7  # those that end in 0 to 6 are new
        revised, copied = numbers % 10 == 9, numbers % 50 == 7
        base = np.where(revised | copied, earlier, numbers)
        texts = runs[_drawn(seed, base, SHORT_RUNS) % len(runs)]
        for number, parts, is_revised, place in zip(
            numbers.tolist(), texts.tolist(), revised.tolist(), word.tolist(), strict=True
        ):
            text = " ".join(parts)
            if is_revised:
                words = text.split(" ")
                words[place] = "revised"
                text = " ".join(words)
            yield str(number), text


def _runs() -> list[str]:
    """The different runs of RUN words, of up to RUN_CHARACTERS, of 40 MB of real text cut one after the other."""
    found: dict[str, None] = {}
    for text in real_texts(40_000_000):
        words = text.split()
        found |= dict.fromkeys(" ".join(words[at : at + RUN]) for at in range(0, len(words) - RUN + 1, RUN))
    return [run for run in found if len(run) <= RUN_CHARACTERS]


def _drawn(seed: int, numbers: np.ndarray, draws: int) -> np.ndarray:
    """`draws` random integers of each number, int64[n, draws]: the same for the same number, 63 bits."""
    drawn = keyed_hash_of(
        np.repeat(numbers, draws).astype(np.uint64),
        np.tile(np.arange(draws, dtype=np.uint64), len(numbers)),
        key_of(seed, "short documents"),
    )
    return (drawn >> np.uint64(1)).astype(np.int64).reshape(-1, draws)


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
