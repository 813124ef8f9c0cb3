"""Charts as inline SVG: drawn by hand, so that they follow the page's colours, light or dark, and need no script.

Colours are classes of the page's style sheet (s0 ... s9 for series, kept, gone, line, ...), never literals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from flows.report import human


class Drawing:
    """An SVG under construction. Every text is escaped here."""

    def __init__(self, width: float, height: float, label: str, css: str = "chart"):
        self.width, self.height = width, height
        self.parts = [
            f'<svg class="{escape(css)}" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" '
            f'height="{_n(height)}" role="img" aria-label="{_text(label)}">'
        ]

    def rect(self, x: float, y: float, w: float, h: float, css: str, title: str = "", radius: float = 0) -> None:
        rounded = f' rx="{_n(radius)}"' if radius else ""
        shape = f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" class="{escape(css)}"{rounded}'
        self.parts.append(f"{shape}/>" if not title else f"{shape}><title>{_text(title)}</title></rect>")

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self.parts.append(f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{escape(css)}"/>')

    def text(self, x: float, y: float, content: str, css: str = "t", anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" class="{escape(css)}" text-anchor="{anchor}">{_text(content)}</text>'
        )

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        steps = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self.parts.append(f'<polyline points="{steps}" class="{escape(css)}"/>')

    def curve(self, x1: float, y1: float, x2: float, y2: float, css: str, title: str = "") -> None:
        """A horizontal S-curve, for links between columns."""
        middle = (x1 + x2) / 2
        d = f"M{_n(x1)},{_n(y1)} C{_n(middle)},{_n(y1)} {_n(middle)},{_n(y2)} {_n(x2)},{_n(y2)}"
        self.parts.append(f'<path d="{d}" class="{escape(css)}"><title>{_text(title)}</title></path>')

    def dot(self, x: float, y: float, css: str, title: str = "", radius: float = 3.5) -> None:
        self.parts.append(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" class="{escape(css)}">'
            f"<title>{_text(title)}</title></circle>"
        )

    def markup(self) -> Markup:
        return Markup("".join(self.parts) + "</svg>")


def _text(content: str) -> Markup:
    """Text of the data, safe inside an element or a quoted attribute."""
    return escape(human.clean(content))


def _n(value: float) -> str:
    """A coordinate: two decimals at most, the same on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers within [low, high], about `wanted` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    width = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9)
    return [step * width for step in range(first, last + 1)]


def stacked_columns(
    columns: Sequence[tuple[str, Sequence[float]]],
    series: Sequence[str],
    classes: Sequence[str],
    label: str,
    form: Callable[[float], str] = human.count,
) -> Markup:
    """A column a stage, stacked by series (source), joined by falling lines so that losses show as steps.

    `columns` is (stage, a value a series); `classes` are the colours of the series. The total stands above each
    column.
    """
    width, height, left, top, bottom = 720.0, 290.0, 52.0, 22.0, 40.0
    highest = max((sum(values) for _, values in columns), default=0) or 1
    drawing = Drawing(width, height, label)
    plot = height - top - bottom

    def y(value: float) -> float:
        return top + plot * (1 - value / highest)

    for tick in nice_ticks(0, highest):
        drawing.line(left, y(tick), width - 8, y(tick), "grid")
        drawing.text(left - 7, y(tick) + 3.5, form(tick), "t", "end")
    slot = (width - left - 8) / max(len(columns), 1)
    bar = min(slot * 0.62, 76)
    for place, (name, values) in enumerate(columns):
        x, base = left + slot * place + (slot - bar) / 2, 0.0
        for position, value in enumerate(values):
            title = f"{name} · {series[position]}: {form(value)}"
            if value:
                box = (x, y(base + value), bar, y(base) - y(base + value))
                drawing.rect(*box, classes[position], title)
            base += value
        drawing.text(x + bar / 2, y(base) - 6, form(base), "t strong", "middle")
        for number, word in enumerate(_wrapped(name)):
            drawing.text(x + bar / 2, height - bottom + 16 + 13 * number, word, "t", "middle")
        if place + 1 < len(columns):
            after = sum(columns[place + 1][1])
            drawing.path([(x + bar, y(base)), (x + slot, y(after))], "step")
    return drawing.markup()


def _wrapped(name: str, width: int = 13) -> list[str]:
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:2]


@dataclass(frozen=True)
class Bins:
    """A histogram: n + 1 rising edges, n counts, which bins a rule drops, and the thresholds to draw.

    With `labels` the thresholds rise, and each is drawn with its word.
    """

    edges: Sequence[float]
    counts: Sequence[int]
    dropped: Sequence[bool]
    thresholds: Sequence[float]
    log: bool
    labels: Sequence[str] = ()


def histogram(bins: Bins, label: str, css: str = "chart small") -> Markup:
    """Counts by bin, those beyond a threshold in the colour of what is dropped, thresholds as lines."""
    width, height, left, right, top, bottom = 300.0, 132.0, 34.0, 10.0, 14.0, 20.0
    drawing = Drawing(width, height, label, css)

    def scale(value: float) -> float:
        return math.log2(max(value, bins.edges[0])) if bins.log else value  # 0 stands at the left end

    low, high = scale(bins.edges[0]), scale(bins.edges[-1])
    highest, span = max(bins.counts, default=0) or 1, (high - low) or 1

    def x(value: float) -> float:
        return left + (width - left - right) * min(max((scale(value) - low) / span, 0), 1)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - value / highest)

    for tick in nice_ticks(0, highest, 2):
        drawing.line(left, y(tick), width - right, y(tick), "grid")
        drawing.text(left - 4, y(tick) + 3.5, human.count(tick), "t tiny", "end")
    edges = [(x(edge), human.number(edge)) for edge in bins.edges]
    for amount, dropped, lower, upper in zip(bins.counts, bins.dropped, edges, edges[1:], strict=False):
        if amount:
            (start, first), (end, last) = lower, upper
            box = (start + 0.3, y(amount), max(end - start - 0.6, 0.6), y(0) - y(amount))
            drawing.rect(*box, "gone" if dropped else "kept", f"{first} to {last}: {amount:,}")
    drawing.line(left, y(0), width - right, y(0), "axis")
    ticks = _log_ticks(bins.edges[0], bins.edges[-1]) if bins.log else nice_ticks(low, high, 4)
    for tick in ticks:
        drawing.text(
            x(tick), height - 6, human.count(tick) if tick >= 10_000 else human.number(tick), "t tiny", "middle"
        )
    for place, threshold in enumerate(bins.thresholds):
        drawing.line(x(threshold), top - 2, x(threshold), y(0), "threshold")
        side = "end" if x(threshold) > width - 60 or place + 1 < len(bins.labels) else "start"
        words = f"{bins.labels[place]} {human.number(threshold)}" if bins.labels else human.number(threshold)
        drawing.text(x(threshold) + (-3 if side == "end" else 3), top - 4, words, "t tiny strong", side)
    return drawing.markup()


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(max(low, 1e-9)) - 1e-9), math.floor(math.log10(max(high, 1e-9)) + 1e-9)
    powers = [10.0**power for power in range(first, last + 1)]
    if len(powers) >= 2:
        return powers[:: -(-len(powers) // 5)]
    return [
        factor * 10.0**power
        for power in range(first - 1, last + 1)
        for factor in (1, 2, 5)
        if low <= factor * 10.0**power <= high
    ]


@dataclass(frozen=True)
class Curve:
    """One line of a line chart; `css` is a series class."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]


def line_chart(
    curves: Sequence[Curve], label: str, x_label: str, *, names: Sequence[str] = (), wide: bool = False
) -> Markup:
    """Lines over a numeric axis, or over the places 0, 1, ... called `names` (then with dots)."""
    width, height, left, right, top, bottom = (720.0 if wide else 352.0), 220.0, 46.0, 14.0, 12.0, 38.0
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points if math.isfinite(y)]
    drawing = Drawing(width, height, label, "chart" if wide else "chart half")
    if not xs or not ys:
        drawing.text(width / 2, height / 2, "no values", "t", "middle")
        return drawing.markup()
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    margin = (high_y - low_y) * 0.06 or abs(high_y) * 0.05 or 1.0
    low_y, high_y = low_y - margin, high_y + margin

    def x(value: float) -> float:
        return left + (width - left - right) * (
            (value - low_x) / ((high_x - low_x) or 1) if high_x > low_x else 0.5
        )

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low_y) / (high_y - low_y))

    for tick in nice_ticks(low_y, high_y):
        drawing.line(left, y(tick), width - right, y(tick), "grid")
        drawing.text(left - 6, y(tick) + 3.5, human.number(round(tick, 10)), "t", "end")
    drawing.line(left, height - bottom, width - right, height - bottom, "axis")
    if names:
        for place, name in enumerate(names):
            anchor = "start" if place == 0 else "end" if place == len(names) - 1 else "middle"
            drawing.text(x(place), height - bottom + 15, name, "t", anchor)
    else:
        for tick in nice_ticks(low_x, high_x, 5 if wide else 4):
            label = human.number(round(tick, 10)) if high_x < 10 else human.count(tick)
            drawing.text(x(tick), height - bottom + 15, label, "t", "middle")
    drawing.text((left + width - right) / 2, height - 6, x_label, "t dim", "middle")
    for curve in curves:
        finite = [(x(a), y(b)) for a, b in curve.points if math.isfinite(b)]
        drawing.path(finite, f"curve {curve.css}")
        if names:
            for (a, b), (_, value) in zip(finite, curve.points, strict=False):
                drawing.dot(a, b, curve.css, f"{curve.name}: {human.number(value)}")
    return drawing.markup()


def thinned(points: Sequence[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """At most `most` points: means over equal runs of the curve, so that noise is averaged and not picked."""
    if len(points) <= most:
        return list(points)
    out = []
    for part in range(most):
        chunk = points[part * len(points) // most : (part + 1) * len(points) // most]
        out.append((sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk)))
    return out


def interval(value: float, low: float, high: float, label: str) -> Markup:
    """A point with its interval on an axis from 0 to 1, chance (0.5) marked."""
    width, height, left, right = 352.0, 44.0, 10.0, 10.0
    drawing = Drawing(width, height, label, "chart half")

    def x(share: float) -> float:
        return left + (width - left - right) * min(max(share, 0), 1)

    drawing.line(x(0), 18, x(1), 18, "axis")
    for share in (0, 0.25, 0.5, 0.75, 1):
        drawing.line(x(share), 14, x(share), 22, "axis")
        drawing.text(
            x(share), 38, f"{share:.0%}", "t tiny", "middle" if 0 < share < 1 else "start" if not share else "end"
        )
    drawing.line(x(0.5), 6, x(0.5), 30, "threshold")
    drawing.line(x(low), 18, x(high), 18, "whisker")
    drawing.dot(x(value), 18, "s0", f"{value:.1%} ({low:.1%} to {high:.1%})", 5)
    return drawing.markup()
