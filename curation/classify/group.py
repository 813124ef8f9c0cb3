"""Given fastText models in the measuring pass: a group of measurements, so that rules can use their scores."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import pyarrow as pa

from curation.classify.models import Applied, Predictions, load_applied
from curation.config import ConfigError
from curation.measure.group import Group


def in_the_pass(one: Applied) -> bool:
    """Whether a classifier runs while measuring: a given fastText file. A folder of `transformers` is too slow."""
    return one.settings.model is not None and one.path.is_file()


def columns_of(one: Applied) -> dict[str, pa.DataType]:
    """The columns of a classifier: its score, and its likeliest label where no label is asked for."""
    label = {} if one.settings.score_label() else {f"{one.name}_label": pa.string()}
    return {one.name: pa.float32(), **label}


def groups_of(classifiers: Iterable[Applied], taken: Iterable[str]) -> tuple[list[Group], dict[str, str], dict]:
    """Those that run while measuring as groups, with their inputs and literals, of the text after the edits.

    Raises ConfigError for a classifier that has the name of another measurement, one of `taken`.
    """
    chosen, taken = [one for one in classifiers if in_the_pass(one)], set(taken)
    for one in chosen:
        if clash := sorted(taken & set(columns_of(one))):
            raise ConfigError(
                f"classifiers.{one.name}: '{clash[0]}' is a measurement already; give it another name"
            )
    groups = [
        Group(f"classifier/{one.name}", columns_of(one), partial(_measure, one), edited=True) for one in chosen
    ]
    inputs = {f"model/{one.name}": one.hash for one in chosen}
    return groups, inputs, {one.name: one.literals() for one in chosen}


def arrays_of(one: Applied, predictions: Predictions) -> dict[str, pa.Array]:
    """Predictions as the columns of a classifier; null where the model says nothing."""
    model, asked = load_applied(one)
    found, best, wanted = predictions
    score = np.where(found >= 0, wanted if asked >= 0 else best, np.float32(np.nan)).astype(np.float32)
    arrays = {one.name: pa.array(score, pa.float32(), from_pandas=True)}
    if asked < 0:
        arrays[f"{one.name}_label"] = pa.array(model.labels, pa.string()).take(pa.array(found, mask=found < 0))
    return arrays


def _measure(one: Applied, documents: pa.Table, texts: pa.LargeStringArray) -> dict[str, pa.Array]:
    model, asked = load_applied(one)
    return arrays_of(one, model.predict(texts, asked))
