"""Which documents a model is asked about: alive, within the filter, not held out, the first by keyed hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.catalog import held_out
from curation.files import read_parquet
from curation.keys import key_of
from curation.rules.profile import Profile, failures
from curation.shards import Picks, pick
from curation.steps import StepOutput
from curation.synthesis.config import Synthesis


def choose_parents(
    config: Synthesis,
    pools: dict[str, StepOutput],
    measured: dict[str, StepOutput],
    ledgers: list[StepOutput],
    holdouts: dict[str, float],
    seed: int,
) -> list[Picks]:
    """The parents of a synthesis; columns only, no text is read.

    Held out is what the catalog will hold out: `holdouts` is the share of each source, `seed` the pipeline's.
    Raises ConfigError for a filter on what is no measurement.
    """
    profile = config.profile_of_filter()

    def admit(source: str, path: Path) -> np.ndarray:
        admitted = ~failures(profile, _measurements(path, profile)).any(axis=1)
        if holdouts[source] > 0:
            groups = read_parquet(path, ["group_hash"])["group_hash"]
            admitted &= ~held_out(groups, holdouts[source], seed)
        return admitted

    key = key_of(seed, f"synthesis/{config.name}")
    return pick(config.parents, pools, measured, ledgers, key, documents=config.documents, admit=admit)


def _measurements(path: Path, profile: Profile) -> pa.Table:
    """The columns that a filter reads; `failures` names the one that is not there."""
    present = set(pq.read_schema(path).names)
    return read_parquet(path, ["id", *(name for name in profile.measurements if name in present)])
