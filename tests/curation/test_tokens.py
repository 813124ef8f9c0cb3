import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from transformers import AutoTokenizer

from curation import encoder as encoder_module
from curation.chat import SPECIAL_TOKENS
from curation.encoder import CHOICE, FOLDER, Encoder, load_encoder
from curation.executor import StoppedError
from curation.files import file_hash, read_json
from curation.keys import key_of
from curation.shards import BATCH_ROWS, batches, pick
from curation.tokens import Tokenizer, count_tokens, train_tokenizer

CHAT = [
    [("system", "Be brief."), ("human", "2 + 2?"), ("gpt", "4")],
    [("user", "no answer follows")],
    [("user", "hi"), ("assistant", "hello"), ("tool", "{}"), ("assistant", "")],
]
PAIRS = [([("user", "2 + 2?")], [("assistant", "4")], [("assistant", "five")])]


def peer_of(output):
    return AutoTokenizer.from_pretrained(output.folder / FOLDER, local_files_only=True)


def test_the_folder_loads_in_transformers_with_ends_apart(tokenizer):
    peer = peer_of(tokenizer)
    assert (peer.eos_token, peer.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert peer.eos_token_id != peer.pad_token_id
    assert peer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert len(peer) == tokenizer.counts["vocab_size"] == 700
    choice = read_json(tokenizer.folder / CHOICE)
    assert (choice["library"], choice["counter"]) == ("fastokens", True)


def test_any_bytes_come_back(tokenizer):
    peer, encoder = peer_of(tokenizer), load_encoder(tokenizer)
    text = "".join(map(chr, range(300))) + "日本語 🎉 \u0301 \r\n\t  end"
    assert peer.decode(encoder.contents([text])[0], clean_up_tokenization_spaces=False) == text


def test_training_depends_on_the_documents_alone(make_stations, prose):
    """Not on workers, nor on how the documents are ordered or cut into shards."""
    variants = {"one": (prose, 1, 1), "two": (prose, 3, 2), "back": (prose[::-1], 2, 1)}
    folders = {}
    for name, (documents, shards, workers) in variants.items():
        stations = make_stations(name, workers)
        stations.pool("prose", documents, shards)
        folders[name] = stations.tokenizer().folder / FOLDER
    hashes = {file_hash(folder / "tokenizer.json") for folder in folders.values()}
    assert len(hashes) == 1
    # The check can fail: with a document more the merges are others.
    more = make_stations("more")
    more.pool("prose", [*prose, "quartz " * 500])
    assert file_hash(more.tokenizer().folder / FOLDER / "tokenizer.json") not in hashes


def test_training_does_not_depend_on_threads_or_hash_seed(prose, tmp_path):
    (tmp_path / "prose.json").write_text(json.dumps(prose))
    code = (
        "import json, sys, hashlib; from curation.tokenizer.bpe import train_bpe;"
        "from curation.tokens import Tokenizer;"
        "trained = train_bpe(iter([json.load(open(sys.argv[1]))]), Tokenizer(vocab_size=700));"
        "print(hashlib.sha256(trained.to_str().encode()).hexdigest())"
    )
    found = set()
    for threads, parallel, seed in (("1", "false", "1"), ("4", "true", "2")):
        variables = {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": parallel, "PYTHONHASHSEED": seed}
        call = [sys.executable, "-c", code, str(tmp_path / "prose.json")]
        done = subprocess.run(call, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_dropped_documents_train_nothing(make_stations, prose):
    with_noise, without = make_stations("with"), make_stations("without")
    with_noise.pool("prose", [*prose, "zxqj " * 999])
    ledger = with_noise.drop("prose", lambda text: text.startswith("zxqj"))
    without.pool("prose", prose)
    kept = with_noise.tokenizer(ledgers=(ledger,))
    assert kept.content == without.tokenizer().content
    assert kept.content != with_noise.tokenizer().content


def test_counts_are_those_of_transformers(stations, tokenizer, prose):
    peer = peer_of(tokenizer)
    output = count_tokens(stations.ctx, stations.pool("prose", prose, shards=2), tokenizer)
    expected = [
        len(peer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]) + 1 for text in prose
    ]
    table = pa.concat_tables(pq.read_table(path) for path in output.shards())
    assert table["tokens"].to_pylist() == table["tokens_plain"].to_pylist() == expected
    assert output.counts["tokens"] == output.counts["tokens_in_loss"] == sum(expected)
    assert output.counts["documents_in"] == output.counts["documents_out"] == len(prose)
    assert output.counts["without_loss"] == 0


def test_chat_counts_by_the_template_and_pairs_count_the_prompt_twice(stations, tokenizer):
    peer = peer_of(tokenizer)

    def by_peer(turns):
        messages = [{"role": role, "content": content} for role, content in turns]
        return len(peer.apply_chat_template(messages)["input_ids"])

    chat = count_tokens(stations.ctx, stations.pool("chat", CHAT), tokenizer)
    table = pq.read_table(chat.shards()[0])
    assert table["tokens"].to_pylist() == [by_peer(turns) for turns in CHAT]
    plain = ["\n\n".join(content for _, content in turns) for turns in CHAT]
    assert table["tokens_plain"].to_pylist() == [len(peer(text)["input_ids"]) + 1 for text in plain]
    assert chat.counts["without_loss"] == 1
    pairs = count_tokens(stations.ctx, stations.pool("pairs", PAIRS), tokenizer)
    prompt, chosen, rejected = PAIRS[0]
    expected = by_peer(prompt + chosen) + by_peer(prompt + rejected)
    assert pq.read_table(pairs.shards()[0])["tokens"].to_pylist() == [expected]


def test_workers_and_library_do_not_change_counts(make_stations, tokenizer, prose, monkeypatch):
    contents = set()
    for name, workers, by in (("a", 1, "fastokens"), ("b", 2, "kernel"), ("c", 1, "tokenizers")):
        stations = make_stations(name, workers)
        monkeypatch.setattr(encoder_module, "read_json", _counted_by(by))
        encoder_module._load.cache_clear()
        output = count_tokens(stations.ctx, stations.pool("prose", prose, shards=3), tokenizer)
        assert output.counts["counted_by"] == {by: 3}
        contents.add(output.content)
    encoder_module._load.cache_clear()
    assert len(contents) == 1


def _counted_by(name):
    choice = {"library": "tokenizers" if name == "kernel" else name, "counter": name == "kernel"}
    return lambda path: choice if path.name == CHOICE else read_json(path)


def test_fastokens_is_left_where_its_ids_differ(stations, prose, monkeypatch):
    stations.pool("prose", prose)
    contents = Encoder.contents

    def wrong_for_numbers(self, texts):
        ids, starts = contents(self, texts)
        if self.library == "fastokens":
            ids = np.where(ids == ids.max(initial=0), 0, ids)
        return ids, starts

    monkeypatch.setattr(Encoder, "contents", wrong_for_numbers)
    choice = read_json(stations.tokenizer().folder / CHOICE)
    assert choice["library"] == "tokenizers"
    assert "other ids" in choice["reason"]


@pytest.fixture
def given_folder(tmp_path, prose):
    """A tokenizer of another make: a Unigram model, which fastokens does not read, with its own end of text."""
    peer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    peer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    peer.train_from_iterator(prose, trainer)
    folder = tmp_path / "given"
    folder.mkdir()
    peer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "</s>"}, "pad_token": "</s>"})
    )
    return folder


def test_a_given_tokenizer_keeps_its_ids_and_gains_our_special_tokens(stations, prose, given_folder):
    pool = stations.pool("prose", prose)
    output = train_tokenizer(
        stations.ctx, stations.pools, stations.measured, [], Tokenizer(path=str(given_folder))
    )
    peer = peer_of(output)
    before = tokenizers.Tokenizer.from_file(str(given_folder / "tokenizer.json"))
    assert before.get_vocab().items() <= peer.get_vocab().items()
    assert (peer.eos_token, peer.pad_token) == ("</s>", "<|pad|>")
    assert "<|endoftext|>" not in peer.get_vocab()
    assert read_json(output.folder / CHOICE)["library"] == "tokenizers"
    counted = pq.read_table(count_tokens(stations.ctx, pool, output).shards()[0])
    expected = [len(before.encode(text, add_special_tokens=False).ids) + 1 for text in prose]
    assert counted["tokens"].to_pylist() == expected


def test_a_given_tokenizer_counts_by_its_bytes_not_its_path(stations, prose, given_folder, tmp_path):
    stations.pool("prose", prose)
    shutil.copytree(given_folder, tmp_path / "elsewhere")
    first, second = (
        train_tokenizer(stations.ctx, stations.pools, stations.measured, [], Tokenizer(path=str(path)))
        for path in (given_folder, tmp_path / "elsewhere")
    )
    assert second.reused
    assert second.folder == first.folder
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.path names a Hugging Face tokenizer folder"):
        train_tokenizer(stations.ctx, stations.pools, stations.measured, [], Tokenizer(path=str(tmp_path)))


def test_picks_are_nested_and_know_no_shards(make_stations):
    documents = [f"document {n} " + "x" * (n % 7) for n in range(60)]
    chosen = {}
    for shards in (1, 4):
        stations = make_stations(f"{shards}")
        stations.pool("a", documents, shards)
        for count in (5, 20):
            picks = pick(["a"], stations.pools, stations.measured, [], key_of(1, "x"), documents=count)
            ids = [
                i
                for one in picks
                for _, table in batches(one.path, ["id"], one.rows)
                for i in table["id"].to_pylist()
            ]
            chosen[shards, count] = set(ids)
            assert len(ids) == count
    assert chosen[1, 5] == chosen[4, 5] < chosen[1, 20] == chosen[4, 20]


def test_a_pick_by_weight_stops_with_the_document_that_reaches_it(stations):
    stations.pool("a", ["x" * 10] * 3 + ["y" * 1000])
    for weight, documents in ((1, 1), (10, 1), (11, 2), (10_000, 4)):
        picks = pick(["a"], stations.pools, stations.measured, [], 1, weight=weight, largest=10)
        assert sum(len(one.rows) for one in picks) == documents


def test_batches_give_the_rows_asked_for(stations):
    size = 2 * BATCH_ROWS + 10
    path = stations.pool("a", [str(n) for n in range(size)]).shards()[0]
    rows = np.array([0, 5, BATCH_ROWS - 1, BATCH_ROWS, size - 1])
    found = [(numbers.tolist(), table["text"].to_pylist()) for numbers, table in batches(path, ["text"], rows)]
    assert found == [([0, 5, 1023], ["0", "5", "1023"]), ([1024], ["1024"]), ([size - 1], [str(size - 1)])]
    assert sum(len(table) for _, table in batches(path, ["id"])) == size
    long = stations.pool("long", [str(n) * (1 << 20) for n in range(10, 40)]).shards()[0]
    assert [len(table) for _, table in batches(long, ["text"])] == [7, 7, 7, 7, 2]
    with pytest.raises(ValueError, match=f"asked for row {size}, but it has {size} rows"):
        list(batches(path, ["id"], np.array([size])))


def test_training_ends_when_the_run_is_stopped(stations, prose):
    """Closed before it begins, as by Ctrl-C while another station runs beside it."""
    stations.pool("prose", prose)
    stations.ctx.executor.closed = True
    with pytest.raises(StoppedError):
        stations.tokenizer()
