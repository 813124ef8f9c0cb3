"""The measuring pass: every number that later decisions look at, computed in one reading of the text.

`measure` and `Measure` come from `station`, loaded when first asked for, since kernels are heavy to import.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Measure", "measure"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from curation.measure import station

    return getattr(station, name)
