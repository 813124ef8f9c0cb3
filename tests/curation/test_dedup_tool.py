"""Deduplication of files: what is kept, against sets in plain Python, however the records are laid out."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curation.config import ConfigError
from curation.dedup import pieces as pieces_module
from curation.dedup.explain import RecordNotFoundError, explain
from curation.dedup.incremental import held
from curation.dedup.inputs import find_inputs
from curation.dedup.records import Fields
from curation.dedup.settings import Dedup, Keep
from curation.dedup.shingles import shingles
from curation.dedup.tool import Request, dedup_files, fit_workers, plan
from curation.executor import LocalExecutor
from curation.read.record import Limits
from curation.steps import Context, StrictError

PACKED = {"gz": gzip.compress, "st": zstandard.compress, "z2": bz2.compress, "xz": lzma.compress}
OPENED = {"gz": gzip.open, "st": zstandard.open, "z2": bz2.open, "xz": lzma.open}
LONGEST = Dedup(keep=Keep(then=("longest",)))


def prose(seed: int, words: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefghijklmnop", k=generator.randint(2, 8))) for _ in range(words)]


def corpus() -> list[dict]:
    """120 texts, of which 40 are repeated with some words changed, 15 as they are."""
    records = []
    for at in range(120):
        words = prose(at, 60 + at)
        records.append({"id": f"r{at}", "text": " ".join(words), "n": at})
        if at % 3 == 0:
            changed = list(words)
            for place in range(at // 30 + 1):
                changed[(place * 17) % len(changed)] = "changed"
            records.append({"id": f"r{at}b", "text": " ".join(changed), "n": at})
        if at % 8 == 0:
            records.append({"id": f"r{at}c", "text": " ".join(words), "n": -at})
    return records


def jsonl(records) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def run(folder, out="out", workers=1, strict=False, **options):
    options = {"inputs": (str(folder),), "fields": Fields(key="id"), "dedup": LONGEST} | options
    with LocalExecutor(workers) as executor:
        context = Context(folder.parent / out / "work", executor, strict)
        return dedup_files(context, Request(**options), folder.parent / out)


def kept_of(done) -> set[str]:
    return set(pq.read_table(done.out / "kept.parquet")["origin"].to_pylist())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def jaccard(a: str, b: str) -> float:
    first, second = set(shingles(a, 3)), set(shingles(b, 3))
    return len(first & second) / len(first | second)


def test_whatever_is_removed_has_a_kept_twin_above_the_threshold(folder):
    records = corpus()
    (folder / "a.jsonl").write_bytes(jsonl(records))
    done = run(folder)
    texts = {record["id"]: record["text"] for record in records}
    kept, removed = kept_of(done), pq.read_table(done.out / "removed.parquet").to_pylist()
    assert len(kept) + len(removed) == len(records) == done.counts["documents_in"]
    assert kept.isdisjoint(row["origin"] for row in removed)
    for row in removed:
        assert row["twin_origin"] in kept
        assert row["similarity"] == pytest.approx(jaccard(texts[row["origin"]], texts[row["twin_origin"]]))
        assert row["similarity"] >= 0.8
        assert (row["stage"] == "exact") <= (len(texts[row["origin"]]) <= len(texts[row["twin_origin"]]))
    assert len({texts[origin] for origin in kept}) == len(kept)
    near = {(f"r{at}", f"r{at}b") for at in range(0, 120, 3) if jaccard(texts[f"r{at}"], texts[f"r{at}b"]) > 0.9}
    assert len(near) > 10
    assert not [pair for pair in near if kept.issuperset(pair)]
    clusters = pq.read_table(done.out / "clusters.parquet").to_pylist()
    assert {row["origin"] for row in clusters if not row["kept"]} == {row["origin"] for row in removed}
    assert {row["origin"] for row in clusters if row["kept"]} == {row["twin_origin"] for row in removed}


def test_the_same_records_are_kept_however_they_are_laid_out(folder, tmp_path, monkeypatch):
    records = corpus()
    (folder / "a.jsonl").write_bytes(jsonl(records))
    expected = kept_of(run(folder))
    shuffled = random.Random(5).sample(records, len(records))
    other = tmp_path / "other"
    other.mkdir()
    (other / "z.jsonl.gz").write_bytes(gzip.compress(jsonl(shuffled[:70])))
    (other / "b.ndjson.zst").write_bytes(zstandard.ZstdCompressor().compress(jsonl(shuffled[70:90])))
    (other / "deep").mkdir()
    pq.write_table(pa.Table.from_pylist(shuffled[90:130]), other / "deep" / "c.parquet", row_group_size=7)
    (other / "y.jsonl").write_bytes(jsonl(shuffled[130:]))
    assert kept_of(run(other, "out2", workers=3)) == expected
    monkeypatch.setattr(pieces_module, "PIECE", 3000)
    monkeypatch.setattr(pieces_module, "BLOCK", 1000)
    assert kept_of(run(folder, "out3", workers=2)) == expected


def test_a_planted_order_dependence_is_noticed(folder, tmp_path, monkeypatch):
    """The twin of the test above: were the order of files to decide what is kept, it would fail."""
    from curation.dedup import ranking

    records = corpus()
    (folder / "a.jsonl").write_bytes(jsonl(records))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jsonl").write_bytes(jsonl(records[::-1]))
    halves = ("high", "low")
    monkeypatch.setattr(
        ranking,
        "wishes",
        lambda keep, columns: [np.arange(len(columns["low"])), *(columns[one] for one in halves)],
    )
    assert kept_of(run(folder)) != kept_of(run(tmp_path / "other", "out2"))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2", "a.jsonl.xz", "a.parquet"]
)
def test_kept_records_are_copied_unchanged(folder, name):
    records = corpus()
    lines = [json.dumps(record, indent=None).encode() for record in records]
    lines[3] = b'  {"id":"r2",   "text": "\\u00e9 odd but sound", "x": [1.50, {"a": null}]}\t'
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(records), folder / name, row_group_size=11)
    else:
        (folder / name).write_bytes(PACKED.get(name[-2:], bytes)(b"\n".join(lines)))
    done = run(folder, write_records=True)
    kept, copy = kept_of(done), done.out / "records" / "in" / name
    if name.endswith("parquet"):
        assert pq.read_table(copy).to_pylist() == [record for record in records if record["id"] in kept]
        return
    with OPENED.get(name[-2:], open)(copy, "rb") as file:
        assert file.read().splitlines() == [line.strip() for line in lines if json.loads(line)["id"] in kept]
    assert len(kept) < len(records)


def test_pages_of_one_template_are_not_taken_for_one_page(folder):
    """Navigation that fills half of each page brings pages together by LSH; the check keeps them apart."""
    navigation = " ".join(prose(1, 150))
    pages = [{"id": str(at), "text": f"{navigation} {' '.join(prose(100 + at, 60))}"} for at in range(150)]
    pages += [{"id": f"again{at}", "text": pages[at]["text"] + " ."} for at in range(5)]
    (folder / "a.jsonl").write_bytes(jsonl(pages))
    done = run(folder)
    fuzzy = json.loads(next((done.out / "work" / "steps" / "dedup-fuzzy").glob("*/step.json")).read_text())
    assert fuzzy["counts"]["pairs_compared"] > 1000  # unverified, nearly all would be one cluster
    assert done.counts["kept"] == 150
    assert not done.alarms


def test_a_source_that_loses_too_much_raises_an_alarm_and_fails_under_strict(folder):
    (folder / "a.jsonl").write_bytes(jsonl([{"id": str(at), "text": "the same"} for at in range(10)]))
    assert any("loses 9 of 10" in alarm for alarm in run(folder).alarms)
    with pytest.raises(StrictError, match="loses 9 of 10"):
        run(folder, strict=True)
    quiet = run(folder, "out2", alarm_share=0.95, dedup=LONGEST.model_copy(update={"alarm_share": 0.95}))
    assert not quiet.alarms


def test_bad_records_are_counted_and_named(folder):
    (folder / "a.jsonl").write_bytes(jsonl(corpus()) + b'{"text": 5, "id": 1}\nnot json\n')
    done = run(folder)
    quarantine = pq.read_table(done.out / "quarantine.parquet").to_pylist()
    assert done.counts["quarantined"] == len(quarantine) == 2
    assert "expected a string" in quarantine[0]["error"]
    assert quarantine[1]["sample"] == "not json"
    with pytest.raises(StrictError, match="2 of"):
        run(folder, strict=True)


def test_the_preferred_source_is_kept_and_the_newest(folder, tmp_path):
    text = " ".join(prose(3, 80))
    (folder / "a.jsonl").write_bytes(jsonl([{"id": "old", "text": text, "date": "2020-01-01"}]))
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"id": "new", "text": text, "date": "2021-01-01"}]))
    inputs = (f"web={folder}", f"books={tmp_path / 'b.jsonl'}")
    fields = Fields(key="id", created="date")
    newest = Dedup(keep=Keep(then=("newest",)))
    assert kept_of(run(folder, inputs=inputs, fields=fields, dedup=newest)) == {"new"}
    preferred = Dedup(keep=Keep(sources=("web",), then=("newest",)))
    assert kept_of(run(folder, "out2", inputs=inputs, fields=fields, dedup=preferred)) == {"old"}
    with pytest.raises(ValueError, match="--date-field"):
        Request(inputs=inputs, dedup=newest)


def test_the_best_by_a_field_is_kept(folder):
    text = " ".join(prose(3, 80))
    records = [{"id": at, "text": text, "meta": {"quality": score}} for at, score in enumerate([0.5, 2, None, -1])]
    (folder / "a.jsonl").write_bytes(jsonl(records))
    best = Dedup(keep=Keep(then=("best", "longest"), score="score"))
    assert kept_of(run(folder, fields=Fields(key="id", score="meta.quality"), dedup=best)) == {"1"}
    with pytest.raises(ValueError, match="--score-field"):
        Request(inputs=(str(folder),), dedup=best)


def test_nothing_is_read_again_unless_it_has_changed(folder):
    (folder / "a.jsonl").write_bytes(jsonl(corpus()))
    first = run(folder)
    assert not first.reused
    assert run(folder).reused
    (first.out / "kept.parquet").unlink()
    assert not run(folder).reused
    assert (first.out / "kept.parquet").is_file()
    stricter = run(folder, dedup=LONGEST.model_copy(update={"threshold": 0.99}))
    assert stricter.counts["kept"] > first.counts["kept"]
    (folder / "a.jsonl").write_bytes(jsonl(corpus()[:50]))
    assert run(folder).counts["documents_in"] == 50


def test_an_index_filled_night_by_night_keeps_what_one_run_keeps(folder, tmp_path):
    records = corpus()
    (folder / "a.jsonl").write_bytes(jsonl(records))
    expected = kept_of(run(folder))
    shuffled = random.Random(9).sample(records, len(records))
    indexed = LONGEST.model_copy(update={"index": tmp_path / "index"})
    twins = []
    for night in range(3):
        nightly = tmp_path / f"night{night}"
        nightly.mkdir()
        (nightly / "a.jsonl").write_bytes(jsonl(shuffled[night::3]))
        done = run(nightly, f"out{night}", dedup=indexed)
        twins += pq.read_table(done.out / "removed.parquet").select(["twin_origin", "twin_shard"]).to_pylist()
    index = held(tmp_path / "index")
    assert set(index.filter(index["kept"])["origin"].to_pylist()) == expected
    assert any(twin["twin_shard"] is None for twin in twins)
    assert all(twin["twin_origin"] for twin in twins)


def test_inputs_are_files_folders_and_globs(tmp_path):
    for name in ("x/a.jsonl", "x/b.parquet", "x/.c.jsonl", "x/notes.md", "y/d.jsonl.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_inputs([str(tmp_path / "x"), f"more={tmp_path}/y/*.gz", str(tmp_path / "x" / "a.jsonl")])
    names = {source: [path.name for path in paths] for source, paths in found.items()}
    assert names == {"x": ["a.jsonl", "b.parquet"], "more": ["d.jsonl.gz"]}
    with pytest.raises(ConfigError, match="no such file"):
        find_inputs([str(tmp_path / "none")])


def test_the_plan_is_near_what_comes_and_memory_limits_workers(folder):
    records = corpus() * 20
    (folder / "a.jsonl").write_bytes(jsonl(records))
    request = Request(inputs=(str(folder),), dedup=LONGEST)
    planned = plan(request, 2)
    assert planned.documents == pytest.approx(len(records), rel=0.1)
    assert planned.text == pytest.approx(sum(len(record["text"]) for record in records), rel=0.1)
    assert planned.detection[0.8] == pytest.approx(0.924, abs=0.001)
    assert fit_workers(request.model_copy(update={"memory": 1 << 30}), 8) == 2
    with pytest.raises(ConfigError, match="--memory"):
        fit_workers(request.model_copy(update={"memory": 100 << 20}), 8)


def test_two_records_are_explained(folder):
    records = corpus()
    (folder / "a.jsonl").write_bytes(jsonl(records))
    texts = {record["id"]: record["text"] for record in records}

    def explained(a, b):
        return explain([folder / "a.jsonl"], Fields(key="id"), Limits(), LONGEST, (a, b))

    near = explained("r63", "r63b")
    assert near.jaccard == pytest.approx(jaccard(texts["r63"], texts["r63b"]))
    assert len(near.shared) + len(near.only_first) == near.first.shingles
    assert set(near.only_second) == set(map(bytes.decode, shingles(texts["r63b"], 3))) - set(near.shared)
    assert near.duplicates == (bool(near.bands) and near.jaccard >= 0.8)
    assert explained("r0", "r0c").verdict.startswith("exact")
    apart = explained("r0", "r1")
    assert (apart.jaccard, apart.bands, apart.duplicates) == (0.0, [], False)
    assert explained(near.first.id[:8], "r63").jaccard == 1.0
    with pytest.raises(RecordNotFoundError, match="'nobody'"):
        explained("r0", "nobody")
