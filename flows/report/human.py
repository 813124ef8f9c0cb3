"""Numbers, sizes, times and text excerpts in the form that a person reads."""

from __future__ import annotations

import re

STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
BYTE_STEPS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
NOTHING = "–"
# C0 and C1 controls but tab and newline: HTML does not allow them, and a terminal would obey them. Overrides of
# the writing direction: they would turn the page's own words around.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def count(value: float | None) -> str:
    """1520000 -> "1.52M"; numbers below 10,000 are written out: "9,876"."""
    if value is None:
        return NOTHING
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    for size, unit in STEPS:
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)}{unit}"
    return f"{value:,.0f}"


def exact(value: int | None) -> str:
    """1520000 -> "1,520,000"."""
    return NOTHING if value is None else f"{value:,}"


def size(value: float | None) -> str:
    """1610612736 -> "1.50 GiB"."""
    if value is None:
        return NOTHING
    for step, unit in BYTE_STEPS:
        if value >= step:
            return f"{_three(value / step)} {unit}"
    return f"{value:.0f} B"


def percent(value: float | None) -> str:
    """0.0312 -> "3.12%"."""
    if value is None or value != value:
        return NOTHING
    if value == 0:
        return "0%"
    if abs(value) < 0.0001:
        return "<0.01%"
    return f"{_three(value * 100)}%"


def number(value: float | None) -> str:
    """A measurement or a threshold: three significant digits, a whole number written out."""
    if value is None or value != value:
        return NOTHING
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """0.04 -> "0.04 s", 192.3 -> "3 min 12 s"."""
    if value is None:
        return NOTHING
    if value < 60:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short_hash(value: str | None) -> str:
    """The first 12 hex digits."""
    return NOTHING if not value else value[:12]


def label(name: str) -> str:
    """dup_line_share -> "dup line share"."""
    return name.replace("_", " ")


def clean(text: str) -> str:
    """Text with each character that could disturb a page or a terminal replaced by U+FFFD."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def excerpt(text: str, limit: int = 420) -> str:
    """The beginning of a text, `limit` characters at most, blank lines folded, with a mark where it was cut."""
    head = clean(text[: limit * 3])
    folded = re.sub(r"\n\s*\n+", "\n\n", head).strip()
    cut = folded[:limit]
    return cut if len(cut) == len(folded) and len(text) <= limit * 3 else cut.rstrip() + " …"


def _three(value: float) -> str:
    """Three significant digits without an exponent."""
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
