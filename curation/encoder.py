"""A tokenizer folder put to work: contents to ids, in bulk, with special tokens only where we place them.

`tokenizers` is the reference; `fastokens` encodes the same byte-level BPE many times faster and is used where the
tokenizer step has proven its ids equal on a sample of every pool (`encoder.json`). Where only the number of tokens
is asked for, `curation.tokenizer.counter` gives it without ids, on the same proof.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import fastokens
import numpy as np
import pyarrow as pa
import tokenizers

from curation.chat import END_OF_TURN, FILL_IN_MIDDLE, TURNS, Segments, Specials
from curation.executor import Kind
from curation.files import read_json
from curation.steps import StepOutput

FOLDER = "tokenizer"  # the Hugging Face folder within the tokenizer step's
CHOICE = "encoder.json"
THREADS = ("RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS")  # how large tokenizers and fastokens make their pools


@dataclass(frozen=True)
class Encoded:
    """Token ids of n documents, one after the other, t in all; m segments."""

    ids: np.ndarray  # uint32 (t,)
    mask: np.ndarray  # uint8 (t,): 1 where the token is in the loss
    starts: np.ndarray  # int64 (n + 1,): the tokens of document i are starts[i] to starts[i + 1]
    segment_starts: np.ndarray  # int64 (m + 1,): the same for segments

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64 (n,)."""
        return np.diff(self.starts)

    def first(self, counts: np.ndarray) -> Encoded:
        """The first tokens of documents of one segment each: `counts` (n,), all of those that have no more."""
        lengths = np.minimum(self.lengths, counts.astype(np.int64))
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        taken = np.arange(starts[-1]) + np.repeat(self.starts[:-1] - starts[:-1], lengths)
        return Encoded(self.ids[taken], self.mask[taken], starts, starts)


@dataclass(frozen=True)
class Counted:
    """How many tokens n documents of m segments have, special tokens with them."""

    segments: np.ndarray  # int64 (m,)
    lengths: np.ndarray  # int64 (n,)
    in_loss: np.ndarray  # int64 (n,): of the lengths


class Encoder:
    """Encodes contents by `library`, "fastokens" or "tokenizers". Safe to share between threads."""

    def __init__(self, folder: Path, library: str, counter: bool = False):
        """`folder`: a Hugging Face tokenizer with our turn tokens. Raises ValueError if it lacks one of them.

        counter: count by kernels of our own; raises ValueError for a tokenizer that they do not know.
        """
        config = read_json(folder / "tokenizer_config.json")
        self.reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.reference.no_truncation()
        self.reference.no_padding()
        self.reference.encode_special_tokens = True  # a special token spelled in a text is text
        self.vocab_size = self.reference.get_vocab_size(with_added_tokens=True)
        self.library = library
        if library == "fastokens":
            self._fast = fastokens.Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._fast.no_truncation()
            self._fast.no_padding()
        self._counter = None
        if counter:
            from curation.tokenizer.counter import Counter  # whoever reads needs no kernels

            self._counter = Counter(json.loads(self.reference.to_str()))
        self.specials = Specials(
            end_of_text=self._id(config["eos_token"], folder),
            end_of_turn=self._id(END_OF_TURN, folder),
            turns={turn: self._id(token, folder) for turn, token in TURNS.items()},
            others={token: number for token in FILL_IN_MIDDLE if (number := self._known(token)) is not None},
        )

    @property
    def counts_by(self) -> str:
        """What counts: "kernel", or the library."""
        return self.library if self._counter is None else "kernel"

    def kind_of_units(self, units: int, workers: int, count: bool = False) -> Kind:
        """Where so many units encode (or count): a library has one core in a worker process, in threads all."""
        return "either" if units >= workers or (count and self._counter is not None) else "threads"

    def _known(self, token: str) -> int | None:
        return self.reference.token_to_id(token)

    def _id(self, token: str, folder: Path) -> int:
        number = self._known(token)
        if number is None:
            raise ValueError(f"{folder}/tokenizer.json: no token {token!r}; make the folder by the tokenizer step")
        return number

    def contents(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of n texts, one after the other (uint32), and where each begins (int64, n + 1)."""
        if not texts:
            return np.empty(0, np.uint32), np.zeros(1, np.int64)
        if self.library == "fastokens":
            ids, offsets = self._fast.encode_batch_flat(texts, split_special_tokens=True)
            return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)
        encoded = self.reference.encode_batch_fast(texts, add_special_tokens=False)
        starts = np.cumsum([0, *(len(one.ids) for one in encoded)], dtype=np.int64)
        ids = np.empty(starts[-1], np.uint32)
        for one, start in zip(encoded, starts, strict=False):
            ids[start : start + len(one.ids)] = one.ids
        return ids, starts

    def lengths(self, texts: list[str] | pa.LargeStringArray) -> np.ndarray:
        """The number of ids of each of n texts (of Arrow: no null), int64 (n,)."""
        if self._counter is None:
            return np.diff(self.contents(texts if isinstance(texts, list) else texts.to_pylist())[1])
        return self._counter.count(pa.array(texts, pa.large_string()) if isinstance(texts, list) else texts)

    def count(self, segments: Segments) -> Counted:
        """How many ids `encode` gives."""
        closes = segments.closing >= 0
        learned = self.lengths(segments.contents) + closes
        sizes = learned + (segments.opening >= 0)
        before, before_in_loss = (
            np.concatenate([[0], np.cumsum(one)])[segments.starts] for one in (sizes, learned * segments.loss)
        )
        return Counted(sizes, np.diff(before), np.diff(before_in_loss))

    def decode(self, encoded: Encoded) -> list[str]:
        """The text of each document, without special tokens and without a character that a cut left incomplete."""
        spans = zip(encoded.starts[:-1], encoded.starts[1:], strict=True)
        texts = self.reference.decode_batch([encoded.ids[start:end].tolist() for start, end in spans])
        return [text.rstrip("\N{REPLACEMENT CHARACTER}") for text in texts]

    def encode(self, segments: Segments) -> Encoded:
        """The ids of documents with the special tokens around their contents, and the loss mask."""
        content, content_starts = self.contents(segments.contents.to_pylist())
        lengths = np.diff(content_starts)
        opens, closes = segments.opening >= 0, segments.closing >= 0
        starts = np.concatenate([[0], np.cumsum(lengths + opens + closes)]).astype(np.int64)
        ids = np.empty(starts[-1], np.uint32)
        mask = np.repeat(segments.loss, np.diff(starts)).astype(np.uint8)
        inside = np.ones(len(ids), bool)
        first, last = starts[:-1][opens], starts[1:][closes] - 1
        ids[first], ids[last] = segments.opening[opens], segments.closing[closes]
        mask[first] = 0
        inside[first] = inside[last] = False
        ids[inside] = content
        return Encoded(ids, mask, starts[segments.starts], starts)


def limit_threads(workers: int) -> None:
    """Let fastokens and tokenizers encode on at most `workers` threads each, in this process and those it starts.

    To be called before the first text is encoded: their pools start then, over all cores unless told otherwise,
    and keep their size. A variable that is set already stays.
    """
    for variable in THREADS:
        os.environ.setdefault(variable, str(workers))


def load_encoder(tokenizer: StepOutput | Path) -> Encoder:
    """The encoder of a tokenizer step (or its folder), by what the step has proven. Cached."""
    return _load(str(tokenizer.folder if isinstance(tokenizer, StepOutput) else tokenizer))


@functools.lru_cache(maxsize=4)
def _load(folder: str) -> Encoder:
    choice = read_json(Path(folder) / CHOICE)
    return Encoder(Path(folder) / FOLDER, choice["library"], choice.get("counter", False))
