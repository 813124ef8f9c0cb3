"""How often each bucket of a source is taken, as a map: topics or languages down, vigintiles or lengths across."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from curation.schema import LENGTH_BUCKETS
from flows.report import human
from flows.report.svg import Drawing

STEPS = 10  # shades
CELL, HEIGHT, LEFT, TOP = 26.0, 15.0, 190.0, 18.0


def maps(lines: list[dict[str, Any]]) -> list[tuple[str, Markup]]:
    """(source, map) for each source of an account that has several buckets with a pool."""
    sources: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["repeats"] is not None:
            sources.setdefault(line["source"], []).append(line)
    return [(source, repeats_map(source, own)) for source, own in sources.items() if len(own) > 1]


def repeats_map(source: str, lines: list[dict[str, Any]]) -> Markup:
    """The map of one source. The fuller a colour, the more often; the fullest is the most of all."""
    cells = {(before, last): line for line in lines for before, _, last in [line["bucket"].rpartition("/")]}
    rows = sorted({row for row, _ in cells}, key=lambda row: -sum(_tokens(cells, row)))
    columns = sorted({column for _, column in cells}, key=_column_order)
    most = max(line["repeats"] for line in lines) or 1
    width = LEFT + CELL * len(columns) + 70
    label = f"repeats of the buckets of {source}, up to {most:.2f} times"
    drawing = Drawing(width, TOP + HEIGHT * len(rows) + 26, label, "chart heat")
    for place, column in enumerate(columns):
        drawing.text(LEFT + CELL * (place + 0.5), TOP - 6, column, "t tiny", "middle")
    everything = sum(line["tokens"] for line in lines) or 1
    for number, row in enumerate(rows):
        y = TOP + HEIGHT * number
        drawing.text(LEFT - 7, y + HEIGHT - 4, _short(row or "all"), "t", "end")
        share = sum(_tokens(cells, row)) / everything
        drawing.text(LEFT + CELL * len(columns) + 6, y + HEIGHT - 4, f"{share:.1%}", "t")
        for place, column in enumerate(columns):
            if line := cells.get((row, column)):
                step = max(round(STEPS * line["repeats"] / most), int(line["repeats"] > 0))  # a little is not none
                title = (
                    f"{line['bucket']}: {line['repeats']:.2f} times, {human.count(line['tokens'])} "
                    f"of {human.count(line['pool_tokens'])} tokens"
                )
                drawing.rect(LEFT + CELL * place + 1, y + 1, CELL - 2, HEIGHT - 2, f"h{step}", title, 2)
    _legend(drawing, TOP + HEIGHT * len(rows) + 8, most)
    return drawing.markup()


def _legend(drawing: Drawing, y: float, most: float) -> None:
    drawing.text(LEFT - 7, y + 9, "times taken", "t tiny", "end")
    for step in range(STEPS + 1):
        drawing.rect(LEFT + 13 * step, y, 12, 10, f"h{step}", f"{most * step / STEPS:.2f} times", 2)
    drawing.text(LEFT + 13 * (STEPS + 1) + 4, y + 9, f"0 to {most:.2f}", "t tiny")


def _tokens(cells: dict[tuple[str, str], dict[str, Any]], row: str) -> list[int]:
    return [line["tokens"] for (own, _), line in cells.items() if own == row]


def _column_order(column: str) -> tuple[int, str]:
    return (LENGTH_BUCKETS.index(column) if column in LENGTH_BUCKETS else -1, column)


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:29]}…"
