"""What another threshold would change, from stored measurements: the command `whatif`."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from pydantic import ValidationError

from curation.config import ConfigError
from curation.rules.profile import Change, Profile, Rule, changed, failures, variants
from flows.pools import MeasuredPool, require_measurements
from flows.report import human
from flows.report.measurements import SHARES, Histogram
from flows.report.reading import Place, documents, readable

SNIPPET = 160  # characters of an example
OFF = "off"


@dataclass(frozen=True)
class Setting:
    """A rule of a profile and what takes its place: `new` is None where the rule is switched off."""

    old: Rule
    new: Rule | None

    @property
    def told(self) -> str:
        return f"{self.old.name} {told(self.old)} → {told(self.new)}"


@dataclass(frozen=True)
class Example:
    """A document whose fate changes, or, where none's does, one of those nearest to the new threshold."""

    rule: str
    value: float | str | None
    fate: str  # gained, lost, unchanged
    id: str
    place: Place
    text: str


@dataclass(frozen=True)
class Effect:
    """One source under the profile as it is and as it would be. Pairs are (documents, tokens)."""

    source: str
    all: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    gained: tuple[int, int]
    lost: tuple[int, int]
    estimated: bool


@dataclass(frozen=True)
class WhatIf:
    """The answer: an effect a source, examples, and of each numeric rule the histogram of its measurement."""

    profile: Profile
    settings: list[Setting]
    effects: list[Effect]
    examples: list[Example]
    histograms: dict[str, Histogram]  # by measurement

    def total(self) -> Effect:
        pairs = ("all", "before", "after", "gained", "lost")
        sums = [tuple(map(sum, zip(*(getattr(one, name) for one in self.effects), strict=True))) for name in pairs]
        return Effect("total", *sums, any(one.estimated for one in self.effects))

    def as_json(self) -> dict[str, Any]:
        def plain(effect: Effect) -> dict[str, Any]:
            pairs = {name: value for name, value in asdict(effect).items() if isinstance(value, tuple)}
            named = {name: dict(zip(("documents", "tokens"), pair, strict=True)) for name, pair in pairs.items()}
            return {"source": effect.source, **named, "tokens_estimated": effect.estimated}

        return {
            "profile": self.profile.name,
            "version": self.profile.version,
            "settings": [
                {"rule": one.old.name, "old": _json(one.old), "new": _json(one.new)} for one in self.settings
            ],
            "sources": [plain(one) for one in self.effects],
            "total": plain(self.total()),
            "examples": [{**asdict(one), "place": one.place._asdict()} for one in self.examples],
        }


def told(rule: Rule | None) -> str:
    """A rule's threshold or values in a word; "off" for none."""
    if rule is None:
        return OFF
    return ",".join(rule.keep_in) if rule.keep_in else human.number(rule.threshold)


def _json(rule: Rule | None) -> float | list[str] | None:
    if rule is None:
        return None
    return list(rule.keep_in) if rule.keep_in else rule.threshold


def parse_settings(profile: Profile, texts: list[str]) -> list[Setting]:
    """RULE=VALUE as settings: a number, values with commas for a rule that keeps some, or `off`.

    Raises ConfigError for an unknown rule (with the nearest names), a rule given twice and a value that does not
    fit it.
    """
    rules = {rule.name: rule for rule in profile.rules}
    settings: dict[str, Setting] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(
                f"--set {text}: expected RULE=VALUE, for example --set {next(iter(rules), 'rule')}=0.5"
            )
        if name not in rules:
            near = difflib.get_close_matches(name, rules, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(rules)}"
            raise ConfigError(f"--set {text}: profile '{profile.name}' has no rule '{name}'; {hint}")
        if name in settings:
            raise ConfigError(f"--set {text}: rule '{name}' is set twice")
        settings[name] = Setting(rules[name], None if value == OFF else _with_value(rules[name], value))
    return list(settings.values())


def _with_value(rule: Rule, text: str) -> Rule:
    value: Any = [part.strip() for part in text.split(",")] if rule.keep_in else yaml.safe_load(text)
    try:
        return changed(rule, Change.model_validate({rule.comparison: value}))
    except ValidationError as error:
        wanted = "values with commas between them" if rule.keep_in else "a number"
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"--set {rule.name}={text}: expected {wanted} or '{OFF}': {problem}") from None


def with_settings(profile: Profile, settings: list[Setting]) -> Profile:
    """The profile with the settings in it. Overrides stay: a setting changes the threshold of all others."""
    new = {setting.old.name: setting.new for setting in settings}
    rules = [new.get(rule.name, rule) for rule in profile.rules]
    off = {name for name, rule in new.items() if rule is None}
    overrides = [
        override.model_copy(update={"rules": {name: c for name, c in override.rules.items() if name not in off}})
        for override in profile.overrides
    ]
    kept = tuple(override for override in overrides if override.rules)
    return profile.model_copy(update={"rules": tuple(rule for rule in rules if rule), "overrides": kept})


def what_if(pools: list[MeasuredPool], profile: Profile, texts: list[str], examples: int) -> WhatIf:
    """What the settings (RULE=VALUE) change in the pools, with at most `examples` documents for each of them."""
    settings = parse_settings(profile, texts)
    after = with_settings(profile, settings)
    for one in (profile, after):
        require_measurements(one, pools)
    numeric = dict.fromkeys(one.old.measurement for one in settings if one.old.threshold is not None)
    histograms = {name: Histogram(name.endswith(SHARES)) for name in numeric}
    effects, nearest = [], {setting.old.name: _Nearest(setting, after, examples) for setting in settings}
    for pool in pools:
        sums = np.zeros((5, 2), np.int64)
        for shard, table, tokens in pool.shards(["id", *profile.measurements]):
            now, then = failures(profile, table), failures(after, table)
            kept, would = ~now.any(axis=1), ~then.any(axis=1)
            for row, chosen in enumerate((np.ones(len(kept), bool), kept, would, would & ~kept, kept & ~would)):
                sums[row] += chosen.sum(), tokens[chosen].sum()
            for name, histogram in histograms.items():
                histogram.add(_numbers(table[name]))
            for name, one in nearest.items():
                flipped = _failing(profile, now, name) != _failing(after, then, name)
                one.look(pool.source, shard, table, flipped & (kept != would), would)
        pairs = [tuple(pair) for pair in sums.tolist()]
        effects.append(Effect(pool.source, *pairs, pool.tokens is None))
    found = [candidate for one in nearest.values() for candidate in one.found()]
    return WhatIf(profile, settings, effects, _with_texts(found, pools), histograms)


def _failing(profile: Profile, failed: np.ndarray, name: str) -> np.ndarray:
    """Which documents fail the rule of that name; none where the profile has no such rule."""
    names = [rule.name for rule in profile.rules]
    return failed[:, names.index(name)] if name in names else np.zeros(len(failed), bool)


class _Nearest:
    """The documents nearest to a setting's new threshold: those whose fate it changes, before any others."""

    def __init__(self, setting: Setting, after: Profile, most: int):
        self.setting, self.after, self.most = setting, after, most
        self._candidates: list[tuple[bool, float, Example]] = []

    def look(self, source: str, shard: str, table: pa.Table, changes: np.ndarray, would: np.ndarray) -> None:
        rule = self.setting.old
        column = table[rule.measurement]
        distance = np.zeros(len(changes))
        if rule.threshold is not None:
            aim = np.full(len(changes), rule.threshold)
            for variant, rows in variants(self.after, self.setting.new, table) if self.setting.new else []:
                aim[rows] = variant.threshold
            distance = np.abs(_numbers(column) - aim)
        known = np.flatnonzero(~np.isnan(distance))
        order = known[np.lexsort((distance[known], ~changes[known]))][: self.most]
        for row in order.tolist():
            fate = "unchanged" if not changes[row] else "gained" if would[row] else "lost"
            place = Place(source, shard, row)
            example = Example(rule.name, column[row].as_py(), fate, table["id"][row].as_py(), place, "")
            self._candidates.append((fate == "unchanged", float(distance[row]), example))
        self._candidates.sort(key=lambda one: (one[0], one[1], one[2].id, one[2].place))
        del self._candidates[self.most :]

    def found(self) -> list[Example]:
        return [example for _, _, example in self._candidates]


def _with_texts(found: list[Example], pools: list[MeasuredPool]) -> list[Example]:
    texts = documents(
        {pool.source: pool.documents for pool in pools if pool.documents}, [one.place for one in found]
    )
    out = []
    for one in found:
        text = readable(texts[one.place]) if one.place in texts else ""
        out.append(Example(**{**vars(one), "text": human.excerpt(" ".join(text[: 4 * SNIPPET].split()), SNIPPET)}))
    return out


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64(), safe=False).to_numpy()


def default_page(workspace: Path, pools: list[MeasuredPool], profile: Profile) -> Path:
    """Where the drawing goes if nothing else is said."""
    name = pools[0].source if len(pools) == 1 else f"{len(pools)}-pools"
    return workspace / "whatif" / f"{name}-{profile.name}.html"
