"""How the buckets of a line are called, and what of a document's profile they go by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from curation.mix.recipe import Line
from curation.mix.rows import AXES
from curation.schema import LENGTH_BUCKETS

WHOLE_SOURCE = "all"
AXIS_OF = {"topic": "topic", "language": "language", "quality": "vigintile", "length": "length_bucket"}


def axes_of(lines: Iterable[Line]) -> tuple[str, ...]:
    """What the profiles of a source tell: only what some line filters or divides by."""
    wanted = set()
    for line in lines:
        wanted |= {AXIS_OF[axis] for axis in bucket_axes(line)}
        wanted |= {AXIS_OF[name] for name in ("topic", "language", "length", "quality") if getattr(line, name)}
        wanted |= {"vigintile"} if line.upsample else set()
    return tuple(axis for axis in AXES if axis in wanted)


def bucket_axes(line: Line) -> tuple[str, ...]:
    """What a line's buckets go by: what it says, else quality or length where it filters by them."""
    if line.by:
        return line.by
    return ("quality",) if line.quality or line.upsample else ("length",) if line.length else ()


def bucket_of(line: Line, profile: Mapping) -> str:
    """The bucket of a profile: vigintile (q01 to q20) or length bucket, or "all"; whatever the line goes by.

    The line's label, or else its topics and its languages, come before it ("law/q20"), so that each topic may have
    a line of its own.
    """
    axes, parts = bucket_axes(line), [line.label] if line.label else []
    for axis, names in (("topic", line.topic), ("language", line.language)):
        if axis in axes:
            parts.append(profile[axis] or "none")
        elif names and not line.label:
            parts.append("+".join(names))
    if "quality" in axes:
        parts.append(f"q{profile['vigintile']:02d}" if profile["vigintile"] else "unscored")
    if "length" in axes:
        parts.append(profile["length_bucket"])
    return "/".join(parts if {"quality", "length"} & set(axes) else [*parts, WHOLE_SOURCE])


def bucket_order(bucket: str) -> tuple:
    """What sorts the buckets of a line: lengths stand in their own order."""
    before, _, last = bucket.rpartition("/")
    place = LENGTH_BUCKETS.index(last) if last in LENGTH_BUCKETS else -1
    return before, place, last
