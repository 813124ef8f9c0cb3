"""Why a document is in or out: its story, told to a person."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.report import human
from flows.story import (
    AmbiguousIdError,
    DocumentIdError,
    Story,
    UnknownDocumentError,
    describe_rule,
    why,
)

MATCHES_SHOWN = 5  # evaluation items of one document

__all__ = ["AmbiguousIdError", "DocumentIdError", "Story", "UnknownDocumentError", "print_story", "why"]


def print_story(story: Story, console: Console) -> None:
    """Print a story for a person. Document text is printed as it is, never as markup or control codes."""
    many = len(story["occurrences"]) > 1
    console.print(Text.assemble((story["id"], "bold"), f"  in run {story['run']}"))
    for number, occurrence in enumerate(story["occurrences"], 1):
        if many:
            console.print(Text(f"\noccurrence {number} of {len(story['occurrences'])}", "bold"))
        console.print(Text(occurrence["verdict"], "green" if occurrence["mixes"] else "yellow"))
        _print_origin(occurrence, console)
        _print_decisions(occurrence, console)
        _print_use(occurrence, console)


def _print_origin(occurrence: dict[str, Any], console: Console) -> None:
    place = occurrence["place"]
    grid = _grid()
    grid.add_row("source", Text(place["source"]))
    grid.add_row("origin", Text(human.clean(occurrence["origin"] or human.NOTHING)))
    grid.add_row("pool", Text(f"{place['shard']}, row {place['row']:,}"))
    if occurrence["created"]:
        grid.add_row("created", Text(human.clean(occurrence["created"])))
    if occurrence["metadata"]:
        grid.add_row("metadata", Text(human.excerpt(json.dumps(occurrence["metadata"], ensure_ascii=False), 300)))
    tokens = occurrence["tokens"].get("tokens")
    length = f"{occurrence['characters']:,} characters"
    for edit in occurrence["edits"][-1:]:
        length += f", {edit['characters']:,} after edits"
    grid.add_row("length", Text(length if tokens is None else f"{length}, {tokens:,} tokens"))
    console.print(grid)
    console.print(Padding(Text(occurrence["excerpt"], "dim"), (0, 4, 1, 4), expand=False))


def _print_decisions(occurrence: dict[str, Any], console: Console) -> None:
    if occurrence["measurements"]:
        cells = [f"{human.label(name)} {_value(value)}" for name, value in occurrence["measurements"].items()]
        console.print(Text("measured  ", "bold").append(", ".join(cells), "not bold dim"))
    for decision in occurrence["decisions"]:
        if not decision["examined"]:
            console.print(Text.assemble((f"{decision['stage']:9} ", "bold"), ("not examined", "dim")))
            continue
        outcome = ("kept", "green") if decision["keep"] else (f"dropped: {describe_rule(decision)}", "red")
        if decision["keep"] and decision["rule"]:
            outcome = (f"kept, marked: {describe_rule(decision)}", "yellow")
        console.print(Text.assemble((f"{decision['stage']:9} ", "bold"), outcome))
        twin = decision.get("twin") or {}
        if twin.get("origin"):
            console.print(
                Padding(
                    Text(f"twin: {twin['source']}, {human.clean(twin['origin'])}"), (0, 4, 0, 10), expand=False
                )
            )
            console.print(Padding(Text(twin["excerpt"], "dim"), (0, 4, 0, 10), expand=False))
        for match in decision.get("matches", [])[:MATCHES_SHOWN]:
            _print_match(match, console)
    for edit in occurrence["edits"]:
        _print_edit(edit, console)


def _print_edit(edit: dict[str, Any], console: Console) -> None:
    """What a step took out of the text, by rule, and the first pieces of it."""
    rules = ", ".join(f"{rule} {count:,}" for rule, count in edit["by_rule"].items())
    head = f"{edit['spans']:,} spans, {edit['removed']:,} bytes fewer: {rules}"
    console.print(Text.assemble((f"{edit['step'].partition('/')[0]:9} ", "bold"), human.clean(head)))
    for span in edit["shown"]:
        put = f" → {human.clean(span['replacement'])}" if span["replacement"].strip() else ""
        twin = span["twin"]
        also = f", also in {twin['id'][:12]} of {twin['source']}" if twin else ""
        text = f"{span['rule']}, bytes {span['start']:,} to {span['end']:,}{also}: {span['text']}{put}"
        console.print(Padding(Text(text, "dim"), (0, 4, 0, 10), expand=False))


def _print_match(match: dict[str, Any], console: Console) -> None:
    """An evaluation item found in the document: where, how much of it, and both texts."""
    place = f"characters {match['start']:,} to {match['end']:,}"
    head = f"{match['benchmark']} {human.clean(match['item'])}: {human.number(match['score'])}, {place}"
    answer = f"\n→ {match['item_answer']}" if match["item_answer"] else ""
    for text, style in (
        (head, "bold"),
        (f"document: {human.excerpt(match['text'])}", ""),
        (f"item: {human.excerpt(match['item_text'] + answer)}", "dim"),
    ):
        console.print(Padding(Text(text, style), (0, 4, 0, 10), expand=False))


def _print_use(occurrence: dict[str, Any], console: Console) -> None:
    catalog = occurrence["catalog"]
    if catalog:
        parts = [f"length {catalog['length_bucket']}"]
        if catalog.get("quality") is not None:
            parts.append(f"quality {catalog['quality']:.3f}, vigintile {catalog['vigintile']} of 20")
        parts += ["held out"] if catalog["holdout"] else []
        console.print(Text.assemble(("catalog   ", "bold"), ", ".join(parts)))
    for entry in occurrence["heldout"]:
        fate = (
            "in it"
            if entry["kept"]
            else f"taken out of it: {human.percent(entry['share'])} of its wording is in the mixes"
        )
        console.print(Text.assemble(("held out  ", "bold"), f"{entry['set']}: {fate}"))
    if occurrence["mixes"]:
        table = Table("mix", "bucket", "tokens", "copies", "transform", "place in the order", "manifest", box=None)
        for mix in occurrence["mixes"]:
            numbers = f"{mix['tokens']:,}", str(mix["copies"])
            place = f"{mix['rank']:,} of {mix['of']:,}"
            cells = mix["mix"], mix["bucket"], *numbers, mix["transform"], place, mix["manifest"][:12]
            table.add_row(*(Text(cell) for cell in cells))  # names are text, never markup
        console.print(table)
    for entry in occurrence["checkpoints"]:
        how = ", ".join(f"{use['mix']} at {use['stage']}" for use in entry["trained_on"])
        console.print(
            Text.assemble(("model     ", "bold"), f"{entry['stage']} {entry['checkpoint'][:12]}: saw {how}")
        )


def _value(value: Any) -> str:
    return human.number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    return grid
