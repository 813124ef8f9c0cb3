import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from curation import materialise as module
from curation.chat import plain_texts
from curation.encoder import FOLDER, Encoder
from curation.files import read_json
from curation.materialise import TokenCountError, materialise
from curation.mix.manifest import load_manifest

CHATS = [
    [("user", "2 + 2?"), ("assistant", "4"), ("user", "é?"), ("assistant", "yes, é")],
    [("system", "Be brief."), ("human", "hi"), ("gpt", "hello 🎉")],
]
PAIRS = [
    ([("user", f"question {n}")], [("assistant", "good answer é")], [("assistant", "bad" * n)])
    for n in range(1, 5)
]


@pytest.fixture
def peer(tokenizer):
    return AutoTokenizer.from_pretrained(tokenizer.folder / FOLDER, local_files_only=True)


def data_of(stations, tokenizer, name: str, **transforms):
    manifest = stations.mix(name, tokenizer, **transforms)
    return materialise(stations.ctx, name, manifest, stations.pools, tokenizer), load_manifest(manifest.folder)


def read(output):
    head = read_json(output.folder / "data.json")
    tokens = np.fromfile(output.folder / "tokens.bin", np.dtype(head["dtype"]).newbyteorder("<"))
    mask = np.fromfile(output.folder / "mask.bin", np.uint8)
    return tokens, mask, pq.read_table(output.folder / "index.parquet").to_pylist(), head


def texts_by_id(pool) -> dict[str, str]:
    tables = [pq.read_table(path) for path in pool.shards()]
    pairs = [zip(table["id"].to_pylist(), plain_texts(table).to_pylist(), strict=True) for table in tables]
    return dict(itertools.chain.from_iterable(pairs))


def test_text_comes_back_in_the_manifests_order(stations, tokenizer, peer, prose):
    stations.pool("prose", prose, shards=3)
    output, manifest = data_of(stations, tokenizer, "text", prose=None)
    tokens, mask, index, head = read(output)
    texts = texts_by_id(stations.pools["prose"])
    assert [row["id"] for row in index] == manifest.rows()["id"].to_pylist()
    for row in index:
        span = tokens[row["start"] : row["start"] + row["length"]]
        assert peer.decode(span, clean_up_tokenization_spaces=False) == texts[row["id"]] + "<|endoftext|>"
        assert row["bytes"] == len(texts[row["id"]].encode())
    assert mask.all()
    total = pc.sum(manifest.rows()["tokens"]).as_py()
    assert len(tokens) == len(mask) == total == head["tokens"] == head["in_loss"] == output.counts["tokens"]
    assert head["manifest_hash"] == manifest.hash
    assert (head["dtype"], head["vocab_size"], head["tokenizer_hash"]) == ("uint16", 700, tokenizer.content)
    assert sorted(path.name for path in output.folder.iterdir()) == [
        "data.json", "index.parquet", "mask.bin", "step.json", "tokens.bin",
    ]  # fmt: skip


def test_chat_is_in_the_loss_where_the_assistant_speaks(stations, tokenizer, peer):
    stations.pool("chat", CHATS)
    tokens, mask, index, head = read(data_of(stations, tokenizer, "chat", chat="chat")[0])
    said = {"4<|end|>yes, é<|end|>": len("4yes, é".encode()), "hello 🎉<|end|>": len("hello 🎉".encode())}
    found = {}
    for row in index:
        span = slice(row["start"], row["start"] + row["length"])
        found[peer.decode(tokens[span][mask[span] == 1], clean_up_tokenization_spaces=False)] = row["bytes"]
    assert found == said
    assert head["in_loss"] == mask.sum() < head["tokens"] == len(tokens)


def test_chat_as_plain_text(stations, tokenizer, peer):
    stations.pool("chat", CHATS)
    tokens, mask, index, _ = read(data_of(stations, tokenizer, "plain", chat="chat_plain")[0])
    texts = texts_by_id(stations.pools["chat"])
    for row in index:
        span = tokens[row["start"] : row["start"] + row["length"]]
        assert peer.decode(span, clean_up_tokenization_spaces=False) == texts[row["id"]] + "<|endoftext|>"
        assert row["bytes"] == len(texts[row["id"]].encode())
    assert mask.all()


def test_pairs_hold_the_prompt_twice(stations, tokenizer, peer):
    stations.pool("pairs", PAIRS)
    output, manifest = data_of(stations, tokenizer, "pairs", pairs=None)
    tokens, mask, index, _ = read(output)
    for row, whole in zip(index, manifest.rows()["tokens"].to_pylist(), strict=True):
        assert row["length"] + row["rejected_length"] == whole
        chosen = slice(row["start"], row["start"] + row["length"])
        rejected = slice(row["rejected_start"], row["rejected_start"] + row["rejected_length"])
        assert rejected.start == chosen.stop
        prompt = row["prompt_length"]
        np.testing.assert_array_equal(tokens[chosen][:prompt], tokens[rejected][:prompt])
        assert peer.decode(tokens[chosen]).startswith("<|user|>question ")
        assert not mask[chosen][: prompt + 1].any()  # the prompt, and the token that opens the answer
        assert mask[chosen][prompt + 1 :].all()
        assert mask[rejected][prompt + 1 :].all()
        answers = [peer.decode(tokens[span][prompt + 1 :]) for span in (chosen, rejected)]
        assert answers[0] == "good answer é<|end|>"
        assert answers[1].removesuffix("<|end|>").strip("bad") == ""
        assert row["bytes"] == sum(len(answer.removesuffix("<|end|>").encode()) for answer in answers)


def test_sources_and_transforms_side_by_side_sum_up(stations, tokenizer, prose):
    stations.pool("prose", prose, shards=2)
    stations.pool("chat", CHATS)
    output, manifest = data_of(stations, tokenizer, "both", prose=None, chat="chat_plain")
    _, _, index, head = read(output)
    assert head["tokens"] == sum(row["length"] for row in index) == manifest.head["totals"]["tokens"]
    ends = [row["start"] + row["length"] for row in index]
    assert [row["start"] for row in index] == [0, *ends[:-1]]


def test_workers_change_nothing(make_stations, tokenizer, prose):
    contents = []
    for name, workers in (("a", 1), ("b", 2)):
        stations = make_stations(name, workers)
        stations.pool("prose", prose, shards=4)
        contents.append(data_of(stations, tokenizer, "text", prose=None)[0].content)
    assert contents[0] == contents[1]


@pytest.mark.parametrize("loss", ["nothing", "tokens.bin", "half of tokens.bin", "facts"])
def test_a_killed_run_goes_on_to_the_same_bytes(make_stations, tokenizer, prose, monkeypatch, loss):
    whole = make_stations("whole")
    whole.pool("prose", prose, shards=4)
    expected = data_of(whole, tokenizer, "text", prose=None)[0].content
    stations = make_stations("killed")
    stations.pool("prose", prose, shards=4)
    manifest = stations.mix("text", tokenizer, prose=None)
    write_shard, written = module.write_shard, []

    def dies_in_the_third(folder, key, *arguments):
        if len(written) == 2:
            tokens = np.memmap(folder / "tokens.bin", "<u2", "r+")
            tokens[arguments[-1]["start"][0].as_py()] = 999  # half-written
            raise KeyboardInterrupt
        written.append(key)
        return write_shard(folder, key, *arguments)

    monkeypatch.setattr(module, "write_shard", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        materialise(stations.ctx, "text", manifest, stations.pools, tokenizer)
    (folder,) = (path for path in (stations.ctx.workspace / "steps/data/text").iterdir() if path.is_dir())
    if loss == "tokens.bin":
        (folder / "tokens.bin").unlink()
    elif loss == "half of tokens.bin":
        with open(folder / "tokens.bin", "r+b") as file:
            file.truncate(100)
    elif loss == "facts":
        monkeypatch.setattr(module, "_index", lambda *arguments: exit("killed before the index was written"))
        monkeypatch.setattr(module, "write_shard", write_shard)
        with pytest.raises(SystemExit):
            materialise(stations.ctx, "text", manifest, stations.pools, tokenizer)
        monkeypatch.undo()
    again = []

    def counted(folder, key, *arguments):
        again.append(key)
        return write_shard(folder, key, *arguments)

    monkeypatch.setattr(module, "write_shard", counted)
    output = materialise(stations.ctx, "text", manifest, stations.pools, tokenizer)
    assert output.content == expected
    assert len(again) == {"nothing": 2, "tokens.bin": 4, "half of tokens.bin": 4, "facts": 0}[loss]


def test_a_row_whose_count_is_wrong_is_named_with_both_numbers(stations, tokenizer, prose):
    stations.pool("prose", prose)

    def one_more(rows):
        tokens = rows["tokens"].to_pylist()
        return rows.set_column(5, "tokens", pa.array([tokens[0] + 1, *tokens[1:]], pa.uint32()))

    manifest = stations.mix("text", tokenizer, change=one_more, prose=None)
    row = pq.read_table(stations.catalog("prose", tokenizer).folder / "catalog.parquet").to_pylist()[0]
    message = (
        f"document {row['id']} .* row 0.*: {row['tokens']} tokens as 'none', the manifest says {row['tokens'] + 1}"
    )
    with pytest.raises(TokenCountError, match=message):
        materialise(stations.ctx, "text", manifest, stations.pools, tokenizer)


def test_a_row_that_is_another_document_is_an_error(stations, tokenizer):
    stations.pool("prose", ["one two", "two one"])
    manifest = stations.mix("text", tokenizer, change=lambda rows: rows.set_column(
        4, "row", pa.array([1, 0], pa.uint32())), prose=None)  # fmt: skip
    with pytest.raises(TokenCountError, match=r"row 0 is document [0-9a-f]{32}, the manifest says [0-9a-f]{32}"):
        materialise(stations.ctx, "text", manifest, stations.pools, tokenizer)


def test_a_library_that_counts_otherwise_is_seen(stations, tokenizer, prose, monkeypatch):
    stations.pool("prose", prose)
    manifest = stations.mix("text", tokenizer, prose=None)
    contents = Encoder.contents
    monkeypatch.setattr(Encoder, "contents", lambda self, texts: contents(self, [text + " " for text in texts]))
    with pytest.raises(TokenCountError, match="count again"):
        materialise(stations.ctx, "text", manifest, stations.pools, tokenizer)


def test_other_pools_and_tokenizers_are_errors(stations, tokenizer, prose):
    stations.pool("prose", prose)
    manifest = stations.mix("text", tokenizer, prose=None)
    with pytest.raises(ValueError, match=r"counted with tokenizer .*; build the mix again"):
        materialise(stations.ctx, "text", manifest, stations.pools, stations.tokenizer(vocab_size=300))
    with pytest.raises(ValueError, match="holds documents of 'prose'; no such pool among"):
        materialise(stations.ctx, "text", manifest, {}, tokenizer)
    stations.pool("prose", ["other"])
    with pytest.raises(ValueError, match=r"made from pool 'prose' .*; build the mix again"):
        materialise(stations.ctx, "text", manifest, stations.pools, tokenizer)


def test_pairs_stand_alone(stations, tokenizer):
    stations.pool("chat", CHATS)
    stations.pool("pairs", PAIRS)
    manifest = stations.mix("mixed", tokenizer, chat=None, pairs=None)
    with pytest.raises(ValueError, match=r"pairs and \['chat'\] in one manifest; expected pairs alone"):
        materialise(stations.ctx, "mixed", manifest, stations.pools, tokenizer)


def test_an_empty_manifest(stations, tokenizer):
    stations.pool("prose", ["x"])
    manifest = stations.mix("none", tokenizer, change=lambda rows: rows.slice(0, 0), prose=None)
    output = materialise(stations.ctx, "none", manifest, stations.pools, tokenizer)
    assert read(output)[3]["tokens"] == 0
    assert output.counts["tokens"] == 0


def test_a_large_vocabulary_takes_four_bytes(stations, tokenizer, prose, monkeypatch):
    stations.pool("prose", prose[:2])
    small = read(data_of(stations, tokenizer, "small", prose=None)[0])[0]
    monkeypatch.setattr(Encoder, "vocab_size", (1 << 16) + 1, raising=False)
    monkeypatch.setattr(module, "load_encoder", lambda tokenizer: _Large(tokenizer))
    large, _, _, head = read(data_of(stations, tokenizer, "large", prose=None)[0])
    assert head["dtype"] == "uint32"
    np.testing.assert_array_equal(small, large)


class _Large(Encoder):
    def __init__(self, tokenizer):
        folder = getattr(tokenizer, "folder", tokenizer)
        super().__init__(folder / FOLDER, "fastokens")
        self.vocab_size = (1 << 16) + 1


def test_a_document_that_is_cut_gives_its_first_tokens(stations, tokenizer, peer, prose):
    """Whole and cut copies of one document side by side; of the cut one only whole characters count as bytes."""
    stations.pool("prose", prose)

    def and_halves(rows: pa.Table) -> pa.Table:
        long = [row for row in rows.to_pylist() if row["tokens"] > 3]
        halves = [row | {"transform": "head", "tokens": row["tokens"] // 2} for row in long]
        return pa.concat_tables([rows, pa.Table.from_pylist(halves, schema=rows.schema)])

    manifest = stations.mix("cut", tokenizer, and_halves, prose=None)
    output = materialise(stations.ctx, "cut", manifest, stations.pools, tokenizer)
    tokens, mask, index, _ = read(output)
    rows = load_manifest(manifest.folder).rows().to_pylist()
    spans = {
        (row["id"], row["transform"]): tokens[line["start"] : line["start"] + line["length"]]
        for row, line in zip(rows, index, strict=True)
    }
    texts = texts_by_id(stations.pools["prose"])
    cut = [key for key in spans if key[1] == "head"]
    assert len(cut) > 5
    for document, transform in cut:
        head, whole = spans[document, transform], spans[document, "none"]
        assert head.tolist() == whole[: len(head)].tolist()
        assert len(head) == len(whole) // 2
    for row, line in zip(rows, index, strict=True):
        if row["transform"] == "head":
            text = texts[row["id"]].encode()[: line["bytes"]].decode()  # whole characters
            shown = peer.decode(spans[row["id"], "head"], clean_up_tokenization_spaces=False)
            assert shown.rstrip("\N{REPLACEMENT CHARACTER}") == text
    assert mask.all()


def test_a_cut_longer_than_its_document_is_an_error(stations, tokenizer, prose):
    stations.pool("prose", prose)
    longer = lambda rows: rows.set_column(  # noqa: E731
        rows.schema.get_field_index("tokens"), "tokens", pc.add(rows["tokens"], pa.scalar(1, pa.uint32()))
    ).set_column(rows.schema.get_field_index("transform"), "transform", pa.repeat(pa.scalar("head"), len(rows)))
    manifest = stations.mix("long", tokenizer, longer, prose=None)
    with pytest.raises(TokenCountError, match="as 'head', the manifest says"):
        materialise(stations.ctx, "long", manifest, stations.pools, tokenizer)
