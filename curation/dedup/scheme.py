"""How signatures are made and cut into bands: shingles of which units, how many permutations, which bands."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, Field, model_serializer, model_validator

from curation.config import ConfigError, Share, Strict
from curation.files import file_hash

Unit = Literal["words", "characters", "tokens", "datatrove"]
Hash = Literal["xxhash64", "sha1_64", "xxhash32", "sha1_32"]


class Shingling(Strict):
    """What a shingle is: `ngram` consecutive units.

    `words`: Unicode words, lower-cased (`curation.dedup.shingles`). `characters`: code points, lower-cased, a run
    of white space as one blank. `tokens`: the ids that the tokenizer file `tokenizer` gives. `datatrove`:
    datatrove's normalised words and, for signatures, its hash and its permutations (`curation.dedup.datatrove`).
    """

    unit: Unit = "words"
    ngram: Annotated[int, Field(ge=1, le=64)] = 5
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 1
    # A path says nothing about results: the hash of the file stands for it wherever settings are compared.
    tokenizer: Annotated[Path | None, Field(exclude=True)] = None
    hash: Hash | None = None  # of `datatrove`; without one xxhash64. FineWeb took sha1_64

    @model_validator(mode="after")
    def _fits_its_unit(self) -> Shingling:
        if (self.tokenizer is not None) != (self.unit == "tokens"):
            raise ValueError("give 'tokenizer' (a tokenizer.json) with unit: tokens, and with no other unit")
        if self.hash and self.unit != "datatrove":
            raise ValueError("'hash' is for unit: datatrove alone; the others have a hash of their own")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Any) -> dict[str, Any]:
        """A unit's own settings appear with that unit alone; of a tokenizer the hash of its file."""
        values = handler(self)
        for name in ("unit", "hash"):
            if values[name] == type(self).model_fields[name].default:
                del values[name]
        if self.unit == "datatrove":
            values["hash"] = self.hashed
        if self.tokenizer is not None:
            values["tokenizer_hash"] = _tokenizer_hash(str(self.tokenizer))
        return values

    @property
    def hashed(self) -> Hash:
        """The hash of datatrove's shingles."""
        return self.hash or "xxhash64"


class Scheme(Shingling):
    """How signatures are made and cut into bands: `bands` groups of `rows` consecutive permutations."""

    bands: Annotated[int, Field(ge=1)] = 14
    rows: Annotated[int, Field(ge=1)] = 8

    @property
    def permutations(self) -> int:
        return self.bands * self.rows

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The type of a signature's values."""
        return np.uint64 if self.unit == "datatrove" and self.hashed.endswith("64") else np.uint32

    @property
    def signature(self) -> pa.DataType:
        """The Arrow type of a signature."""
        return pa.list_(pa.from_numpy_dtype(self.dtype), self.permutations)

    def detection(self, similarity: float | np.ndarray) -> float | np.ndarray:
        """The probability that two documents of this Jaccard similarity share a band: 1 - (1 - s^r)^b.

        Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4.2.
        """
        return 1 - (1 - similarity**self.rows) ** self.bands


class Optimised(Shingling):
    """A scheme that finds pairs of at least `similarity`: datasketch chooses the bands.

    Of all bands and rows with at most `permutations` in all it takes those with the least weighted area of the
    detection curve on the wrong side of `similarity` (`datasketch.MinHashLSH`). The weights add up to 1.
    """

    similarity: Annotated[Share, Field(gt=0, le=1)]
    permutations: Annotated[int, Field(ge=2, le=4096)] = 256
    false_positive_weight: Annotated[Share, Field(ge=0, le=1)] = 0.5
    false_negative_weight: Annotated[Share, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _weights_add_up(self) -> Optimised:
        if abs(self.false_positive_weight + self.false_negative_weight - 1) > 1e-9:
            raise ValueError("false_positive_weight and false_negative_weight must add up to 1")
        return self

    def scheme(self) -> Scheme:
        from datasketch import MinHashLSH  # imports scipy

        weights = (self.false_positive_weight, self.false_negative_weight)
        lsh = MinHashLSH(threshold=self.similarity, num_perm=self.permutations, weights=weights)
        given = {name: getattr(self, name) for name in Shingling.model_fields}
        return Scheme(**given, bands=lsh.b, rows=lsh.r)


PRESETS = {
    "fineweb": Scheme(bands=14, rows=8),  # datatrove, examples/fineweb.py
    "dolma3": Scheme(bands=26, rows=11),  # Olmo 3 report, A.2.2
}


def _parse_scheme(value: Any) -> Any:
    if isinstance(value, str):
        if value not in PRESETS:
            raise ValueError(f"expected a scheme of {', '.join(sorted(PRESETS))}, or ngram, bands, rows, seed")
        return PRESETS[value]
    if isinstance(value, dict) and "similarity" in value:
        return Optimised.model_validate(value).scheme()
    return value


# A preset's name, or a mapping: with bands and rows, or with a similarity to choose them by.
SchemeField = Annotated[Scheme, BeforeValidator(_parse_scheme, json_schema_input_type=Scheme | Optimised | str)]


def _tokenizer_hash(path: str) -> str:
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{path}: no such tokenizer file; 'tokenizer' is the path of a tokenizer.json")
    return _hash_of(path, file.stat().st_mtime_ns, file.stat().st_size)


@functools.lru_cache(maxsize=8)
def _hash_of(path: str, changed: int, size: int) -> str:
    """The hash of a file; computed again if the file has changed."""
    return file_hash(Path(path))
