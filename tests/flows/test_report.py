"""The report: numbers equal to a count by hand, nothing of the data alive in the page, sections that may lack."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
from collections import Counter
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.files import read_json, write_json
from curation.steps import load
from flows.report import human, svg, write_report
from flows.report.census import take_census
from flows.report.differences import differences
from flows.report.measurements import OCTAVE_EDGES, SHARE_EDGES, Histogram
from flows.report.page import curated, environment, render, view
from flows.run import Run

SECTIONS = [
    "waterfall",
    "mixes",
    "training",
    "measurements",
    "samples",
    "duplicates",
    "contamination",
    "tokenizer",
    "quality",
    "heldout",
    "lineage",
    "stations",
]
ALLOWED_TAGS = set(
    re.findall(
        r"\w+",
        """
        html head meta title link style body nav div a main header p h1 h2 h3 span section b ul li i small table
        thead tbody tfoot tr th td details summary figure figcaption svg rect line text polyline path circle
        article pre code footer ins del
        """,
    )
)


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, the text."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.words = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def live_parts(page: Page) -> list[str]:
    """Everything that could run, load or lead away."""
    wrong = []
    for tag, attributes in page.tags:
        lowered = tag.lower()
        if lowered not in ALLOWED_TAGS:
            wrong.append(f"<{tag}>")
        for name, value in attributes.items():
            if name.startswith("on") or name in ("src", "srcset", "action", "formaction", "xlink:href", "data"):
                wrong.append(f"{tag} {name}")
            if name == "href" and not (value or "").startswith("#") and value != "data:,":
                wrong.append(f"{tag} {name}={value}")
            if name == "style" and not re.fullmatch(r"(--[aw]:-?[0-9.]+%;?)+", value or ""):
                wrong.append(f"{tag} {name}={value}")
    return wrong


def test_nothing_of_the_data_is_alive_in_the_page(whole_run, fabricator):
    page = Page(render(whole_run))
    assert live_parts(page) == []
    assert '<script>alert("x")</script>' in page.text  # shown, not run
    assert fabricator.hostile_source in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


def test_the_check_for_live_parts_can_fail(whole_run):
    """Without escaping, the same page is full of them."""
    unsafe = environment()
    unsafe.autoescape = False
    page = Page(unsafe.get_template("report.html").render(view(whole_run)))
    assert "<script>" in live_parts(page)
    assert "img onerror" in live_parts(page)


def test_the_page_forbids_scripts_and_loading(whole_run):
    page = Page(render(whole_run))
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert not re.search(r"url\(|@import", render(whole_run))


def test_every_section_is_there_and_linked(whole_run):
    page = Page(render(whole_run))
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section" and "id" in attributes]
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert sorted(ids) == sorted(SECTIONS)
    assert set(SECTIONS) <= set(links)


def test_a_run_that_stopped_early_says_what_is_not_there(curated_run):
    text = Page(render(curated_run)).text
    assert "This run made no mix." in text
    assert "This run trained no model." in text


def test_every_classifier_is_shown_with_its_intervals(whole_run):
    text = Page(render(whole_run)).text
    assert "0.710 to 0.910" in text
    assert "Mistakes, the surest first" in text


def test_a_whole_run_lacks_nothing(whole_run):
    text = Page(render(whole_run)).text
    assert "This run made no mix." not in text
    assert "This run trained no model." not in text


def test_a_run_without_any_step_has_a_report(context):
    folder = context.workspace / "runs" / "empty"
    data = {
        "run": "empty",
        "pipeline": "p",
        "config": {},
        "steps": [],
        "status": "failed",
        "error": "no <raw> file",
        "started": "2024-01-01T00:00:00Z",
        "finished": None,
        "versions": {},
    }
    write_json(folder / "run.json", data)
    path = write_report(Run(folder, data))
    assert path == folder / "report.html"
    text = Page(path.read_text()).text
    assert "no <raw> file" in text
    assert "No pool was ingested in this run." in text


def test_the_census_equals_a_count_by_hand(curated_run, fabricator):
    census = take_census(curated_run)
    assert [stage.name for stage in census.stages] == ["rules", "exact", "fuzzy"]
    for source in census.sources:
        texts, alive = fabricator.sources[source.source], fabricator.alive[source.source]
        left = [text for text, kept in zip(texts, alive, strict=True) if kept]
        assert source.ingested.documents == len(texts)
        assert source.ingested.tokens == sum(len(text.split()) + 1 for text in texts)
        assert source.after[-1].documents == len(left)
        assert source.after[-1].tokens == sum(len(text.split()) + 1 for text in left)
        assert source.available.documents + source.held_out.documents == len(left)
        dropped = sum(amount.documents for amount in source.dropped.values())
        assert dropped + len(left) == len(texts)


def test_counts_that_do_not_close_are_told(curated_run, fabricator):
    assert "counts do not close" not in Page(render(curated_run)).text
    path = next((fabricator.folder("rules/books") / "ledger/books").glob("*.parquet"))
    table = pq.read_table(path)  # a rule that drops a document which the catalog lists
    victim = list(fabricator.alive["books"]).index(True)
    rules = pa.array(["symbols" if row == victim else None for row in range(len(table))], pa.string())
    keep = pa.array([row != victim for row in range(len(table))])
    table = table.set_column(table.schema.get_field_index("keep"), "keep", keep)
    table = table.set_column(table.schema.get_field_index("rule"), "rule", rules)
    pq.write_table(table, path)
    record = read_json(fabricator.folder("rules/books") / "step.json")
    record["files"][path.relative_to(fabricator.folder("rules/books")).as_posix()]["bytes"] = path.stat().st_size
    write_json(fabricator.folder("rules/books") / "step.json", record)
    before = take_census(curated_run)
    assert any(source.dropped.get(("rules", "symbols")) for source in before.sources if source.source == "books")
    assert "counts do not close" in Page(render(curated_run)).text


def test_content_does_not_depend_on_where_or_in_which_order(whole_run, tmp_path):
    """The same steps copied elsewhere, recorded in another order: every section but the head is the same."""
    other = tmp_path / "elsewhere"
    shutil.copytree(whole_run.workspace, other)
    data = json.loads(json.dumps(whole_run.data))
    per_source = [entry for entry in data["steps"] if entry["name"].startswith("ingest/")]
    data["steps"] = [*reversed(per_source), *(entry for entry in data["steps"] if entry not in per_source)]
    moved = Run(other / "runs" / whole_run.name, data)
    assert render(moved) == render(whole_run)


def test_the_page_is_the_same_however_many_threads_make_it(whole_run):
    assert render(whole_run, threads=3) == render(whole_run)


def test_the_page_is_the_same_if_it_was_begun_while_the_run_went_on(whole_run):
    """With the record as it was before the mixes; where what was begun has failed, all is made anew."""
    data = json.loads(json.dumps(whole_run.data))
    later = ("mix/", "data/", "heldout/", "train/", "evaluate/")
    data["steps"] = [entry for entry in data["steps"] if not entry["name"].startswith(later)]
    assert len(data["steps"]) < len(whole_run.data["steps"])
    made, failed, wrong = Future(), Future(), Future()
    made.set_result(pickle.loads(pickle.dumps(curated(Run(whole_run.folder, data | {"status": "running"})))))
    failed.set_exception(BrokenProcessPool("a worker died"))
    wrong.set_result({**made.result(), "duplicates": []})
    assert render(whole_run, begun=made) == render(whole_run, begun=failed) == render(whole_run)
    assert render(whole_run, threads=2, begun=made) == render(whole_run)
    assert render(whole_run, begun=wrong) != render(whole_run)


def test_each_step_is_looked_for_once(whole_run, monkeypatch):
    looked = Counter()

    def counting(folder):
        looked[folder] += 1
        return load(folder)

    monkeypatch.setattr("flows.run.load", counting)
    render(whole_run)
    assert set(looked.values()) == {1}
    assert len(looked) == len(whole_run.data["steps"])
    whole_run.steps()
    whole_run.steps()
    assert set(looked.values()) == {3}  # a run by itself looks each time


def test_a_changed_decision_changes_the_page(whole_run):
    data = json.loads(json.dumps(whole_run.data))
    data["steps"] = [entry for entry in data["steps"] if entry["name"] != "dedup-fuzzy"]
    assert render(Run(whole_run.folder, data)) != render(whole_run)


def test_missing_files_of_a_step_are_told(whole_run, fabricator):
    (fabricator.folder("mix/midtrain") / "part-00000.parquet").unlink()
    assert "its files are no longer in the workspace" in Page(render(whole_run)).text


@pytest.mark.parametrize("station", ["ingest", "measure", "rules", "tokenizer", "catalog", "mix", "data", "train"])
def test_a_run_whose_steps_were_partly_deleted_has_a_report(whole_run, station):
    for folder in (whole_run.workspace / "steps").glob(f"{station}*"):
        shutil.rmtree(folder)
    assert whole_run.name in Page(render(whole_run)).text


def test_lineage_names_disagreeing_hashes(whole_run, fabricator):
    assert view(whole_run)["lineage"]["disagreements"] == []
    folder = fabricator.folder("train/dpo")
    head = read_json(folder / "checkpoint.json")
    write_json(folder / "checkpoint.json", {**head, "manifest_hash": "0" * len(head["manifest_hash"])})
    assert view(whole_run)["lineage"]["disagreements"] == [f"checkpoint dpo names another manifest: {'0' * 64}"]


def test_lineage_finds_mix_and_parent_by_content(whole_run):
    found = {
        entry["stage"]: (entry["mix"], entry["parent"]) for entry in view(whole_run)["lineage"]["checkpoints"]
    }
    assert found == {
        "pretrain": ("pretrain", None),
        "midtrain": ("midtrain", "pretrain"),
        "reward": ("midtrain", "midtrain"),
        "dpo": ("midtrain", "midtrain"),
    }


def test_the_held_out_set_shows_what_was_taken_out(whole_run, fabricator):
    [found] = view(whole_run)["heldout"]
    assert found["dropped_total"] == 1
    assert {row["source"]: (row["documents"], row["dropped"]) for row in found["by_source"]} == {
        fabricator.hostile_source: (1, 0),
        "books": (0, 1),
    }
    assert "1 held-out document taken out" in Page(render(whole_run)).text


def test_the_mix_table_adds_up(mixed_run):
    for mix in view(mixed_run)["mixes"]:
        totals = mix["head"]["totals"]
        assert mix["sum"]["tokens"] == totals["tokens"]
        assert mix["sum"]["occurrences"] == totals["occurrences"]
        assert mix["sum"]["share"] == pytest.approx(1)
        assert sum(sub["tokens"] for _, _, sub in mix["types"]) == totals["tokens"]


def test_histograms_hold_every_document(curated_run, fabricator):
    documents = sum(len(texts) for texts in fabricator.sources.values())
    group = view(curated_run)["measurements"]["groups"][0]
    for card in [*group["ruled"], *group["others"]]:
        drawn = sum(int(n) for n in re.findall(r"<title>[^<]*: ([0-9]+)</title>", card["chart"]))
        assert drawn + card["zeros"] + card["missing"] + card["above"] == card["total"] == documents


on_edges = st.sampled_from([*SHARE_EDGES, *OCTAVE_EDGES])


@given(st.booleans(), st.lists(st.floats() | st.floats(0, 2) | st.integers(-1, 99).map(float) | on_edges))
@settings(max_examples=60, deadline=None)
def test_fine_bins_are_those_of_numpy(share, values):
    values = np.array(values, np.float64)
    histogram = Histogram(share)
    for part in (values[::2], values[1::2]):
        histogram.add(part)
    known = values[~np.isnan(values)]
    assert histogram.fine.tolist() == np.histogram(known[known > 0], histogram.edges)[0].tolist()
    assert (histogram.total, histogram.missing) == (len(values), len(values) - len(known))
    assert (histogram.zeros, histogram.above) == ((known <= 0).sum(), (known > histogram.edges[-1]).sum())


@pytest.mark.parametrize("share", [True, False])
def test_a_value_on_an_edge_lies_above_it_but_on_the_last(share):
    """What the test before would see if bins were closed on the other side."""
    for place in (3, 200, -1):
        on, under = Histogram(share), Histogram(share)
        on.add(on.edges[[place]])
        under.add(np.nextafter(on.edges[[place]], 0))
        assert on.fine.sum() == under.fine.sum() == 1
        assert (on.fine.tolist() == under.fine.tolist()) == (place == -1)


words = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]), min_size=1, max_size=5), max_size=60
)


@given(words, words)
@settings(max_examples=60, deadline=None)
def test_differences_hold_all_words_unless_folded(first, second):
    pieces = differences(" ".join(first), " ".join(second))
    if all(piece.kind != "gap" for piece in pieces):
        old = "".join(piece.text for piece in pieces if piece.kind in ("same", "del"))
        new = "".join(piece.text for piece in pieces if piece.kind in ("same", "ins"))
        cleaned = [human.clean(" ".join(side)).split() for side in (first, second)]
        assert "".join(old.split()) == "".join(cleaned[0])
        assert "".join(new.split()) == "".join(cleaned[1])


def test_white_space_is_no_difference():
    pieces = differences("one two\nthree", "one\ntwo three")
    assert [piece.kind for piece in pieces] == ["same"]
    assert {piece.kind for piece in differences("one two", "one three")} == {"same", "del", "ins"}


def test_differences_are_bounded():
    pieces = differences("a " * 50_000, "b " * 50_000)
    assert sum(len(piece.text) for piece in pieces) < 4000


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (9876, "9,876"), (15_200, "15.2K"), (1_520_000, "1.52M"), (999_999_999, "1.00B"), (None, "–")],
)
def test_counts_are_human(value, expected):
    assert human.count(value) == expected


def test_ticks_lie_within_the_axis():
    for low, high in [(0, 1), (0.3, 0.31), (-5, 1e6), (7, 7)]:
        ticks = svg.nice_ticks(low, high)
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
        assert len(ticks) <= 9


@pytest.mark.slow
def test_in_a_real_browser(whole_run, tmp_path):
    """Headless Chromium: nothing on the console, no script, no image, no sideways scrolling on a phone's width."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on the PATH; on Debian: apt-get install chromium")
    html = write_report(whole_run).read_text(encoding="utf-8")
    assert _browse(chromium, html, tmp_path / "good") == {"console": [], "wide": 390, "scripts": 0, "images": 0}

    # The same checks on a page that breaks every one of them.
    bad = "<script>1</script><img src='http://127.0.0.1:9/x.png'><div style='width:600px'>wide</div></body>"
    found = _browse(chromium, html.replace("</body>", bad), tmp_path / "bad")
    assert found["wide"] >= 600
    assert (found["scripts"], found["images"]) == (1, 1)
    assert len(found["console"]) == 2  # the policy has refused the script and the image


def _browse(chromium: str, html: str, folder: Path) -> dict:
    """What the browser says of a page in a frame 390 pixels wide, all details open.

    The page itself allows no script, so the frame's parent looks at it. It comes as the frame's `srcdoc`: then
    both are of one origin. The answers are read from the parent's final DOM and from the browser's log, without
    a connection to the browser that could time out.
    """
    folder.mkdir()
    look = """
        const frame = document.querySelector("iframe");
        frame.onload = () => {
          const page = frame.contentDocument;
          page.querySelectorAll("details").forEach(d => d.open = true);
          const wide = Math.max(page.documentElement.scrollWidth, page.body.scrollWidth);
          const found = {wide, scripts: page.scripts.length, images: page.images.length};
          document.querySelector("output").textContent = JSON.stringify(found);
        };"""
    frame = f'<iframe width="390" height="800" style="border:0" srcdoc="{escape(html)}"></iframe>'
    outer = folder / "outer.html"
    outer.write_text(f"<!doctype html><meta charset=utf-8><output></output>{frame}<script>{look}</script>")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-sync",
    ]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-quic"]
    flags += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [chromium, *flags, "--dump-dom", outer.as_uri()], capture_output=True, text=True, timeout=180, check=True
    )
    answer = re.search(r"<output>(.*?)</output>", done.stdout)
    assert answer is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return {"console": console, **json.loads(answer[1])}
