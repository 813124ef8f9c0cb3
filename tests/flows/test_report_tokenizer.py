"""The tokenizer's section of the report: the figures of report.json, with a reference, without, and given."""

from __future__ import annotations

import re

import pytest

from curation.files import write_json
from flows.report.page import render
from flows.report.tokenizer import tokenizer


def report_of(sources: list[str], reference: bool, trained: bool = True) -> dict:
    lines = []
    for number, source in enumerate(sources):
        line = {"source": source, "documents": 5, "documents_trained_on": 2, "bytes": 100 + number, "tokens": 25}
        line |= {"pool_bytes": 1000, "bytes_per_token": round((100 + number) / 25, 6)}
        lines.append(line | ({"reference_tokens": 40, "reference_bytes_per_token": 2.5} if reference else {}))
    lines[-1] |= {"documents": 0, "bytes": 0, "tokens": 0, "bytes_per_token": None}
    whole = {"documents": 5, "bytes": 100, "pool_bytes": 1000, "bytes_per_token": 4.125}
    return {
        "vocab_size": 4321,
        "reference": {"vocab_size": 50257} if reference else None,
        "sources": sorted(lines, key=lambda line: line["source"]),
        "whole": whole | ({"reference_bytes_per_token": 2.5} if reference else {}),
        "trained_on": {"documents": {sources[0]: 2}, "bytes": {sources[0]: 77}} if trained else None,
    }


def section(html: str) -> str:
    return re.search(r'<section id="tokenizer">.*?</section>', html, re.DOTALL)[0]


@pytest.mark.parametrize(("reference", "trained"), [(True, True), (False, True), (True, False)])
def test_the_section_shows_every_source(whole_run, reference, trained):
    sources = [source["name"] for source in whole_run.data["config"]["sources"]]
    report = report_of(sources, reference, trained)
    write_json(whole_run.step("tokenizer").folder / "report.json", report)
    seen = tokenizer(whole_run)
    assert [line["source"] for line in seen["sources"]] == sources
    assert seen["sources"][0]["trained_bytes"] == (77 if trained else 0)
    assert seen["sources"][0]["gain"] == (pytest.approx(0.6) if reference else None)
    assert seen["sources"][-1]["gain"] is None
    html = section(render(whole_run))
    assert "4,321" in html
    assert "4.125" in html
    assert ("50,257" in html) == ("+60.0 %" in html) == reference
    assert ("taken as given" in html) != trained
    cells = len(re.findall("<t[dh][ >]", html))
    assert cells % (len(sources) + 2) == 0  # a table without a hole: head, sources, the whole


def test_a_run_without_a_report_says_so(whole_run):
    assert tokenizer(whole_run) is None
    assert "This run has no report of a tokenizer." in section(render(whole_run))
