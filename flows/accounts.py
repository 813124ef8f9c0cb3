"""The account of a mix in the terminal: a line a source with its range of repeats, or a line a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curation.mix.plan import Plan
from curation.mix.published import Comparison
from flows.report.mixes import joined
from flows.summary import human

Line = dict[str, Any]
BAR = 12  # characters of the largest share
EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_plan(planned: Plan, console: Console, buckets: bool = False) -> None:
    """The account, what is worth knowing, and what cannot be met."""
    print_account(planned.recipe.name, planned.account, planned.totals, console, buckets)
    notes = planned.notes if buckets else _few(planned.notes)
    for note in notes:
        console.print(Text(f"· {note}", style="dim"))
    for problem in planned.problems:
        console.print(Text(f"✗ {problem}", style="red"))


def plan_json(planned: Plan, compared: Sequence[Comparison] | None) -> dict[str, Any]:
    """A plan as plain data, and what differs from the published figures where there are some."""
    return {
        "account": planned.account,
        "lines": planned.lines,
        "totals": planned.totals,
        "notes": planned.notes,
        "problems": [str(problem) for problem in planned.problems],
        **({} if compared is None else {"published": [one.as_json() for one in compared]}),
    }


def print_account(
    name: str, account: list[Line], totals: dict[str, int], console: Console, buckets: bool = False
) -> None:
    """A mix's account in the layout of the Olmo 3 tables: a line a source, or one a bucket."""
    table = Table(title=f"Mix {name}", title_justify="left", box=None, pad_edge=False)
    for column in ("source", "type", "bucket" if buckets else "buckets"):
        table.add_column(column)
    for column in ("pool tokens", "pool docs", "mix tokens", "mix docs", "share"):
        table.add_column(column, justify="right")
    table.add_column("", no_wrap=True)
    for column in ("repeats", "error"):
        table.add_column(column, justify="right")
    rows = account if buckets else by_source(account)
    largest = max((line["share"] for line in rows), default=0) or 1
    for line in rows:
        table.add_row(
            Text(line["source"]),
            Text(line["type"] or ""),
            Text(line["bucket"]),
            _human(line["pool_tokens"]),
            _human(line["pool_documents"]),
            human(line["tokens"]),
            human(line["occurrences"]),
            f"{line['share']:.2%}",
            Text(bar(line["share"] / largest), style="cyan"),
            line.get("range") or ("" if line["repeats"] is None else f"{line['repeats']:.2f}x"),
            _human(line["error_tokens"]),
        )
    table.add_section()
    documents = human(totals["occurrences"])
    table.add_row("total", "", "", "", "", human(totals["tokens"]), documents, "", "", "", "")
    console.print(table)
    console.print(
        f"{totals['unique_documents']:,} unique documents, {totals['occurrences']:,} occurrences, "
        f"{totals['fragments']:,} fragments, {totals['tokens']:,} tokens"
    )
    if not buckets and len(rows) < len(account):
        console.print(Text(f"{len(account)} buckets in {len(rows)} lines; all of them: --buckets", style="dim"))


def by_source(account: list[Line]) -> list[Line]:
    """The account with a line for each source, in their order; `range`: its buckets' repeats, if unequal."""
    sources: dict[str, list[Line]] = {}
    for line in account:
        sources.setdefault(line["source"], []).append(line)
    rows = []
    for source, lines in sources.items():
        row = joined(lines) | {"source": source, "type": lines[0]["type"]}
        row["bucket"] = lines[0]["bucket"] if len(lines) == 1 else f"{len(lines)} buckets"
        repeats = [line["repeats"] for line in lines if line["repeats"] is not None]
        if repeats and max(repeats) - min(repeats) >= 0.005:
            row["range"] = f"{row['repeats']:.2f}x ({min(repeats):.2f} to {max(repeats):.2f})"
        rows.append(row)
    return rows


def bar(part: float) -> str:
    """A bar of eighths of characters; a part above nothing shows as something."""
    eighths = max(round(part * BAR * 8), 1 if part > 0 else 0)
    return EIGHTHS[-1] * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def print_comparison(found: Sequence[Comparison], console: Console) -> None:
    """Every figure that differs from the published one, and how many agree."""
    agree = [one for one in found if one.agrees]
    table = Table(title="Beside the published figures", title_justify="left", box=None, pad_edge=False)
    for column in ("source", "bucket", "figure"):
        table.add_column(column)
    for column in ("published", "planned", "difference"):
        table.add_column(column, justify="right")
    for one in found:
        if not one.agrees:
            planned = _like(one)
            table.add_row(
                one.source, one.bucket, one.column, one.published.text, planned, f"{one.difference:+.1%}"
            )
    console.print(f"\n{len(agree)} of {len(found)} published figures agree to every digit that was printed")
    if len(agree) < len(found):
        console.print(table)


def _like(one: Comparison) -> str:
    if one.column == "share":
        return f"{one.planned:.2%}"
    return f"{one.planned:.3g}x" if one.column == "repeats" else human(one.planned)


def _human(number: float | None) -> str:
    return "" if number is None else human(number)


def _few(notes: list[str]) -> list[str]:
    """The notes, but of many curves the steepest alone."""
    curves = [note for note in notes if "upsampling curve" in note]
    if len(curves) < 4:
        return notes
    best = max(curves, key=lambda note: float(note.rpartition("best bucket ")[2].split(" ")[0]))
    others = [note for note in notes if note not in curves]
    return [*others, f"{len(curves)} upsampling curves; the steepest: {best}"]
