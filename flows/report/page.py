"""From a run to one HTML file: each section is a plain view, the template only lays it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from curation.files import write_bytes
from flows.pairs import pairs_tables
from flows.report import human
from flows.report.census import take_census
from flows.report.contamination import contamination
from flows.report.derived import derived
from flows.report.duplicates import duplicates
from flows.report.heldout import heldout
from flows.report.lineage import lineage
from flows.report.measurements import measurements
from flows.report.mixes import mixes
from flows.report.overview import overview
from flows.report.quality import quality
from flows.report.repeats import repeats
from flows.report.samples import samples
from flows.report.tokenizer import tokenizer
from flows.report.training import training
from flows.report.waterfall import waterfall
from flows.run import Run, RunInOneGo

FILE = "report.html"
TEMPLATES = Path(__file__).parent / "templates"

CURATED = {  # sections of what curation leaves, whatever the run does then; those that take longest first
    "samples": samples,
    "measurements": measurements,
    "census": take_census,
    "duplicates": duplicates,
    "repeats": repeats,
    "tokenizer": tokenizer,
    "contamination": contamination,
    "quality": quality,
    "derived": derived,
}
SECTIONS = CURATED | {
    "mixes": mixes,
    "pairs": pairs_tables,
    "heldout": heldout,
    "training": training,
    "lineage": lineage,
}


def curated(run: Run) -> dict[str, Any]:
    """The sections CURATED, of a run that has been curated and may go on."""
    run = RunInOneGo(run.folder, run.data)
    return {name: section(run) for name, section in CURATED.items()}


def write(run: Run, threads: int = 1, begun: Future[dict[str, Any]] | None = None) -> Path:
    """Write the report of a run, complete or absent, and return its path."""
    path = run.folder / FILE
    write_bytes(path, render(run, threads, begun).encode("utf-8", "backslashreplace"))
    return path


def render(run: Run, threads: int = 1, begun: Future[dict[str, Any]] | None = None) -> str:
    """The report as a string. Every value of the data is escaped by the template engine."""
    templates = environment()
    with ThreadPoolExecutor(1) as beside:
        compiled = beside.map(templates.get_template, templates.list_templates())
        sections = view(run, threads, begun)
        list(compiled)
    return templates.get_template("report.html").render(sections)


def view(run: Run, threads: int = 1, begun: Future[dict[str, Any]] | None = None) -> dict[str, Any]:
    """All sections of the report as plain data and drawings; a section without data is None or empty.

    `threads`: how many are made at once. `begun`: those of CURATED, made elsewhere; made here if that has failed.
    """
    run = RunInOneGo(run.folder, run.data)
    with ThreadPoolExecutor(threads) as pool:

        def make(names: Iterable[str]) -> dict[str, Future[Any]]:
            return {name: pool.submit(SECTIONS[name], run) for name in names}

        made = make(SECTIONS if begun is None else SECTIONS.keys() - CURATED.keys())
        try:
            sections = {}
            if begun is not None:
                with contextlib.suppress(Exception):  # a worker died
                    sections = dict(begun.result())
                made |= {} if sections else make(CURATED)
            sections |= {name: future.result() for name, future in made.items()}
        except BaseException:  # Ctrl-C, or a section that failed: those that have not begun are not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    census = sections.pop("census")
    return {
        "run": run.data,
        "name": run.name,
        "overview": overview(run, census),
        "waterfall": waterfall(run, census),
        **sections,
    }


def environment() -> Environment:
    """Templates with escaping on for every file, control characters replaced, and an error for an unknown name."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        human.count,
        human.exact,
        human.size,
        human.percent,
        human.number,
        human.seconds,
        human.short_hash,
        human.label,
        human.excerpt,
    ):
        made.filters[function.__name__] = function
    return made


def _printable(value: Any) -> Any:
    """What a template prints, before it is escaped. Markup is the page's own."""
    return human.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
