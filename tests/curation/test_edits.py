"""Edits as spans: text and spans give the edited text byte by byte, and the text before is never lost."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import edits
from curation.edits import EDITS, SPANS, apply_edits, edit_pool, edits_path, span_lists, span_table
from curation.schema import DOCUMENT
from curation.steps import Context, StepOutput, step

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def edited_text(draw) -> tuple[str | None, list[dict], str | None]:
    """A text, spans on it, and what a person with a pair of scissors would make of the two."""
    text = draw(st.none() | TEXT)
    if text is None:
        return None, [], None
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    spans, pieces, done = [], [], 0
    for start, end in zip(places[::2], places[1::2], strict=False):
        replacement = draw(TEXT)
        pieces += [text[done:start], replacement]
        done = end
        bounds = [len(text[:at].encode()) for at in (start, end)]
        spans.append({"start": bounds[0], "end": bounds[1], "replacement": replacement, "rule": "r"})
    return text, spans, "".join([*pieces, text[done:]])


def large(texts: list[str | None]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


@settings(deadline=None)
@given(st.lists(edited_text(), max_size=6), st.integers(0, 3))
def test_text_and_spans_give_the_edited_text(cases, skip):
    texts, spans = large([case[0] for case in cases]), pa.array([case[1] for case in cases], SPANS)
    assert apply_edits(texts, spans).to_pylist() == [case[2] for case in cases]
    assert texts.to_pylist() == [case[0] for case in cases]  # the text that was given is as it was
    assert apply_edits(texts.slice(skip), spans.slice(skip)).to_pylist() == [case[2] for case in cases[skip:]]
    table = span_table(spans, first=5)
    table.validate(full=True)
    assert span_lists(table, 5, len(cases)).to_pylist() == [case[1] for case in cases]


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("abc", [(2, 4)]),  # past the end
        ("abc", [(-1, 1)]),
        ("abc", [(2, 1)]),
        ("abc", [(0, 2), (1, 3)]),  # overlapping
        ("abc", [(1, 2), (0, 1)]),  # not sorted
        ("é", [(0, 1)]),  # within a character
        ("a😀", [(3, 5)]),
        (None, [(0, 0)]),
    ],
)
def test_spans_that_do_not_fit_are_refused(text, bounds):
    spans = [{"start": start, "end": end, "replacement": "x", "rule": "r"} for start, end in bounds]
    with pytest.raises(ValueError, match=r"row 1(, span| has spans, but no text)"):
        apply_edits(large(["fine", text]), pa.array([[], spans], SPANS))


def test_bytes_that_are_no_utf8_can_be_cut_out():
    broken = pa.LargeStringArray.from_buffers(
        1, pa.py_buffer(pa.array([0, 5], pa.int64()).buffers()[1]), pa.py_buffer(b"a\x80\xffb\xc3")
    )
    spans = pa.array([[{"start": 1, "end": 3, "replacement": "?", "rule": "r"}]], SPANS)
    assert apply_edits(broken, spans).buffers()[2].to_pybytes() == b"a?b\xc3"


def found(context: Context, source: str, by_shard: dict[str, list[list[dict]]]) -> StepOutput:
    """A step that has found spans."""

    def work(build):
        for shard, lists in by_shard.items():
            path = edits_path(build.folder, source, shard)
            build.write_table(str(path.relative_to(build.folder)), span_table(pa.array(lists, SPANS)))

    return step(context, f"measure/{source}", 1, {"spans": by_shard}, {}, work)


def test_an_edited_pool_has_the_rows_and_ids_of_the_original(context, make_pool, monkeypatch):
    conversation = {"text": None, "messages": [{"role": "user", "content": "abc"}]}
    pool = make_pool("web", ["abcdef", "keep", conversation, "ghi", "jkl", "mno"], shards=2)
    before = [pq.read_table(path) for path in pool.shards()]
    cut = {"start": 1, "end": 3, "replacement": "-", "rule": "cut"}
    gone = {"start": 0, "end": 3, "replacement": "", "rule": "gone"}
    spans = found(context, "web", {"web-00000": [[cut], [], []], "web-00001": [[], [gone], [cut]]})
    edited = edit_pool(context, "edit/web", pool, spans)
    assert edited.source == "web"
    assert [path.name for path in edited.shards()] == [path.name for path in pool.shards()]
    after = [pq.read_table(path) for path in edited.shards()]
    assert [table["text"].to_pylist() for table in after] == [["a-def", "keep", None], ["ghi", "", "m-"]]
    for old, new in zip(before, after, strict=True):
        assert new.schema.equals(DOCUMENT)
        assert old.drop_columns("text").equals(new.drop_columns("text"))
    assert [pq.read_table(path) for path in pool.shards()] == before
    assert edited.counts == {
        "documents_in": 6,
        "documents_out": 6,
        "edited": 3,
        "spans": 3,
        "bytes_in": 19,
        "bytes_out": 14,
        "spans_by_rule": {"cut": 2, "gone": 1},
        "removed_by_rule": {"cut": 2, "gone": 3},
    }
    monkeypatch.setattr(edits, "BATCH_ROWS", 1)
    again = edit_pool(Context(context.workspace.parent / "other"), "edit/web", pool, spans)
    assert [pq.read_table(path) for path in again.shards()] == after


def test_the_same_spans_of_another_step_are_the_same_edit(context, make_pool):
    pool = make_pool("web", ["abcdef"])
    cut = [{"start": 1, "end": 3, "replacement": "", "rule": "cut"}]
    first = edit_pool(context, "edit/web", pool, found(context, "web", {"web-00000": [cut]}))
    spans = found(context, "web", {"web-00000": [cut], "other": []})  # a file of a shard that is not there
    assert edit_pool(context, "edit/web", pool, spans).content == first.content


def test_spans_of_another_pool_are_refused(context, make_pool):
    pool = make_pool("web", ["abc"])
    span = {"start": 0, "end": 9, "replacement": "", "rule": "cut"}
    with pytest.raises(ValueError, match=r"web-00000.parquet, from row 0 on: row 0, span 0, bytes 0 to 9 of 3"):
        edit_pool(context, "edit/web", pool, found(context, "web", {"web-00000": [[span]]}))
    with pytest.raises(ValueError, match=r"spans of row 1, but .* has 1"):
        edit_pool(context, "edit/web", pool, found(context, "web", {"web-00000": [[], [span]]}))
    assert EDITS.names == ["row", "start", "end", "replacement", "rule"]


@settings(deadline=None, max_examples=15)
@given(st.lists(edited_text(), min_size=1, max_size=20), st.integers(1, 7))
def test_batches_do_not_show(cases, size):
    """A shard's spans cut into batches are those of its rows, wherever the cuts lie."""
    table = span_table(pa.array([case[1] for case in cases], SPANS))
    lists = []
    for first in range(0, len(cases), size):
        lists += span_lists(table, first, min(size, len(cases) - first)).to_pylist()
    assert lists == [case[1] for case in cases]
