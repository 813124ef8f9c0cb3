"""Two edits in a row against the one that they are composed to."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.compose import compose
from curation.edits import SPANS, apply_edits

TEXT = st.text("ab\né", max_size=12)


def spans_on(draw, text: str, rule: str) -> list[dict]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    bounds = [len(text[:at].encode()) for at in places]
    return [
        {"start": start, "end": end, "replacement": draw(st.text("xyé", max_size=3)), "rule": rule}
        for start, end in zip(bounds[::2], bounds[1::2], strict=False)
    ]


def lists(spans: list[list[dict]]) -> pa.ListArray:
    return pa.array(spans, SPANS)


@st.composite
def two_edits(draw) -> tuple[str, list[dict], list[dict]]:
    text = draw(TEXT)
    first = spans_on(draw, text, "first")
    middle = apply_edits(pa.array([text], pa.large_string()), lists([first]))[0].as_py()
    return text, first, spans_on(draw, middle, "second")


def span(start: int, end: int, replacement: str, rule: str) -> dict:
    return {"start": start, "end": end, "replacement": replacement, "rule": rule}


@settings(deadline=None, max_examples=600)
@given(st.lists(two_edits(), max_size=4))
@example([("abab", [span(1, 2, "xyx", "first")], [span(2, 3, "", "second")])])  # within what was put in
@example([("abab", [span(1, 3, "", "first")], [span(1, 1, "x", "second")])])  # where something was cut
@example([("abab", [span(0, 1, "xy", "first"), span(3, 4, "xy", "first")], [span(1, 5, "", "second")])])
def test_one_edit_does_what_two_do(cases):
    texts = pa.array([case[0] for case in cases], pa.large_string())
    first, second = lists([case[1] for case in cases]), lists([case[2] for case in cases])
    composed = compose(first, second)
    composed.validate(full=True)
    assert apply_edits(texts, composed).equals(apply_edits(apply_edits(texts, first), second))


def test_spans_that_do_not_meet_keep_their_rules():
    first, second = [span(0, 2, "", "cut")], [span(2, 3, "-", "mask"), span(5, 5, "+", "mask")]
    assert compose(lists([first]), lists([second])).to_pylist() == [
        [span(0, 2, "", "cut"), span(4, 5, "-", "mask"), span(7, 7, "+", "mask")]
    ]


def test_a_span_over_another_takes_it_in():
    first, second = [span(2, 4, "xy", "cut")], [span(1, 5, "", "line")]
    assert compose(lists([first]), lists([second])).to_pylist() == [[span(1, 5, "", "line")]]
