"""Why two records are, or are not, duplicates: their shingles, similarities, shared bands, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from curation.dedup.minhash import signatures
from curation.dedup.pieces import pieces
from curation.dedup.records import Fields, read_records
from curation.dedup.scheme import Scheme, Shingling
from curation.dedup.settings import Dedup
from curation.dedup.units import shingles
from curation.read.record import Limits, Problem


class RecordNotFoundError(Exception):
    """No record has the name that was given, or several different ones have."""


@dataclass(frozen=True)
class Side:
    """One of the two: where it is, its text and how many shingles of the verification it has."""

    origin: str
    id: str  # XXH3-128 of the text
    text: str
    shingles: int


@dataclass(frozen=True)
class Explanation:
    """Two records compared. Shingles are those of the verification, in the order of the texts."""

    first: Side
    second: Side
    shared: list[str]
    only_first: list[str]
    only_second: list[str]
    jaccard: float  # of the verification's shingles: what decides
    jaccard_signed: float  # of the signature's shingles: what the estimate is of
    estimated: float | None  # None where one has no signature
    bands: list[int]  # shared, from 0
    detection: float  # the probability that a pair of `jaccard_signed` shares a band
    verdict: str
    duplicates: bool


def explain(
    files: Iterable[Path], fields: Fields, limits: Limits, dedup: Dedup, names: tuple[str, str]
) -> Explanation:
    """Compare two records, each named by its own id, its origin (file@offset) or six or more digits of the id.

    Reads the files until both are found. Raises RecordNotFoundError if one is not, or if digits name several.
    """
    first, second = _find(files, fields, limits, names)
    return compare(first, second, dedup)


def compare(first: tuple[str, str], second: tuple[str, str], dedup: Dedup) -> Explanation:
    """As `explain`, of two (origin, text)."""
    lists = [_in_order(text, dedup.verification) for _, text in (first, second)]
    a, b = (set(one) for one in lists)
    jaccard = len(a & b) / len(a | b) if a | b else float(first[1] == second[1])
    signed = [set(shingles(text, dedup.scheme)) for _, text in (first, second)]
    union = signed[0] | signed[1]
    estimated, bands = _signed(first[1], second[1], dedup.scheme)
    jaccard_signed = len(signed[0] & signed[1]) / len(union) if union else 0.0
    same = first[1] == second[1]
    duplicates = same or (bool(bands) and jaccard >= dedup.threshold)
    return Explanation(
        *(
            Side(origin, xxhash.xxh3_128_hexdigest(text.encode()), text, len(own))
            for (origin, text), own in zip((first, second), (a, b), strict=True)
        ),
        shared=[shingle for shingle in lists[0] if shingle in b],
        only_first=[shingle for shingle in lists[0] if shingle not in b],
        only_second=[shingle for shingle in lists[1] if shingle not in a],
        jaccard=jaccard,
        jaccard_signed=jaccard_signed,
        estimated=estimated,
        bands=bands,
        detection=float(dedup.scheme.detection(jaccard_signed)),
        verdict=_verdict(same, estimated, bands, jaccard, dedup),
        duplicates=duplicates,
    )


def _in_order(text: str, shingling: Shingling) -> list[str]:
    """The distinct shingles of a text in their first order; tokens as hexadecimal ids."""
    if shingling.unit == "tokens":
        return [shingle.hex(" ", 4) for shingle in dict.fromkeys(shingles(text, shingling))]
    return [shingle.decode() for shingle in dict.fromkeys(shingles(text, shingling))]


def _signed(first: str, second: str, scheme: Scheme) -> tuple[float | None, list[int]]:
    """(share of equal permutations, shared bands); None and no bands where a text is too short for a signature."""
    rows, has = signatures(pa.array([first, second], pa.large_string()), scheme)
    if not has.all():
        return None, []
    equal = rows[0] == rows[1]
    together = equal.reshape(scheme.bands, scheme.rows).all(axis=1)
    return float(equal.mean()), np.flatnonzero(together).tolist()


def _verdict(same: bool, estimated: float | None, bands: list[int], jaccard: float, dedup: Dedup) -> str:
    if same:
        return "exact duplicates: the texts are the same"
    if estimated is None:
        return f"not compared: a text of fewer than {dedup.scheme.ngram} {_units(dedup)} has no signature"
    reached = jaccard >= dedup.threshold
    if not bands:
        missed = "; at this similarity they would be duplicates: LSH misses them" if reached else ""
        return f"not compared: no band in common{missed}"
    if reached:
        return f"near-duplicates: the true Jaccard similarity reaches {dedup.threshold}"
    return f"compared, no duplicates: the true Jaccard similarity is below {dedup.threshold}"


def _units(dedup: Dedup) -> str:
    return "words" if dedup.scheme.unit == "datatrove" else dedup.scheme.unit


def _find(files: Iterable[Path], fields: Fields, limits: Limits, names: tuple[str, str]) -> list[tuple[str, str]]:
    """(origin, text) of each name. An own id or an origin is exact; digits of the id must name one text."""
    named: dict[str, tuple[str, str]] = {}
    by_digits: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in names}
    prefixes = {name for name in names if 6 <= len(name) <= 32 and set(name) <= set("0123456789abcdef")}
    for path in files:
        for piece in pieces(path):
            for table in read_records(piece, fields, limits):
                if isinstance(table, Problem):
                    continue
                keys = table["key"].to_pylist()
                offsets = table["offset"].to_pylist()
                for row, (key, offset) in enumerate(zip(keys, offsets, strict=True)):
                    origin = f"{piece.name}@{offset}"
                    hits = [name for name in names if name in (key, origin)]
                    for name in hits:
                        named.setdefault(name, (key or origin, table["text"][row].as_py()))
                    if prefixes:
                        text = table["text"][row].as_py()
                        digits = xxhash.xxh3_128_hexdigest(text.encode())
                        for name in prefixes:
                            if digits.startswith(name):
                                by_digits[name].setdefault(digits, (key or origin, text))
    return [_chosen(name, named.get(name), by_digits[name]) for name in names]


def _chosen(name: str, named: tuple[str, str] | None, texts: dict[str, tuple[str, str]]) -> tuple[str, str]:
    if named is not None:
        return named
    if len(texts) > 1:
        raise RecordNotFoundError(f"'{name}' begins the ids of {len(texts)} texts; give more digits")
    if not texts:
        raise RecordNotFoundError(
            f"'{name}' is no record's own id (--id-field), origin (file@offset) or first digits of an id"
        )
    return next(iter(texts.values()))
