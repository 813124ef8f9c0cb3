"""Mixes: recipe, plan, selection and the manifest that trainers verify."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`curation.mix.mix`, the station, imported when it is asked for: recipes alone need no table library."""
    if name == "mix":
        from curation.mix.build import mix

        return mix
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
