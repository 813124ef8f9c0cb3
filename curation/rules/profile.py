"""Profiles of rules. A rule is data: a measurement, a comparison, a threshold and the source of its definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, field_validator, model_validator

from curation.config import ConfigError, Strict, load_config
from curation.measure.editors import EDITORS

PROFILES = Path(__file__).parent / "profiles"
COMPARISONS = ("drop_below", "drop_above", "keep_in")


def _many(value: Any) -> Any:
    """One value stands for a list of one."""
    return (value,) if isinstance(value, str) else value


Values = Annotated[
    tuple[str, ...], BeforeValidator(_many, json_schema_input_type=str | tuple[str, ...]), Field(min_length=1)
]
Where = dict[str, Values]  # text measurement -> the values that are meant; all of them must fit


class Rule(Strict):
    """Documents fail it whose `measurement` is below, above, or not among the values of the one comparison given.

    A threshold itself passes, unless the rule says `at_threshold: drop`. A measurement that is missing (null or
    NaN: no words to take a mean of, a language that was not looked for) fails only a rule that says
    `missing: drop`. With `where` the rule is for no other documents than those that fit it:
    `where: {language: [de, nl]}`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    measurement: str
    drop_below: float | None = None
    drop_above: float | None = None
    keep_in: Annotated[tuple[str, ...] | None, Field(min_length=1)] = None
    at_threshold: Literal["keep", "drop"] = "keep"
    missing: Literal["keep", "drop"] = "keep"
    where: Where = Field(default_factory=dict)
    source: Annotated[str, Field(min_length=1)]  # where definition and threshold come from

    @model_validator(mode="after")
    def _one_comparison(self) -> Rule:
        given = [name for name in COMPARISONS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"rule '{self.name}' needs one of {', '.join(COMPARISONS)}; found {found}")
        if self.keep_in is not None and self.at_threshold == "drop":
            raise ValueError(f"rule '{self.name}': at_threshold is for drop_below and drop_above, not for keep_in")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"rule '{self.name}': the threshold must be a finite number, found {self.threshold}")
        return self

    @property
    def comparison(self) -> str:
        """The one of COMPARISONS that is given."""
        return next(name for name in COMPARISONS if getattr(self, name) is not None)

    @property
    def threshold(self) -> float | None:
        """The number compared with; None for keep_in."""
        return self.drop_above if self.drop_below is None else self.drop_below


class Change(Strict):
    """What an override puts in the place of a rule's threshold or values."""

    drop_below: float | None = None
    drop_above: float | None = None
    keep_in: Annotated[tuple[str, ...] | None, Field(min_length=1)] = None


class Override(Strict):
    """Other thresholds for some documents, mostly those in a language: by rule name the change, or `off`."""

    where: Annotated[Where, Field(min_length=1)]
    rules: Annotated[dict[str, Change | Literal[False]], Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]  # where the change comes from


class Profile(Strict):
    """Rules in the order in which the recorded reason is looked for: the first one that fails.

    `edits` are made in their order before later stations read the text; which measurements are of the text before
    them, which of the text after, `curation.measure.station.measure` says; the language is that of the text after,
    unless the profile says `language_of: read`. Where several `overrides` of one rule
    fit a document, the last one counts.
    """

    name: str
    version: Annotated[int, Field(ge=1)]
    edits: tuple[str, ...] = ()  # names of `curation.measure.editors`
    language_of: Literal["read", "edited"] = "edited"
    rules: tuple[Rule, ...]
    overrides: tuple[Override, ...] = ()

    @field_validator("edits")
    @classmethod
    def _edits_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in EDITORS]:
            raise ValueError(f"there is no edit '{unknown[0]}'; choose among {', '.join(EDITORS)}")
        return names

    @model_validator(mode="after")
    def _names_differ(self) -> Profile:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"profile '{self.name}' has more than one rule named {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _overrides_fit(self) -> Profile:
        rules = {rule.name: rule for rule in self.rules}
        for number, override in enumerate(self.overrides):
            for name, change in override.rules.items():
                if name not in rules:
                    raise ValueError(
                        f"overrides.{number}: there is no rule '{name}'; there are {', '.join(rules)}"
                    )
                if change is not False:
                    changed(rules[name], change)
        return self

    @property
    def measurements(self) -> list[str]:
        """The columns that the rules read, each once, in the order of the rules; then those of `where`."""
        wheres = [*(rule.where for rule in self.rules), *(override.where for override in self.overrides)]
        columns = [*(rule.measurement for rule in self.rules), *(column for where in wheres for column in where)]
        return list(dict.fromkeys(columns))


def changed(rule: Rule, change: Change) -> Rule:
    """The rule with another threshold or other values. Raises ValueError for another kind of comparison."""
    given = change.model_dump(exclude_none=True)
    if list(given) != [rule.comparison]:
        found = " and ".join(given) or "none"
        raise ValueError(f"rule '{rule.name}' compares by {rule.comparison}; the override gives {found}")
    return Rule.model_validate(rule.model_dump() | given)


def profile_names() -> list[str]:
    """The names of the profiles that come with the package."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """A profile that comes with the package, by name, or one of the user's, by the path of its YAML file.

    What ends in .yaml or .yml or holds a slash is a path. Raises ConfigError naming the file and line.
    """
    name = str(name_or_path)
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return load_config(Path(name), Profile)
    if name not in profile_names():
        raise ConfigError(
            f"no rule profile is named '{name}': choose one of {', '.join(profile_names())}, "
            "or give the path of a YAML file"
        )
    return load_config(PROFILES / f"{name}.yaml", Profile)


def failures(profile: Profile, measured: pa.Table) -> np.ndarray:
    """Which rule each document fails, all rules looked at: bool, shape (rows, rules).

    Raises ConfigError for a rule whose measurement is no column of the table or of a type it cannot compare.
    """
    failed = np.zeros((measured.num_rows, len(profile.rules)), bool)
    for place, rule in enumerate(profile.rules):
        failed[:, place] = _fails(profile, rule, measured)
    return failed


def apply(profile: Profile, measured: pa.Table) -> tuple[np.ndarray, pa.StringArray, np.ndarray, np.ndarray]:
    """The decisions on a table of measurements: (keep, rule, value, threshold), each of shape (rows,).

    `rule` is the first one failed, null where the document is kept; `value` (float64) the measurement that it
    looked at and `threshold` what it was compared with, both NaN where there is none or it is no number.
    """
    return decisions(profile, measured, failures(profile, measured))


def decisions(
    profile: Profile, measured: pa.Table, failed: np.ndarray
) -> tuple[np.ndarray, pa.StringArray, np.ndarray, np.ndarray]:
    """What `apply` returns, from the result of `failures` on the same table."""
    dropped = failed.any(axis=1)
    first = failed.argmax(axis=1) if profile.rules else np.zeros(len(failed), np.int64)
    names = pa.array([rule.name for rule in profile.rules], pa.string())
    value, threshold = np.full(len(failed), np.nan), np.full(len(failed), np.nan)
    for place, rule in enumerate(profile.rules):
        if rule.threshold is not None:
            rows = dropped & (first == place)
            value[rows] = _numbers(measured[rule.measurement])[rows]
            for variant, fits in variants(profile, rule, measured):
                threshold[rows & fits] = variant.threshold
    return ~dropped, names.take(pa.array(first, mask=~dropped)), value, threshold


def variants(profile: Profile, rule: Rule, measured: pa.Table) -> list[tuple[Rule, np.ndarray]]:
    """The rule as it is applied to some of the rows, and which rows those are (bool, shape (rows,)).

    No row is in two of them; rows that the rule is not for, or for which it is off, are in none.
    """
    left = _fits(profile, rule.where, measured)
    found = []
    for override in reversed(profile.overrides):
        change = override.rules.get(rule.name)
        if change is not None:
            rows = left & _fits(profile, override.where, measured)
            left = left & ~rows
            if change is not False:
                found.append((changed(rule, change), rows))
    return [(rule, left), *found]


def _fits(profile: Profile, where: Where, measured: pa.Table) -> np.ndarray:
    rows = np.ones(measured.num_rows, bool)
    for name, values in where.items():
        column = _column(profile, f"where '{name}'", name, measured)
        if not _is_text(column.type):
            raise ConfigError(f"profile '{profile.name}': where '{name}': it is {column.type}; where needs text")
        rows &= pc.is_in(column, pa.array(values, column.type)).to_numpy()
    return rows


def _fails(profile: Profile, rule: Rule, measured: pa.Table) -> np.ndarray:
    column = _column(profile, f"rule '{rule.name}'", rule.measurement, measured)
    kind = column.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not (_is_text(kind) if rule.keep_in else number):
        wanted = "keep_in needs text" if rule.keep_in else "a threshold needs a number"
        raise ConfigError(
            f"profile '{profile.name}', rule '{rule.name}': measurement '{rule.measurement}' is {kind}; {wanted}"
        )
    values = None if rule.keep_in else _numbers(column)
    missing = column.is_null().to_numpy() if values is None else np.isnan(values)
    failed = np.zeros(len(column), bool)
    for variant, rows in variants(profile, rule, measured):
        if variant.keep_in is not None:
            fails = ~pc.is_in(column, pa.array(variant.keep_in, kind)).to_numpy()
        else:
            fails = values < variant.drop_below if variant.drop_below is not None else values > variant.drop_above
            fails |= (values == variant.threshold) & (rule.at_threshold == "drop")
        failed |= rows & np.where(missing, rule.missing == "drop", fails)
    return failed


def _column(profile: Profile, place: str, name: str, measured: pa.Table) -> pa.ChunkedArray:
    if name not in measured.column_names:
        raise ConfigError(
            f"profile '{profile.name}', {place}: there is no measurement '{name}'; "
            f"there are {', '.join(measured.column_names)}"
        )
    return measured[name]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A numeric column as float64, nulls as NaN."""
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
