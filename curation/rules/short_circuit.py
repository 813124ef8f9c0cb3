"""Short circuit: what rules over text statistics drop is measured no further (`measure: {short_circuit: true}`).

The statistics of the text (EARLY) come first. Of a document that fails a rule over them the other columns stay
null: gzip ratio, language, MinHash and the groups, which is where most of the time goes. The verdicts are those of
measuring everything; the reasons are not, since rules that were never looked at cannot fail.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from curation.config import ConfigError
from curation.measure.columns import COUNTS, RATIOS
from curation.rules.profile import Profile, failures
from curation.steps import StepOutput

EARLY = frozenset((*COUNTS, *RATIOS))
RECORDED = "early_rules"  # where the config of a step `measure/<source>` holds them; null without a short circuit


def early(profile: Profile) -> Profile:
    """The rules of a profile that can be decided over EARLY, with what of their overrides concerns them."""
    overrides = {
        rule.name: [override for override in profile.overrides if rule.name in override.rules]
        for rule in profile.rules
    }
    rules = [
        rule
        for rule in profile.rules
        if {rule.measurement, *rule.where} <= EARLY
        and all(set(override.where) <= EARLY for override in overrides[rule.name])
    ]
    names = {rule.name for rule in rules}
    kept = [
        override.model_copy(update={"rules": changes})
        for override in profile.overrides
        if (changes := {name: change for name, change in override.rules.items() if name in names})
    ]
    return profile.model_copy(update={"rules": tuple(rules), "overrides": tuple(kept)})


def literals(profile: Profile) -> dict[str, list]:
    """What of a profile decides what is measured: part of the step's identity."""
    return early(profile).model_dump(mode="json", include={"rules", "overrides"})


def passing(rules: Profile, columns: Mapping[str, pa.Array]) -> np.ndarray:
    """The rows that fail none of the early rules, rising."""
    table = pa.table({name: columns[name] for name in rules.measurements or EARLY & set(columns)})
    return np.flatnonzero(~failures(rules, table).any(axis=1))


def spread(columns: Mapping[str, pa.Array], rows: np.ndarray, n: int) -> dict[str, pa.Array]:
    """Columns of some rows as columns of all n, null elsewhere."""
    places = np.full(n, -1)
    places[rows] = np.arange(len(rows))
    indices = pa.array(places, mask=places < 0)
    return {name: column.take(indices) for name, column in columns.items()}


def was_short(measured: StepOutput) -> bool:
    """Whether a pool was measured with a short circuit."""
    return measured.record["config"].get(RECORDED) is not None


def require_whole(profile: Profile, measured: StepOutput) -> None:
    """Raise ConfigError where a pool's short circuit has left out what this profile would look at."""
    if was_short(measured) and measured.record["config"][RECORDED] != literals(profile):
        raise ConfigError(
            f"pool '{measured.source}' was measured with `short_circuit` under other early rules than those of "
            f"profile '{profile.name}': what they dropped was measured no further. "
            "Take `short_circuit` out of `measure` in the pipeline file and run it --until curate"
        )
