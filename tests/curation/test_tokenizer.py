"""Training a tokenizer: its settings, pools by weight and mixes; its report; the proof of the encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers

from curation.chat import SPECIAL_TOKENS, plain_texts
from curation.encoder import CHOICE, FOLDER, Encoder
from curation.files import file_hash, read_json
from curation.mix.manifest import ManifestError
from curation.shards import batches
from curation.tokenizer.config import SPLITS
from curation.tokenizer.report import REPORT
from curation.tokenizer.sample import alive_bytes
from curation.tokens import Tokenizer, train_tokenizer

CODE = "def f(x):\n    return x + 1234567\n"


def trained(stations, ledgers=(), **keys):
    config = Tokenizer(**{"vocab_size": 400, "report_bytes": "20KiB"} | keys)
    return train_tokenizer(stations.ctx, stations.pools, stations.measured, list(ledgers), config)


def loaded(output) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(output.folder / FOLDER / "tokenizer.json"))


def pieces(output, text: str) -> list[str]:
    return [text[start:end] for _, (start, end) in loaded(output).pre_tokenizer.pre_tokenize_str(text)]


# --- training


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("cl100k", ["Year", " ", "202", "512", "'LL", " go"]),
        ("digits", ["Year", " ", *"202512", "'LL", " go"]),
        ("gpt2", ["Year", " 202512", "'", "LL", " go"]),
        (r"\s*\S+", ["Year", " 202512'LL", " go"]),
    ],
)
def test_splits(stations, prose, split, expected):
    stations.pool("prose", prose)
    assert pieces(trained(stations, split=split), "Year 202512'LL go") == expected


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=80))
def test_a_split_loses_no_character(text):
    for pattern in SPLITS.values():
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        assert "".join(piece for piece, _ in split.pre_tokenize_str(text)) == text


def test_rare_pairs_are_not_merged_and_further_special_tokens_are_text_in_text(stations):
    stations.pool("few", ["abab " * 20 + "zq"])
    common = trained(stations, vocab_size=600, min_frequency=10, special_tokens=("<|box|>",))
    vocabulary = loaded(common).get_vocab()
    assert "ab" in vocabulary
    assert "zq" not in vocabulary
    assert "zq" in loaded(trained(stations, vocab_size=600)).get_vocab()
    assert vocabulary["<|box|>"] == len(SPECIAL_TOKENS)
    ids = Encoder(common.folder / FOLDER, "fastokens").contents(["a<|box|>b"])[0]
    assert len(SPECIAL_TOKENS) not in ids
    assert read_json(common.folder / CHOICE)["library"] == "fastokens"


def test_weights_share_the_sample_out(stations, prose):
    stations.pool("prose", [f"{n} {text}" for n, text in enumerate(prose * 4)])
    stations.pool("code", [f"{CODE} # {n}" for n in range(300)])
    longest = max(len(text.encode()) for text in prose) + 10
    output = trained(stations, sample_bytes=8000, weights={"code": 3, "prose": 1})
    counted = read_json(output.folder / REPORT)["trained_on"]["bytes"]
    assert 6000 <= counted["code"] < 6000 + 100
    assert 2000 <= counted["prose"] < 2000 + longest
    only = read_json(trained(stations, sample_bytes=8000, weights={"code": 1}).folder / REPORT)["trained_on"]
    assert only["bytes"].keys() == {"code"}
    held = alive_bytes(stations.pools["code"], stations.measured["code"], [])
    short = trained(stations, sample_bytes=4 * held, weights={"code": 9, "prose": 1})  # code has not as much
    counted = read_json(short.folder / REPORT)["trained_on"]["bytes"]
    assert counted["code"] == held
    assert counted["prose"] >= 3 * held


def test_a_mix_is_trained_on_as_often_as_it_has_each_document(make_stations, prose):
    """Equal to training on pools in which the copies are written out; and not to training on the pools."""
    stations, written = make_stations("mixed"), make_stations("written")
    stations.pool("prose", prose, shards=3)
    stations.pool("code", [CODE, CODE + "#"])
    tokenizer = trained(stations)
    copies = lambda rows: rows.set_column(  # noqa: E731
        rows.schema.get_field_index("copies"),
        rows.schema.field("copies"),
        pa.array([1 + 4 * (source == "code") for source in rows["source"].to_pylist()], pa.uint16()),
    )
    mixed = trained(stations, mix=str(stations.mix("m", tokenizer, copies, prose=None, code=None).folder))
    written.pool("prose", prose)
    written.pool("code", [CODE, CODE + "#"] * 5)
    assert file_hash(mixed.folder / FOLDER / "tokenizer.json") == file_hash(
        trained(written).folder / FOLDER / "tokenizer.json"
    )
    assert mixed.content != tokenizer.content
    account = read_json(mixed.folder / REPORT)["trained_on"]
    assert account["bytes"]["code"] == 5 * (2 * len(CODE) + 1)
    assert account["documents"] == {"prose": len(prose), "code": 2}


def test_a_mix_sample_stops_at_its_size(stations, prose):
    stations.pool("prose", [f"{n} {CODE}" for n in range(200)], shards=2)
    mix = stations.mix("m", trained(stations), prose=None)
    report = read_json(trained(stations, mix=str(mix.folder), sample_bytes=1000).folder / REPORT)
    assert 1000 <= report["trained_on"]["bytes"]["prose"] < 1000 + len(CODE) + 4


def test_a_mix_of_other_pools_or_with_a_changed_row_is_refused(make_stations, prose):
    stations, other = make_stations("a"), make_stations("b")
    stations.pool("prose", prose)
    other.pool("prose", prose[1:])
    mix = stations.mix("m", trained(stations), prose=None)
    with pytest.raises(ValueError, match="made of pool 'prose', but here is another version of it"):
        trained(other, mix=str(mix.folder))
    with pytest.raises(ManifestError, match="no manifest here"):
        trained(stations, mix=str(stations.ctx.workspace))
    (mix.folder / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(ManifestError, match="does not verify"):
        trained(stations, mix=str(mix.folder))


def test_workers_and_shards_change_neither_tokenizer_nor_report(make_stations, prose):
    found = set()
    for name, shards, workers in (("one", 1, 1), ("two", 3, 2)):
        stations = make_stations(name, workers)
        stations.pool("prose", prose, shards)
        stations.pool("code", [f"{CODE} # {n}" for n in range(50)], shards)
        output = trained(stations, sample_bytes=5000, weights={"code": 1, "prose": 1})
        mix = stations.mix("m", output, prose=None, code=None)
        mixed = trained(stations, mix=str(mix.folder), sample_bytes=5000)
        found.add((output.content, mixed.content, *(file_hash(one.folder / REPORT) for one in (output, mixed))))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split": "cl100"}, "no split 'cl100': give one of cl100k, digits, gpt2 or a regular expression"),
        ({"split": "(a"}, "is no regular expression"),
        ({"special_tokens": ["<|pad|>"]}, "special tokens are given twice, empty or there already"),
        ({"vocab_size": 200}, "vocab_size 200 is below"),
        ({"weights": {"a": 0}}, "weights of a: expected numbers above 0"),
        ({"weights": {"a": 1}, "mix": "m"}, "a mix has its own proportions: remove weights"),
        ({"path": "p", "split": "gpt2"}, "taken as it is: remove split"),
    ],
)
def test_wrong_settings_say_what(keys, message):
    with pytest.raises(ValidationError, match=message):
        Tokenizer(**keys)


def test_a_weight_of_no_source_is_an_error(stations, prose):
    stations.pool("prose", prose)
    with pytest.raises(ValueError, match="no source prosa; there are prose"):
        trained(stations, weights={"prosa": 1})


# --- the report


def test_the_report_counts_bytes_per_token_beside_a_reference(stations, prose):
    stations.pool("prose", prose, shards=2)
    stations.pool("code", [CODE * 20])
    small = trained(stations, vocab_size=300)
    large = trained(stations, vocab_size=900, reference=str(small.folder / FOLDER), report_bytes="1MiB")
    report, peers = read_json(large.folder / REPORT), {"": loaded(large), "reference_": loaded(small)}
    for line in report["sources"]:
        texts = [
            text
            for path in stations.pools[line["source"]].shards()
            for _, table in batches(path, ["text", "messages", "chosen", "rejected"])
            for text in plain_texts(table).to_pylist()
        ]
        size = sum(len(text.encode()) for text in texts)
        assert (line["bytes"], line["pool_bytes"], line["documents"]) == (size, size, len(texts))
        assert line["documents_trained_on"] == len(texts)
        for prefix, peer in peers.items():
            peer.encode_special_tokens = True
            tokens = sum(len(peer.encode(text).ids) for text in texts)
            assert line[f"{prefix}tokens"] == tokens
            assert line[f"{prefix}bytes_per_token"] == round(size / tokens, 6)
        assert line["bytes_per_token"] > line["reference_bytes_per_token"]
    total, tokens = (sum(line[name] for line in report["sources"]) for name in ("bytes", "tokens"))
    assert report["whole"]["bytes_per_token"] == pytest.approx(total / tokens, abs=1e-5)
    assert report["reference"] == {"vocab_size": 300}


def test_a_source_of_nothing_alive_has_no_rate(stations, prose):
    stations.pool("prose", prose)
    stations.pool("gone", ["x"])
    report = read_json(trained(stations, [stations.drop("gone", lambda text: True)]).folder / REPORT)
    assert report["sources"][0]["bytes_per_token"] is None
    assert report["whole"]["bytes_per_token"] == report["sources"][1]["bytes_per_token"]
    assert report["reference"] is None


# --- the proof, on tokenizers of other makes


def byte_level(split: str | None, prose: list[str]) -> tokenizers.Tokenizer:
    """A BPE as GPT-2 (the library's own split) or Llama 3 ships it."""
    made = tokenizers.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    parts = [] if split is None else [pre_tokenizers.Split(tokenizers.Regex(split), "isolated")]
    made.pre_tokenizer = pre_tokenizers.Sequence([*parts, level]) if parts else level
    made.train_from_iterator(prose, trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|eot|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ))  # fmt: skip
    return made


def word_piece(prose: list[str]) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "<|eot|>"], show_progress=False)
    made.train_from_iterator(prose, trainer)
    return made


MAKES = {
    "gpt2": lambda prose: byte_level(None, prose),
    "llama3": lambda prose: byte_level(SPLITS["cl100k"], prose),
    "digits": lambda prose: byte_level(SPLITS["digits"], prose),
    "wordpiece": word_piece,
}


def given_folder(tmp_path, made: tokenizers.Tokenizer):
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|eot|>"}))
    return str(tmp_path)


PARTS = st.one_of(
    st.text(max_size=20),
    st.text("0123456789٠١²Ⅷ", max_size=12),
    st.text(" \n\r\t\u00a0\u2028\u3000", max_size=12),
    st.sampled_from(["'s", "'LL", "'ſ", "’s", "<|eot|>", "<|eot|", "<|user|>", "  ", "<image>", "e\u0301", "İ"]),
    st.builds(str.__mul__, st.sampled_from(["a", " ", "1", "ab", "\n", "日", "🎉"]), st.integers(250, 600)),
)  # fmt: skip


@pytest.mark.parametrize("make", MAKES)
def test_what_the_proof_admits_gives_the_ids_of_tokenizers(stations, prose, tmp_path, make):
    stations.pool("prose", prose)
    made = MAKES[make](prose)
    made.add_tokens(
        [AddedToken("  ", normalized=False), AddedToken("<image>", normalized=False)]
    )  # no special ones
    output = _take(stations, given_folder(tmp_path, made))
    choice = read_json(output.folder / CHOICE)
    assert choice["library"] == ("tokenizers" if make == "wordpiece" else "fastokens"), choice
    if make == "wordpiece":
        return
    fast, slow = (Encoder(output.folder / FOLDER, library) for library in ("fastokens", "tokenizers"))

    @settings(deadline=None, max_examples=150)
    @given(texts=st.lists(st.lists(PARTS, max_size=8).map("".join), max_size=4))
    def check(texts):
        for found, expected in zip(fast.contents(texts), slow.contents(texts), strict=True):
            np.testing.assert_array_equal(found, expected)

    check()


def _take(stations, path: str):
    return train_tokenizer(stations.ctx, stations.pools, stations.measured, [], Tokenizer(path=path))


@pytest.mark.parametrize(
    ("text", "where"),
    [*((hard, "hard texts") for hard in ("\u1e9e", "<|eot|>", " \n" * 10, "1" * 400)), ("qzx qzx", "code")],
)
def test_a_library_that_is_wrong_for_one_text_is_not_taken(stations, prose, tmp_path, monkeypatch, text, where):
    """Planted: other ids where a text holds a rare letter, an added token, a long run, a word of one pool."""
    stations.pool("prose", prose)
    stations.pool("code", [CODE, "qzx qzx"], shards=2)
    folder, contents = given_folder(tmp_path, MAKES["gpt2"](prose)), Encoder.contents

    def wrong(self, texts):
        ids, starts = contents(self, texts)
        if self.library == "fastokens" and any(text in one for one in texts):
            ids = np.where(np.arange(len(ids)) == 0, ids + 1, ids)
        return ids, starts

    monkeypatch.setattr(Encoder, "contents", wrong)
    choice = read_json(_take(stations, folder).folder / CHOICE)
    assert choice["library"] == "tokenizers"
    assert choice["reason"] == f"fastokens gives other ids in a sample of {where}"


def test_threads_that_encode_are_bounded(tmp_path, prose):
    """Of one worker: no thread beside the caller and the one that tokenizers keeps for its pool."""
    folder = given_folder(tmp_path, MAKES["gpt2"]([*prose, *SPECIAL_TOKENS]))
    code = (
        "import os, sys; from pathlib import Path; import fastokens, tokenizers\n"
        "from curation.encoder import limit_threads\n"
        "limit_threads(int(sys.argv[2]))\n"
        "fast = fastokens.Tokenizer.from_file(sys.argv[1]); slow = tokenizers.Tokenizer.from_file(sys.argv[1])\n"
        "count = lambda: len(os.listdir('/proc/self/task')); texts = ['some words of text ' * 50] * 2000\n"
        "before = count(); fast.encode_batch_flat(texts); middle = count(); slow.encode_batch_fast(texts[:200])\n"
        "print(middle - before, count() - middle)\n"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("threads are counted in /proc")
    environment = {k: v for k, v in os.environ.items() if k not in ("RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS")}
    counts = {}
    for workers in ("1", "3"):
        call = [sys.executable, "-c", code, f"{folder}/tokenizer.json", workers]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        counts[workers] = [int(number) for number in done.stdout.split()]
    assert counts["1"] == [0, 1]
    assert counts["3"][1] == 3
