"""What a group of measurements is: columns that are measured together, by one kernel or a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

Columns = Mapping[str, pa.Array]


@dataclass(frozen=True)
class Group:
    """Columns and the function that measures them.

    `measure(documents, texts)` takes DOCUMENT rows and their rendered texts (the same rows in the same order) and
    returns an array of as many rows for each of `columns`. A row must depend on no other row.
    """

    name: str
    columns: Mapping[str, pa.DataType]
    measure: Callable[[pa.Table, pa.LargeStringArray], Columns]
    edited: bool = False  # whether it looks at the text after the edits of the profile, not before
