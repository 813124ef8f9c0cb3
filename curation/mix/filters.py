"""What a line of a recipe may ask of a document: filters on what was measured, and upsampling by quality."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from curation.config import Share, Strict


def exact(number: float) -> Fraction:
    """The decimal that a person wrote: 0.1 is 1/10, not the nearest binary fraction."""
    return Fraction(repr(number))


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple, json_schema_input_type=str | tuple[str, ...])]


class Vigintiles(Strict):
    """Quality filter: vigintiles of the source's tokens by quality, 1 (worst) to 20 (best)."""

    min_vigintile: int = Field(1, ge=1, le=20)
    max_vigintile: int = Field(20, ge=1, le=20)

    @model_validator(mode="after")
    def _ordered(self) -> Vigintiles:
        if self.min_vigintile > self.max_vigintile:
            raise ValueError(f"min_vigintile {self.min_vigintile} is above max_vigintile {self.max_vigintile}")
        return self


class GzipCut(Strict):
    """Compressibility filter: shares of a source's documents, by the gzip ratio (compressed / original bytes)."""

    drop_lowest: Share = Field(0.2, ge=0, lt=1)  # the most compressible
    drop_highest: Share = Field(0.2, ge=0, lt=1)  # the least compressible

    @model_validator(mode="after")
    def _leaves_some(self) -> GzipCut:
        if exact(self.drop_lowest) + exact(self.drop_highest) >= 1:
            raise ValueError(
                f"drop_lowest {self.drop_lowest:g} and drop_highest {self.drop_highest:g} drop everything"
            )
        return self


class Bounds(Strict):
    """What a measurement must be: within bounds, both included, or one of some values. Null is neither."""

    min: float | None = None
    max: float | None = None
    among: Names = ()

    @model_validator(mode="after")
    def _says_something(self) -> Bounds:
        if self.min is None and self.max is None and not self.among:
            raise ValueError("give min, max or among")
        if self.among and (self.min is not None or self.max is not None):
            raise ValueError("among is for words, min and max are for numbers: give one kind")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class Upsample(Strict):
    """Quality-aware upsampling: nothing below the cut, then a rate that rises up to the line's max_repeats."""

    cut: Share = Field(0.4, ge=0, lt=1)  # share of the pool's tokens, worst first, that is left out
