"""Recipes: what a mix is made of, as a person writes it in YAML.

A recipe has lines; a line takes documents of one source (or of several, in proportion to their pools) or rows of
another mix, by exactly one rule: a share of the budget, tokens, a fraction of the pool, the whole, the remainder.
A line may have lines itself: they divide its tokens by the same rules, and have its source and filters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, PrivateAttr, field_validator, model_validator

from curation.config import Count, Share, Strict, load_located, place_of
from curation.files import json_hash
from curation.mix.filters import Bounds, GzipCut, Names, Upsample, Vigintiles, exact
from curation.preference.admit import Pairs
from curation.preference.margin import Margin
from curation.schema import LENGTH_BUCKETS
from curation.transforms.fim import Fim

Kind = Literal["pretrain", "midtrain", "long-context", "instruction", "preference"]
Rendering = Literal["none", "chat", "chat_plain", "pair"]
RENDERINGS = get_args(Rendering)
AMOUNTS = ("share", "tokens", "fraction", "whole", "remainder")
FILTERS = ("quality", "length", "language", "topic", "where", "gzip")
# What the lines within a line have of it, unless they say otherwise.
HANDED_DOWN = ("source", *FILTERS, "by", "upsample", "max_repeats", "transform", "margin")
Axis = Literal["topic", "language", "quality", "length"]
SHARES_TOLERANCE = Fraction(1, 1000)  # published shares are rounded: they may miss 1 by this much

# The transform of a document, by kind of document, where a line names none. Chat in a base model's mix is plain
# text: special tokens of a chat template there hurt the base model (Olmo 3 report, 3.5.4).
DEFAULT_TRANSFORM: dict[str, dict[str, Rendering]] = {
    "base": {"text": "none", "chat": "chat_plain"},
    "instruction": {"chat": "chat"},
    "preference": {"pairs": "pair"},
}
ALLOWED_TRANSFORMS = {"text": ("none",), "chat": ("chat", "chat_plain"), "pairs": ("pair",)}


class Transforms(Strict):
    """A transform with settings, of text in a base model's mix."""

    fim: Fim

    @property
    def name(self) -> str:
        """As the rows of a manifest name it."""
        return self.fim.name


class Line(Strict):
    """One line of a recipe."""

    source: Names = ()
    mix: str | None = None  # take rows of this mix instead (replay)
    share: Share | None = Field(None, gt=0, le=1)  # of the budget, or of the tokens of the line around it
    tokens: Count | None = Field(None, gt=0)
    fraction: Share | None = Field(None, gt=0)  # of each source's pool; above 1 repeats
    whole: Literal[True] | None = None  # every document once
    remainder: Literal[True] | None = None  # what the other lines leave of the budget
    min_tokens: Count | None = Field(None, gt=0)  # floor of a share or a remainder
    min_repeats: float | None = Field(None, gt=0)  # floor, in pools
    max_repeats: float = Field(1.0, gt=0, le=1000)  # how often a pool's tokens may be taken
    quality: Vigintiles | None = None
    length: Names = ()
    language: Names = ()
    topic: Names = ()
    where: dict[str, Bounds] = Field(default_factory=dict)  # by any column of the catalog or the measurements
    gzip: GzipCut | None = None  # of what the other filters leave of each source
    by: tuple[Axis, ...] = ()  # what the account's buckets go by; quality and length filters go by themselves
    label: str | None = Field(None, pattern=r"^[^/:]+$")  # of its buckets, instead of its topics and languages
    upsample: Upsample | None = None
    margin: Margin | None = None  # of pairs: how much better the chosen answer is, from their metadata
    transform: Rendering | Transforms | None = None  # of chat: chat or chat_plain; of text: {fim: {...}}
    lines: tuple[Line, ...] = ()  # how this line's tokens are divided

    @field_validator("length")
    @classmethod
    def _known_buckets(cls, length: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [bucket for bucket in length if bucket not in LENGTH_BUCKETS]
        if unknown:
            raise ValueError(f"no length bucket {', '.join(unknown)}; there are {', '.join(LENGTH_BUCKETS)}")
        return length

    @model_validator(mode="after")
    def _one_rule(self) -> Line:
        if (self.source or not self.lines) and bool(self.source) == bool(self.mix):
            raise ValueError("give either source or mix")
        if len(set(self.source)) < len(self.source):
            raise ValueError("a source is named twice")
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(AMOUNTS)}; found {', '.join(given) or 'none'}")
        self._mix_is_taken_as_it_is(given[0])
        self._upsamples_one_pool()
        if self.quality and self.length and not self.by:
            raise ValueError("a line's buckets are by quality or by length; split the line, or say `by`")
        if (self.fraction or 0) > self.max_repeats or (self.whole and self.max_repeats < 1):
            raise ValueError(f"more than max_repeats {self.max_repeats} of the pool is asked for")
        self._has_a_floor_that_can_be(given[0])
        if self.lines:
            if self.mix:
                raise ValueError("the rows of a mix are not divided; remove lines")
            divides(self.lines, True)
        return self

    def _mix_is_taken_as_it_is(self, amount: str) -> None:
        others = (*FILTERS, "upsample", "by", "label", "transform", "margin")
        if self.mix and (extra := [name for name in others if getattr(self, name)]):
            raise ValueError(f"a line that takes a mix takes its rows as they are: remove {', '.join(extra)}")
        if self.mix and amount not in ("share", "tokens"):
            raise ValueError(f"a line that takes a mix takes a share or tokens of it, not {amount}")

    def _upsamples_one_pool(self) -> None:
        if not self.upsample:
            return
        if len(self.source) > 1:
            raise ValueError("upsample goes by one source's quality: give each source its own line")
        if (self.length or self.whole or self.fraction or self.by not in ((), ("quality",))) and not self.lines:
            raise ValueError("upsample goes with share, tokens or remainder, without length, and by quality alone")
        if self.max_repeats <= 1:
            raise ValueError("upsample needs max_repeats above 1: it is the rate that the best bucket may reach")

    def _has_a_floor_that_can_be(self, amount: str) -> None:
        if self.min_tokens and amount not in ("share", "remainder"):
            raise ValueError(f"min_tokens is a floor of a share or a remainder, not of {amount}")
        if self.min_repeats and (self.mix or self.upsample or amount in ("fraction", "whole")):
            raise ValueError("min_repeats goes with share, tokens or remainder of a source, without upsample")
        if (self.min_repeats or 0) > self.max_repeats:
            raise ValueError(f"min_repeats {self.min_repeats:g} is above max_repeats {self.max_repeats:g}")

    @property
    def name(self) -> str:
        """How messages call the line."""
        own = f"mix:{self.mix}" if self.mix else "+".join(self.source)
        return " ".join(filter(None, [own, self.label or "+".join((*self.topic, *self.language))])) or "group"

    def leaves(self, at: str) -> Iterator[tuple[str, Line]]:
        """The lines that take something: itself, or those within it, each with its place ("lines.0.lines.3")."""
        if not self.lines:
            yield at, self
        for number, line in enumerate(self.lines):
            yield from line.leaves(f"{at}.lines.{number}")


def divides(lines: Sequence[Line], budget: bool, underfill: bool = False) -> None:
    """Raise ValueError unless these lines can divide a budget, or stand without one."""
    relative = [line.name for line in lines if line.share is not None or line.remainder]
    if relative and not budget:
        raise ValueError(f"lines {', '.join(relative)} are parts of a budget: give budget, in tokens")
    total = sum((exact(line.share) for line in lines if line.share is not None), Fraction(0))
    if total > 1 + SHARES_TOLERANCE:
        raise ValueError(f"the shares add up to {float(total):.4%}, which is more than the budget")
    if all(line.share is not None for line in lines) and total < 1 - SHARES_TOLERANCE and not underfill:
        raise ValueError(f"the shares add up to {float(total):.4%}: raise them or add a remainder line")


def _handed_down(line: Any) -> Any:
    """A line as it was read, its lines with what they have of it."""
    if not isinstance(line, dict) or not isinstance(line.get("lines"), list | tuple):
        return line
    given = {key: line[key] for key in HANDED_DOWN if line.get(key) is not None}
    lines = [
        _handed_down(given | {key: value for key, value in child.items() if value is not None})
        if isinstance(child, dict) and not child.get("mix")
        else child
        for child in line["lines"]
    ]
    return line | {"lines": lines}


class Recipe(Strict):
    """A mix: its kind, its budget in tokens and its lines."""

    kind: Kind
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    pipeline: str | None = None  # the pipeline file that makes its pools, relative to this one
    seed: int = 0
    budget: Count | None = Field(None, gt=0)
    sequence_length: int | None = Field(None, gt=0)  # at which occurrences are cut into fragments
    on_shortage: Literal["error", "take_all"] = "error"
    underfill: Literal[True] | None = None  # the shares do not fill the budget, and are not meant to
    pairs: Pairs | None = None  # of a preference mix: which pairs it may take
    exact: bool = False  # cut the last document of each line and bucket, so that its tokens are met to the token
    without: Names = ()  # mixes whose documents it never takes: a held-out set made by a recipe of its own
    lines: tuple[Line, ...] = Field(min_length=1)

    _places: dict[tuple, str] = PrivateAttr(default_factory=dict)  # in the file it was read from

    @model_validator(mode="before")
    @classmethod
    def _hand_down(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("lines"), list | tuple):
            return data | {"lines": [_handed_down(line) for line in data["lines"]]}
        return data

    @model_validator(mode="after")
    def _adds_up(self) -> Recipe:
        divides(self.lines, self.budget is not None, bool(self.underfill))
        mixes = [line.mix for line in self.leaves().values() if line.mix]
        if len(set(mixes)) < len(mixes) or self.name in mixes:
            raise ValueError("a mix is taken by one line at most, and never by itself")
        if set(self.without) & {*mixes, self.name}:
            raise ValueError("without names mixes whose documents are not taken: it cannot be one that is")
        margins = any(line.margin for line in self.leaves().values())
        if self.kind != "preference" and (self.pairs or margins):
            raise ValueError(f"pairs and margin are of preference mixes; this one is of kind {self.kind}")
        if self.exact and self.kind in DEFAULT_TRANSFORM:
            raise ValueError(f"exact: the documents of a mix of kind {self.kind} are not cut; leave it out")
        return self

    def leaves(self) -> dict[str, Line]:
        """The lines that take something, by their place in the recipe ("lines.0", "lines.1.lines.3")."""
        return dict(leaf for n, line in enumerate(self.lines) for leaf in line.leaves(f"lines.{n}"))

    def parents(self) -> list[str]:
        """The mixes whose rows it takes or leaves out, sorted."""
        return sorted({*self.without, *(line.mix for line in self.leaves().values() if line.mix)})

    def sources(self) -> list[str]:
        """The sources whose documents it takes itself, sorted."""
        return sorted({source for line in self.leaves().values() for source in line.source})

    def where(self, place: str) -> str:
        """A line for messages: its place in the recipe, after file, line and column where they are known."""
        at = tuple(int(part) if part.isdigit() else part for part in place.split("."))
        known = place_of(at, self._places, "")
        return f"{known}: {place}" if known else place

    def text(self) -> str:
        """The recipe in canonical YAML: what the manifest holds. The pipeline's path is no part of it."""
        literals = _without_empty(self.model_dump(mode="json", exclude={"pipeline"}, exclude_none=True))
        return yaml.safe_dump(literals, sort_keys=False, allow_unicode=True, width=math.inf)

    @property
    def hash(self) -> str:
        """Hash of the recipe's literals, 64 hex digits. Comments and formatting do not change it."""
        return json_hash(yaml.safe_load(self.text()))

    def transforms(self) -> dict[str, list[str]]:
        """The transforms with settings, sorted, by source: their tokens are counted before the mix is planned."""
        wanted = [(source, line) for line in self.leaves().values() for source in line.source]
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


def _without_empty(value: Any) -> Any:
    """Without keys whose value is an empty list or mapping; a filter without keys of its own stays."""
    if isinstance(value, dict):
        return {key: _without_empty(child) for key, child in value.items() if child != [] and child != {}}
    return [_without_empty(child) for child in value] if isinstance(value, list) else value


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file. `overrides` are "dotted.key=value". Raises curation.config.ConfigError."""
    recipe, recipe._places = load_located(path, Recipe, overrides)
    return recipe
