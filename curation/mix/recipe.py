"""Recipes: what a mix is made of, as a person writes it in YAML.

A recipe has lines; a line takes documents of one source (or of several, in proportion to their pools) or rows of
another mix, by exactly one rule: a share of the budget, tokens, a fraction of the pool, the whole, the remainder.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from curation.config import Count, Share, Strict, load_config
from curation.files import json_hash
from curation.preference.admit import Pairs
from curation.preference.margin import Margin
from curation.schema import LENGTH_BUCKETS
from curation.transforms.fim import Fim

Kind = Literal["pretrain", "midtrain", "long-context", "instruction", "preference"]
Rendering = Literal["none", "chat", "chat_plain", "pair"]
RENDERINGS = get_args(Rendering)
AMOUNTS = ("share", "tokens", "fraction", "whole", "remainder")
SHARES_TOLERANCE = Fraction(1, 1000)  # published shares are rounded: they may miss 1 by this much

# The transform of a document, by kind of document, where a line names none. Chat in a base model's mix is plain
# text: special tokens of a chat template there hurt the base model (Olmo 3 report, 3.5.4).
DEFAULT_TRANSFORM: dict[str, dict[str, Rendering]] = {
    "base": {"text": "none", "chat": "chat_plain"},
    "instruction": {"chat": "chat"},
    "preference": {"pairs": "pair"},
}
ALLOWED_TRANSFORMS = {"text": ("none",), "chat": ("chat", "chat_plain"), "pairs": ("pair",)}


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


class Transforms(Strict):
    """A transform with settings, of text in a base model's mix."""

    fim: Fim

    @property
    def name(self) -> str:
        """As the rows of a manifest name it."""
        return self.fim.name


class Upsample(Strict):
    """Quality-aware upsampling: nothing below the cut, then a rate that rises up to the line's max_repeats."""

    cut: Share = Field(0.4, ge=0, lt=1)  # share of the pool's tokens, worst first, that is left out


class Line(Strict):
    """One line of a recipe."""

    source: Names = ()
    mix: str | None = None  # take rows of this mix instead (replay)
    share: Share | None = Field(None, gt=0, le=1)  # of the budget
    tokens: Count | None = Field(None, gt=0)
    fraction: Share | None = Field(None, gt=0)  # of each source's pool; above 1 repeats
    whole: Literal[True] | None = None  # every document once
    remainder: Literal[True] | None = None  # what the other lines leave of the budget
    max_repeats: float = Field(1.0, gt=0, le=1000)  # how often a pool's tokens may be taken
    quality: Vigintiles | None = None
    length: Names = ()
    language: Names = ()
    topic: Names = ()
    gzip: GzipCut | None = None  # of what the other filters leave of each source
    upsample: Upsample | None = None
    margin: Margin | None = None  # of pairs: how much better the chosen answer is, from their metadata
    transform: Rendering | Transforms | None = None  # of chat: chat or chat_plain; of text: {fim: {...}}

    @field_validator("length")
    @classmethod
    def _known_buckets(cls, length: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [bucket for bucket in length if bucket not in LENGTH_BUCKETS]
        if unknown:
            raise ValueError(f"no length bucket {', '.join(unknown)}; there are {', '.join(LENGTH_BUCKETS)}")
        return length

    @model_validator(mode="after")
    def _one_rule(self) -> Line:
        if bool(self.source) == bool(self.mix):
            raise ValueError("give either source or mix")
        if len(set(self.source)) < len(self.source):
            raise ValueError("a source is named twice")
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(AMOUNTS)}; found {', '.join(given) or 'none'}")
        of_documents = [
            name for name in ("quality", "length", "language", "topic", "gzip", "upsample") if getattr(self, name)
        ]
        of_rows = [name for name in ("transform", "margin") if getattr(self, name)]
        if self.mix and (of_documents or of_rows):
            extra = [*of_documents, *of_rows]
            raise ValueError(f"a line that takes a mix takes its rows as they are: remove {', '.join(extra)}")
        if self.mix and given not in (["share"], ["tokens"]):
            raise ValueError(f"a line that takes a mix takes a share or tokens of it, not {given[0]}")
        if self.upsample and len(self.source) > 1:
            raise ValueError("upsample goes by one source's quality: give each source its own line")
        if self.upsample and (self.length or self.whole or self.fraction):
            raise ValueError("upsample goes with share, tokens or remainder, and without length")
        if self.upsample and self.max_repeats <= 1:
            raise ValueError("upsample needs max_repeats above 1: it is the rate that the best bucket may reach")
        if self.quality and self.length:
            raise ValueError("a line's buckets are by quality or by length; split the line")
        if (self.fraction or 0) > self.max_repeats or (self.whole and self.max_repeats < 1):
            raise ValueError(f"more than max_repeats {self.max_repeats} of the pool is asked for")
        return self

    @property
    def name(self) -> str:
        """How messages call the line."""
        return f"mix:{self.mix}" if self.mix else "+".join(self.source)


class Recipe(Strict):
    """A mix: its kind, its budget in tokens and its lines."""

    kind: Kind
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    pipeline: str | None = None  # the pipeline file that makes its pools, relative to this one
    seed: int = 0
    budget: Count | None = Field(None, gt=0)
    sequence_length: int | None = Field(None, gt=0)  # at which occurrences are cut into fragments
    on_shortage: Literal["error", "take_all"] = "error"
    pairs: Pairs | None = None  # of a preference mix: which pairs it may take
    exact: bool = False  # cut the last document of each line and bucket, so that its tokens are met to the token
    lines: tuple[Line, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Recipe:
        relative = [line.name for line in self.lines if line.share is not None or line.remainder]
        if relative and self.budget is None:
            raise ValueError(f"lines {', '.join(relative)} are parts of a budget: give budget, in tokens")
        mixes = [line.mix for line in self.lines if line.mix]
        if len(set(mixes)) < len(mixes) or self.name in mixes:
            raise ValueError("a mix is taken by one line at most, and never by itself")
        if self.kind != "preference" and (self.pairs or any(line.margin for line in self.lines)):
            raise ValueError(f"pairs and margin are of preference mixes; this one is of kind {self.kind}")
        if self.exact and self.kind in DEFAULT_TRANSFORM:
            raise ValueError(f"exact: the documents of a mix of kind {self.kind} are not cut; leave it out")
        total = sum((exact(line.share) for line in self.lines if line.share is not None), Fraction(0))
        if total > 1 + SHARES_TOLERANCE:
            raise ValueError(f"the shares add up to {float(total):.4%}, which is more than the budget")
        if all(line.share is not None for line in self.lines) and total < 1 - SHARES_TOLERANCE:
            raise ValueError(f"the shares add up to {float(total):.4%}: raise them or add a remainder line")
        return self

    def parents(self) -> list[str]:
        """The mixes whose rows it takes, sorted."""
        return sorted(line.mix for line in self.lines if line.mix)

    def sources(self) -> list[str]:
        """The sources whose documents it takes itself, sorted."""
        return sorted({source for line in self.lines for source in line.source})

    def text(self) -> str:
        """The recipe in canonical YAML: what the manifest holds. The pipeline's path is no part of it."""
        literals = self.model_dump(mode="json", exclude={"pipeline"}, exclude_none=True)
        literals["lines"] = [
            {key: value for key, value in line.items() if value != []} for line in literals["lines"]
        ]
        return yaml.safe_dump(literals, sort_keys=False, allow_unicode=True, width=math.inf)

    @property
    def hash(self) -> str:
        """Hash of the recipe's literals, 64 hex digits. Comments and formatting do not change it."""
        return json_hash(yaml.safe_load(self.text()))

    def transforms(self) -> dict[str, list[str]]:
        """The transforms with settings, sorted, by source: their tokens are counted before the mix is planned."""
        wanted = [(source, line) for line in self.lines for source in line.source]
        found: dict[str, set[str]] = {}
        for source, line in wanted:
            if isinstance(line.transform, Transforms):
                found.setdefault(source, set()).add(line.transform.name)
        return {source: sorted(names) for source, names in sorted(found.items())}

    def transform_of(self, line: Line, kind: str, source: str) -> str:
        """How a document of `kind` (text, chat, pairs) is rendered in this mix. Raises ValueError."""
        family = self.kind if self.kind in DEFAULT_TRANSFORM else "base"
        default = DEFAULT_TRANSFORM[family].get(kind)
        if default is None:
            takes = " or ".join(DEFAULT_TRANSFORM[family])
            raise ValueError(f"source '{source}' holds {kind}, the {self.kind} mix '{self.name}' takes {takes}")
        if isinstance(line.transform, Transforms):
            if kind != "text" or family != "base":
                raise ValueError(
                    f"line {line.name}: transform fim is of text in a base model's mix; source '{source}' holds "
                    f"{kind}, and the mix is of kind {self.kind}"
                )
            return line.transform.name
        if line.margin is not None:
            return line.margin.name
        chosen = line.transform or default
        if chosen not in ALLOWED_TRANSFORMS[kind] or (family != "base" and chosen != default):
            raise ValueError(
                f"line {line.name}: transform {chosen} does not fit {kind} in a {self.kind} mix; leave it out"
            )
        return chosen


def exact(number: float) -> Fraction:
    """The decimal that a person wrote: 0.1 is 1/10, not the nearest binary fraction."""
    return Fraction(repr(number))


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file. `overrides` are "dotted.key=value". Raises curation.config.ConfigError."""
    return load_config(path, Recipe, overrides)
