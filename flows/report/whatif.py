"""The answer of `whatif` for a person: tables and a histogram for the terminal, a page with the drawing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curation.files import write_bytes
from flows.report import human, svg
from flows.report.measurements import Histogram, Threshold, shown_bins
from flows.report.page import environment

if TYPE_CHECKING:
    from flows.whatif import Effect, Setting, WhatIf

BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT = 4  # lines of a histogram in the terminal


def print_what_if(answer: WhatIf, console: Console) -> None:
    """Effects by source, the distribution with both cuts, and the documents nearest to the new one."""
    for setting in answer.settings:
        console.print(Text(setting.told, "bold"))
    console.print(_table(answer))
    if any(effect.estimated for effect in answer.effects):
        console.print(Text("~ tokens estimated from bytes: they have not been counted", "dim"))
    for setting in answer.settings:
        if setting.old.measurement in answer.histograms:
            histogram = answer.histograms[setting.old.measurement]
            console.print()
            console.print(Text(_drawn(setting, histogram)))
    if answer.examples:
        console.print()
        table = Table("fate", "value", "source", "id", "text", title="nearest to the new threshold", box=None)
        table.title_justify = "left"
        for one in answer.examples:
            colour = {"gained": "green", "lost": "red"}.get(one.fate, "dim")
            cells = Text(shown(one.value)), Text(one.place.source), Text(one.id[:12]), Text(one.text, "dim")
            table.add_row(Text(one.fate, colour), *cells)
        console.print(table)


def shown(value: float | str | None) -> str:
    """An example's value."""
    return human.clean(value) if isinstance(value, str) else human.number(value)


def _table(answer: WhatIf) -> Table:
    table = Table(box=None)
    table.add_column("source")
    for name in ("documents", "kept", "would keep", "gained", "lost"):
        table.add_column(name, justify="right")
    for name in ("tokens kept", "would keep", "gained", "lost"):
        table.add_column(name, justify="right")
    rows = [*answer.effects, *([answer.total()] if len(answer.effects) > 1 else [])]
    for effect in rows:
        mark = "~" if effect.estimated else ""
        documents, tokens = _columns(effect)
        tokens = [mark + human.count(value) for value in tokens]
        table.add_row(Text(effect.source), *(f"{value:,}" for value in documents), *tokens)
    return table


def _columns(effect: Effect) -> tuple[list[int], list[int]]:
    """Documents (all, before, after, gained, lost) and tokens (before, after, gained, lost)."""
    pairs = (effect.all, effect.before, effect.after, effect.gained, effect.lost)
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs[1:]]


def bins(setting: Setting, histogram: Histogram) -> svg.Bins:
    """The bins to draw: what the new rule drops is marked, both thresholds are named."""
    rules = [rule for rule in (setting.old, setting.new) if rule is not None]
    limits = [Threshold(rule.name, rule.drop_below, rule.drop_above) for rule in rules]
    made = shown_bins(histogram, limits)
    cuts = {"old": setting.old.threshold} | ({"new": setting.new.threshold} if setting.new else {})
    middles = np.array([(low + high) / 2 for low, high in pairwise(made.edges)])
    new = limits[1] if setting.new else Threshold("", None, None)
    gone = new.fails(middles).tolist()
    ordered = sorted(cuts, key=cuts.get)
    return svg.Bins(made.edges, made.counts, gone, [cuts[name] for name in ordered], made.log, ordered)


def _drawn(setting: Setting, histogram: Histogram) -> str:
    """The distribution in lines of blocks, the bins that hold the old and the new cut marked below."""
    made = bins(setting, histogram)
    highest = max(made.counts, default=0) or 1
    lines = [human.label(setting.old.measurement)]
    for line in range(HEIGHT, 0, -1):
        heights = [count / highest * HEIGHT - (line - 1) for count in made.counts]
        drawn = [BLOCKS[min(8, max(0, -int(-height * 8 // 1)))] for height in heights]
        lines.append("".join(drawn).rstrip())
    marks = [" "] * len(made.counts)
    places = {}
    for name, threshold in zip(made.labels, made.thresholds, strict=True):
        inside = [place for place, edge in enumerate(made.edges[:-1]) if edge <= threshold]
        places[name] = inside[-1] if inside else 0
    for name, place in places.items():
        marks[place] = "┃" if list(places.values()).count(place) > 1 else {"old": "┆", "new": "│"}[name]
    lines += ["‾" * len(made.counts), "".join(marks).rstrip()]
    ends = f"{human.number(made.edges[0])} to {human.number(made.edges[-1])}"
    cuts = [f"{name} cut {human.number(cut)}" for name, cut in zip(made.labels, made.thresholds, strict=True)]
    lines.append(f"{ends}; {', '.join(cuts)} (┆ old, │ new, ┃ both){_note(histogram)}")
    return "\n".join(lines)


def _note(histogram: Histogram) -> str:
    parts = [(histogram.zeros, "at 0, not drawn"), (histogram.missing, "without a value")]
    parts.append((histogram.above, "above the axis"))
    return "".join(f"; {count:,} {what}" for count, what in parts if count)


def write_page(answer: WhatIf, path: Path) -> Path:
    """Write the answer as one HTML file that loads nothing, and return its path."""
    rows = [*answer.effects, *([answer.total()] if len(answer.effects) > 1 else [])]
    cards = [
        {
            "name": setting.old.measurement,
            "chart": svg.histogram(bins(setting, histogram), f"histogram of {setting.old.measurement}", "chart"),
            "note": f"{histogram.total:,} documents{_note(histogram)}",
        }
        for setting in answer.settings
        if (histogram := answer.histograms.get(setting.old.measurement)) is not None
    ]
    view = {
        "profile": answer.profile.name,
        "version": answer.profile.version,
        "settings": [setting.told for setting in answer.settings],
        "rows": [
            {
                "source": one.source,
                "documents": _columns(one)[0],
                "tokens": _columns(one)[1],
                "estimated": one.estimated,
            }
            for one in rows
        ],
        "estimated": any(one.estimated for one in rows),
        "cards": cards,
        "examples": [{**vars(one), "value": shown(one.value)} for one in answer.examples],
    }
    page = environment().get_template("whatif.html").render(view)
    write_bytes(path, page.encode("utf-8", "backslashreplace"))
    return path
