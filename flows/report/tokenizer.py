"""How well the tokenizer fits each source: bytes per token, beside a reference's where one was given."""

from __future__ import annotations

from typing import Any

from curation.tokenizer.report import REPORT
from flows.report.reading import by_source, read_optional
from flows.run import Run


def tokenizer(run: Run) -> dict[str, Any] | None:
    """The view: a line a source, in the order of the pipeline file, and the whole. None without a tokenizer."""
    report = read_optional(run.step("tokenizer"), REPORT)
    if report is None:
        return None
    measured = {line["source"]: line for line in report["sources"]}
    ordered = [name for name in by_source(run, "ingest/") if name in measured]
    trained = report["trained_on"] or {"bytes": {}}
    lines = [
        {**measured[name], "trained_bytes": trained["bytes"].get(name, 0)}
        for name in [*ordered, *sorted(measured.keys() - set(ordered))]
    ]
    return {**report, "given": report["trained_on"] is None, "sources": [_compared(line) for line in lines]}


def _compared(line: dict[str, Any]) -> dict[str, Any]:
    """With `gain`: how many more bytes a token holds than one of the reference, 0.1 for a tenth more."""
    own, other = line["bytes_per_token"], line.get("reference_bytes_per_token")
    return {**line, "gain": own / other - 1 if own and other else None}
