"""The kernel against the library: every kind of supervised model, quantised or not, on real and on hard text."""

from __future__ import annotations

import dataclasses
import functools
import random
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.measure import fasttext_subwords
from curation.measure.fasttext_kernel import PIECE, predict, predict_label
from curation.measure.fasttext_model import read_model
from curation.measure.fasttext_scores import SMALL_TREE
from curation.measure.row_sums import add_rows, padded
from curation.measure.utf8 import text_buffers

KINDS = {
    "softmax": {"loss": "softmax", "wordNgrams": 2, "dim": 16},
    "long n-grams, odd width": {"loss": "softmax", "wordNgrams": 4, "dim": 5, "bucket": 5000},
    "subwords": {"loss": "softmax", "minn": 2, "maxn": 4, "dim": 10, "wordNgrams": 2},
    "tree": {"loss": "hs", "minn": 1, "maxn": 3, "dim": 9, "wordNgrams": 3},
    "tree of words": {"loss": "hs", "dim": 8},
    "large tree": {"loss": "hs", "dim": 6, "wordNgrams": 2},
}
LABELS = {"tree": 300, "large tree": 2000}
HARD = [
    "",
    "</s>",
    "the </s> word",
    "__label__a word",
    "__label__unknown",
    "\x00a\x00b",
    "a",
    "< >",
    "naïve 日本語 🎉",
]
HARD += ["label__ __label_", "x" * 300, " \t ", "a " * 500]


@functools.cache
def sentences() -> list[str]:
    """Real lines, the manual inside Python's help."""
    return [line.strip() for _, text in sorted(topics.items()) for line in text.split("\n") if len(line) > 40][
        :3000
    ]


@functools.cache
def model(kind: str, quantised: bool):
    """A small model trained on real lines: the library's and ours, read from the same file."""
    rng = random.Random(kind)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "train.txt"
        lines.write_text(
            "".join(f"__label__{rng.randrange(LABELS.get(kind, 7))} {line}\n" for line in sentences())
        )
        found = fasttext.train_supervised(
            str(lines), epoch=2, lr=1.0, thread=1, verbose=0, **{"bucket": 2000, **KINDS[kind]}
        )
        path = Path(folder) / ("model.ftz" if quantised else "model.bin")
        if quantised:
            found.quantize(input=str(lines), qnorm=True, cutoff=1500, dsub=2, qout=kind == "tree")
        found.save_model(str(path))
        return fasttext.load_model(str(path)), read_model(path)


def assert_equal(library, own, texts: list[str]) -> None:
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    places, scores, asked = predict_label(own, data, offsets[:-1], offsets[1:], 1)
    for row, text in enumerate(texts):
        found = library.f.predict(text.replace("\n", " ") + "\n", -1, 0.0, "strict")
        if not found:
            assert places[row] == -1, text
            continue
        assert abs(scores[row] - found[0][0]) < 1e-4, text
        wanted = {label: score for score, label in found}
        assert abs(asked[row] - wanted[f"__label__{own.labels[1]}"]) < 1e-4, text
        if len(found) < 2 or found[0][0] - found[1][0] > 1e-4:
            assert f"__label__{own.labels[places[row]]}" == found[0][1], text


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_equal_to_the_library_on_real_text(kind, quantised):
    library, own = model(kind, quantised)
    unseen = [" ".join(reversed(line.split())) + " unseen" for line in sentences()[:100]]
    assert_equal(library, own, [*HARD, *sentences()[:200], *unseen, " ".join(sentences()[:300])])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.booleans(),
    st.lists(st.one_of(st.text(), st.lists(st.sampled_from(HARD), max_size=4).map(" ".join)), max_size=6),
)
def test_the_kernel_is_equal_to_the_library_on_any_text(kind, quantised, texts):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    assert_equal(*model(kind, quantised), texts)


@pytest.mark.parametrize(
    "bug",
    [{"word_ngrams": 1}, {"lengths": (2, 3)}, {"bucket_count": 1999}],
    ids=["word n-grams", "subwords", "buckets"],
)
def test_the_comparison_can_fail(bug):
    """Planted: n-grams of words left out, shorter subwords, another number of buckets."""
    library, own = model("subwords", False)
    unseen = [line.replace("e", "ezq") for line in sentences()[:50]]
    with pytest.raises(AssertionError):
        assert_equal(library, dataclasses.replace(own, **bug), unseen)


def test_losses_with_a_table_go_through_the_library(tmp_path):
    lines = tmp_path / "train.txt"
    lines.write_text("".join(f"__label__{'ab'[n % 2]} {line}\n" for n, line in enumerate(sentences()[:200])))
    for loss in ("ova", "ns"):
        found = fasttext.train_supervised(str(lines), loss=loss, dim=4, epoch=1, thread=1, verbose=0)
        found.save_model(str(tmp_path / f"{loss}.bin"))
        assert read_model(tmp_path / f"{loss}.bin") is None


def test_margins_of_a_small_tree_are_taken_at_once_and_of_a_large_one_as_asked():
    small, large = model("tree", False)[1], model("large tree", False)[1]
    assert small.output.shape == (9, 299)
    assert len(large.labels) > SMALL_TREE + 1
    assert large.output.shape[1] == 6


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 13, 16, 17, 50])
def test_sums_of_rows_are_those_of_numpy(width):
    generator = np.random.default_rng(width)
    rows = generator.standard_normal((40, width)).astype(np.float32)
    wide = padded(rows)
    assert wide.ctypes.data % 64 == 0
    for known in (0, 1, 7, 8, 9, 33):
        found = generator.integers(0, 40, known)
        sums = np.full(wide.shape[1], 0.5, np.float32)
        add_rows(sums, wide, found, known)
        assert np.allclose(sums[:width], 0.5 + rows[found].sum(axis=0), atol=1e-5)
        assert (sums[width:] == 0.5).all()


def test_slices_of_a_buffer_and_batches_change_nothing():
    _, own = model("softmax", False)
    texts = pa.array(sentences()[:40], pa.large_string())
    data, offsets = text_buffers(texts)
    whole = predict(own, data, offsets[:-1], offsets[1:])
    later = predict(own, *(lambda d, o: (d, o[:-1], o[1:]))(*text_buffers(texts.slice(7, 5))))
    assert np.array_equal(whole[0][7:12], later[0])
    assert np.array_equal(whole[1][7:12], later[1])


@pytest.mark.parametrize("kind", KINDS)
def test_texts_longer_than_a_piece_are_equal_to_the_library(kind):
    """Words and n-grams across the seams, a seam at every place of a word, and words longer than a piece."""
    library, own = model(kind, False)
    text = " ".join(sentences()[:150])
    assert len(text) > 2 * PIECE
    texts = [text[shift:] for shift in range(9)] + ["x" * (2 * PIECE + 3) + " the value", "a " * PIECE]
    texts += [text[:PIECE] + " </s> " + text[PIECE:], "é" * PIECE + " the value", text[: PIECE - 1] + " "]
    assert_equal(library, own, texts)


def test_what_a_thread_has_kept_changes_no_result(monkeypatch):
    """One slot for all words, a cold cache, a full one and four threads at once: the same bits."""
    _, own = model("subwords", True)
    data, offsets = text_buffers(pa.array(sentences()[:400], pa.large_string()))
    whole = predict(own, data, offsets[:-1], offsets[1:])

    def bits(part: slice) -> list[bytes]:
        return [one.tobytes() for one in predict(own, data, offsets[:-1][part], offsets[1:][part])]

    expected = [one.tobytes() for one in whole]
    assert bits(slice(None)) == expected
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(bits, [slice(None)] * 8)) == [expected] * 8
        halves = list(threads.map(bits, [slice(0, 77), slice(77, None)]))
    assert [a + b for a, b in zip(*halves, strict=True)] == expected
    monkeypatch.setattr(fasttext_subwords, "CACHE_SLOTS", 1)
    one_slot = dataclasses.replace(own, kept=threading.local())
    assert [one.tobytes() for one in predict(one_slot, data, offsets[:-1], offsets[1:])] == expected


def test_a_kept_word_is_told_apart_by_its_bytes():
    """Planted: the sum of another word in the slot is used if only its spelling is written over."""
    _, own = model("subwords", False)
    data, offsets = text_buffers(pa.array(["zqxj"], pa.large_string()))
    first = predict_label(own, data, offsets[:-1], offsets[1:], 1)
    heads, sums, _ = own.kept.cache
    slot = int(np.flatnonzero((heads[:, 3] == int.from_bytes(b"zqxj", "little")) & (heads[:, 1] == 4))[0])
    sums[slot, 1] += 1
    assert predict_label(own, data, offsets[:-1], offsets[1:], 1)[2] != first[2]
    heads[slot, 0] += 1
    assert predict_label(own, data, offsets[:-1], offsets[1:], 1)[2] == first[2]
