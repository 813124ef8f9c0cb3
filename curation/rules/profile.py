"""Profiles of rules. A rule is data: a measurement, a comparison, a threshold and the source of its definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from curation.config import ConfigError, Strict, load_config

PROFILES = Path(__file__).parent / "profiles"


class Rule(Strict):
    """Documents fail it whose `measurement` is below, above, or not among the values of the one comparison given.

    A threshold itself passes. A measurement that is missing (null or NaN: no words to take a mean of, a language
    that was not looked for) fails only a rule that says `missing: drop`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    measurement: str
    drop_below: float | None = None
    drop_above: float | None = None
    keep_in: Annotated[tuple[str, ...] | None, Field(min_length=1)] = None
    missing: Literal["keep", "drop"] = "keep"
    source: Annotated[str, Field(min_length=1)]  # where definition and threshold come from

    @model_validator(mode="after")
    def _one_comparison(self) -> Rule:
        given = [name for name in ("drop_below", "drop_above", "keep_in") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"rule '{self.name}' needs one of drop_below, drop_above, keep_in; found {found}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"rule '{self.name}': the threshold must be a finite number, found {self.threshold}")
        return self

    @property
    def threshold(self) -> float | None:
        """The number compared with; None for keep_in."""
        return self.drop_above if self.drop_below is None else self.drop_below


class Profile(Strict):
    """Rules in the order in which the recorded reason is looked for: the first one that fails."""

    name: str
    version: Annotated[int, Field(ge=1)]
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Profile:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"profile '{self.name}' has more than one rule named {', '.join(twice)}")
        return self

    @property
    def measurements(self) -> list[str]:
        """The columns that the rules read, each once, in the order of the rules."""
        return list(dict.fromkeys(rule.measurement for rule in self.rules))


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
            threshold[rows] = rule.threshold
    return ~dropped, names.take(pa.array(first, mask=~dropped)), value, threshold


def _fails(profile: Profile, rule: Rule, measured: pa.Table) -> np.ndarray:
    if rule.measurement not in measured.column_names:
        raise ConfigError(
            f"profile '{profile.name}', rule '{rule.name}': there is no measurement '{rule.measurement}'; "
            f"there are {', '.join(measured.column_names)}"
        )
    column = measured[rule.measurement]
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not (text if rule.keep_in else number):
        wanted = "keep_in needs text" if rule.keep_in else "a threshold needs a number"
        raise ConfigError(
            f"profile '{profile.name}', rule '{rule.name}': measurement '{rule.measurement}' is {kind}; {wanted}"
        )
    if rule.keep_in:
        missing = column.is_null().to_numpy()
        failed = ~pc.is_in(column, pa.array(rule.keep_in, kind)).to_numpy()
    else:
        values = _numbers(column)
        missing = np.isnan(values)
        failed = values < rule.drop_below if rule.drop_below is not None else values > rule.drop_above
    return np.where(missing, rule.missing == "drop", failed)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A numeric column as float64, nulls as NaN."""
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
