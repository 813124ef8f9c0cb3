"""Classification models behind one interface: fastText in the kernel or in its library, `transformers` folders."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from curation.classify.prepare import prepared, prepared_texts
from curation.classify.settings import Classifier
from curation.config import ConfigError
from curation.files import file_hash, json_hash
from curation.measure.fasttext_kernel import predict_label
from curation.measure.fasttext_model import read_model
from curation.steps import StepOutput

LABEL = "__label__"
Predictions = tuple[np.ndarray, np.ndarray, np.ndarray]


class Model(Protocol):
    """A loaded model."""

    labels: list[str]

    def predict(self, texts: pa.LargeStringArray, asked: int) -> Predictions:
        """Of each text the place of its likeliest label (int32, -1 if none), its score, and that of label `asked`.

        Scores are float32 in 0..1; the last ones are 0 where `asked` is -1.
        """


@dataclass(frozen=True)
class Applied:
    """A classifier that is ready to be applied: its name, where its model is, the model's hash, its settings."""

    name: str
    path: Path
    hash: str
    settings: Classifier
    made: StepOutput | None = None  # the step that has made it

    def fetch(self) -> None:
        """See to it that the model is here, where its step is on a store."""
        if self.made is not None:
            self.made.file(self.path.name)

    def literals(self) -> dict:
        """What of the settings decides a prediction."""
        return {"positive": self.settings.score_label()} | self.settings.model_dump(
            include={"prefix", "lowercase", "split_punctuation", "max_tokens"}
        )


def given(name: str, settings: Classifier, folder: Path) -> Applied:
    """The classifier of a model file or folder, relative to `folder`. Raises ConfigError if there is none."""
    path = folder / settings.model
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        return Applied(
            name, path, json_hash([[str(one.relative_to(path)), file_hash(one)] for one in files]), settings
        )
    if not path.is_file():
        raise ConfigError(f"classifiers.{name}.model: {path} is neither a fastText file nor a folder of a model")
    return Applied(name, path, file_hash(path), settings)


@functools.lru_cache(maxsize=8)
def load(path: Path, digest: str, prefix: int, normalised: tuple[bool, bool], max_tokens: int) -> Model:
    """Read a model; kept for the next shard. `digest` is the hash of its bytes: another one is another model."""
    if path.is_dir():
        from curation.classify.transformer import TransformerModel

        return TransformerModel(path, prefix, max_tokens)
    model = read_model(path)
    return KernelModel(model, prefix, *normalised) if model else LibraryModel(path, prefix, *normalised)


def load_applied(applied: Applied) -> tuple[Model, int]:
    """The model of a classifier and the place of the label that is its score, -1 for none. Raises ConfigError."""
    settings = applied.settings
    model = load(applied.path, applied.hash, settings.prefix, settings.normalised(), settings.max_tokens)
    label = settings.score_label()
    if label is not None and label not in model.labels:
        shown = ", ".join(model.labels[:10])
        raise ConfigError(f"classifiers.{applied.name}: the model has no label '{label}'; it has {shown}")
    return model, model.labels.index(label) if label is not None else -1


class KernelModel:
    """A fastText model in our kernel, which releases the interpreter lock."""

    def __init__(self, model, prefix: int, lowercase: bool, split: bool):
        self.labels, self._model, self._seen = model.labels, model, (prefix, lowercase, split)

    def predict(self, texts: pa.LargeStringArray, asked: int) -> Predictions:
        data, offsets = prepared(texts, *self._seen)
        labels, scores, wanted = predict_label(self._model, data, offsets[:-1], offsets[1:], asked)
        return labels, np.minimum(scores, 1), np.minimum(wanted, 1)  # a softmax of fastText reaches 1.00001


class LibraryModel:
    """A fastText model of a kind that the kernel does not cover (see `read_model`), in the library."""

    def __init__(self, path: Path, prefix: int, lowercase: bool, split: bool):
        import fasttext

        self._model, self._seen = fasttext.load_model(str(path)), (prefix, lowercase, split)
        self.labels = [label.removeprefix(LABEL) for label in self._model.get_labels()]
        self._places = {label: place for place, label in enumerate(self._model.get_labels())}

    def predict(self, texts: pa.LargeStringArray, asked: int) -> Predictions:
        labels, scores = np.full(len(texts), -1, np.int32), np.zeros(len(texts), np.float32)
        wanted = np.zeros(len(texts), np.float32)
        for row, text in enumerate(prepared_texts(texts, *self._seen)):
            found = self._model.f.predict(text + "\n", len(self.labels) if asked >= 0 else 1, 0.0, "strict")
            if found:
                scores[row], labels[row] = min(1.0, found[0][0]), self._places[found[0][1]]
            wanted[row] = next((min(1.0, p) for p, label in found if self._places[label] == asked), 0.0)
        return labels, scores, wanted
