"""The table of preference data, of sources, of a mix and in the report: read from a real run in small."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from curation.mix.manifest import load_manifest
from flows.execute import Options, execute
from flows.pairs import pairs_of, print_pairs
from flows.pools import UnknownPoolError
from flows.report.page import render
from tests.mini import write_inputs, write_pipeline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder, folder / "inputs", training=False)
    return execute(Options(pipeline, folder / "workspace", workers=1, until="mix"))


def test_sources_and_mixes_are_counted(run):
    alive = pq.read_table(run.step("catalog/pairs").folder / "catalog.parquet")
    (line,) = pairs_of(run)
    assert pairs_of(run, "pairs") == [line]
    assert (line["source"], line["comparisons"], line["turns"]) == ("pairs", len(alive), 1.0)
    assert line["tokens_example"] == pytest.approx(alive["tokens"].to_numpy().mean() / 2)
    assert line["tokens_prompt"] + line["tokens_response"] == pytest.approx(line["tokens_example"])
    rows = load_manifest(run.step("mix/preference").folder).rows()
    (mixed,) = pairs_of(run, "preference")
    assert 0 < mixed["comparisons"] == len(rows) < len(alive)
    assert mixed["tokens_example"] == pytest.approx(rows["tokens"].to_numpy().mean() / 2)


def test_the_table_is_printed_and_reported(run):
    out = io.StringIO()
    print_pairs(pairs_of(run), Console(file=out, width=200, color_system=None))
    assert "tokens a response" in out.getvalue()
    (line,) = pairs_of(run)
    assert f"{line['tokens_response']:.1f}" in out.getvalue()
    page = render(run)
    section = page[page.index('id="pairs"') :].partition("</section>")[0]
    assert "mix preference" in section
    assert f"{line['tokens_response']:.1f}" in section


def test_what_holds_no_pairs_is_said(run):
    with pytest.raises(ValueError, match="'pretrain' holds no pairs"):
        pairs_of(run, "pretrain")
    with pytest.raises(UnknownPoolError, match="no mix and no source 'x'; it has pretrain, instruction, pref"):
        pairs_of(run, "x")
