"""How much better the chosen answer of a pair is, from what its annotators said: the margin of a reward model.

Llama 2 takes 1, 2/3, 1/3 and 0, or 3, 2, 1 and 0, for significantly, plainly, slightly and negligibly better.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from curation.config import Strict
from curation.schema import metadata_of

NAME = "pair margin="  # how the transform of a row begins whose margin is known


class Margin(Strict):
    """A number of a pair's metadata, or what a word there stands for; less another number, scaled and bounded."""

    field: str = Field(min_length=1)  # dotted: rating, scores.chosen
    minus: str | None = None  # a second field: score_chosen minus score_rejected
    values: dict[str, float] = Field(default_factory=dict)  # by what the field says: {slightly better: 0.33}
    scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    at_most: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_way(self) -> Margin:
        if self.values and self.minus:
            raise ValueError("margin: give minus, of two numbers, or values, of words; not both")
        if any(value < 0 or not math.isfinite(value) for value in self.values.values()):
            raise ValueError("margin.values: expected finite numbers of at least 0")
        return self

    @property
    def name(self) -> str:
        """The transform as a manifest's rows name it; all that is needed to find the margin again."""
        return NAME + json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True, ensure_ascii=False)


def margin_of(name: str) -> Margin | None:
    """The margin in the name of a transform; None where there is none."""
    return Margin.model_validate_json(name.removeprefix(NAME)) if name.startswith(NAME) else None


def margins(table: pa.Table, margin: Margin) -> pa.Array:
    """The margin of each document (columns id, metadata), float32 (n,), at least 0; null where a field is missing.

    Raises ValueError naming the document, what its field says and what was expected.
    """
    rows = zip(table["id"].to_pylist(), table["metadata"].to_pylist(), strict=True)
    return pa.array([_margin(document, metadata_of(text), margin) for document, text in rows], pa.float32())


def _margin(document: str, metadata: dict[str, Any], margin: Margin) -> float | None:
    found = _at(metadata, margin.field)
    if found is None:
        return None
    if margin.values:
        said = found if isinstance(found, str) else json.dumps(found)
        if said not in margin.values:
            known = ", ".join(margin.values)
            raise ValueError(f"document {document}: {margin.field} is {said!r}; margin.values has {known}")
        number = margin.values[said]
    else:
        number = _number(document, margin.field, found)
        if margin.minus is not None:
            other = _at(metadata, margin.minus)
            if other is None:
                return None
            number -= _number(document, margin.minus, other)
    number = max(0.0, number * margin.scale)
    return number if margin.at_most is None else min(number, margin.at_most)


def _at(metadata: dict[str, Any], key: str) -> Any:
    """The value at a dotted key; a key that holds the dots itself comes first."""
    if key in metadata:
        return metadata[key]
    value: Any = metadata
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _number(document: str, field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"document {document}: {field} is {value!r}, expected a number; or give margin.values")
    return float(value)
