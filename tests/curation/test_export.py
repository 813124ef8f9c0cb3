"""Mixes in other trainers' files, read back by numpy, csv and json alone and held against our own loader."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from curation import export as module
from curation.encoder import FOLDER, load_encoder
from curation.export import ExportError, export_mix
from curation.export_text import rendered_text, texts
from curation.export_tokens import olmo_core
from curation.files import file_hash, read_json
from curation.materialise import materialise
from curation.preference.margin import Margin
from curation.transforms.render import render
from training.config import TrainConfig
from training.data import open_data
from training.plan import make_plan

CHATS = [
    [("user", "2 + 2?"), ("assistant", "4"), ("user", "é?"), ("assistant", "yes, é")],
    [("system", "Be brief.\u2028"), ("human", "hi <|endoftext|>"), ("gpt", "hello 🎉")],
    [("user", "one"), ("assistant", "two\r\n")],
]
PAIRS = [
    ([("user", f"question {n}")], [("assistant", "good answer é")], [("assistant", "bad" * n)])
    for n in range(1, 5)
]
SMALL = 900  # bytes of a part
WHOLE = dict.fromkeys(("sequence_length", "micro_batch_tokens", "batch_tokens"), 1 << 20)  # nothing is cut


def copied(rows: pa.Table) -> pa.Table:
    """1, 2, 3, 1, ... copies."""
    copies = pa.array(np.arange(len(rows)) % 3 + 1, pa.uint16())
    return rows.set_column(rows.schema.get_field_index("copies"), "copies", copies)


@pytest.fixture
def mixed(stations, tokenizer, prose):
    """A function (change, **transforms) -> (manifest, data) of pools of prose, chat and pairs."""
    stations.pool("prose", prose, shards=3)
    stations.pool("chat", CHATS, shards=2)
    stations.pool("pairs", PAIRS, metadata=[{"rating": n} for n in range(4)])

    def make(change=copied, **transforms):
        manifest = stations.mix("a", tokenizer, change, **transforms)
        pools = {name: stations.pools[name] for name in transforms}
        return manifest, materialise(stations.ctx, "a", manifest, pools, tokenizer)

    return make


def loaded(data, mask: bool = False) -> list[tuple[str, list[int]]]:
    """(id, tokens or mask) of each document in the order in which our loader feeds them."""
    opened = open_data(data)
    plan = make_plan(opened, TrainConfig(**WHOLE))
    values = opened.mask if mask else opened.tokens
    spans = zip(plan.row.tolist(), plan.start.tolist(), plan.length.tolist(), strict=True)
    return [(opened.ids[row].as_py(), values[start : start + length].tolist()) for row, start, length in spans]


def boundaries(path) -> list[list[str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.reader(file))


def contents(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_hash(path) for path in folder.rglob("*") if path.is_file()}


def test_raw_tokens_are_what_the_loader_feeds(tmp_path, stations, tokenizer, prose, mixed):
    manifest, data = mixed(prose=None)
    record = export_mix(olmo_core(manifest, data, tokenizer, SMALL), tmp_path / "out", stations.ctx.executor)
    peer = AutoTokenizer.from_pretrained(tmp_path / "out" / FOLDER, local_files_only=True)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.npy"))
    assert names == [f"part-{number:05d}.npy" for number in range(len(names))]
    assert len(names) == record["parts"] > 3
    found, places, whole = [], [], 0
    for name in names:
        tokens = np.memmap(tmp_path / "out" / name, "<u2", "r")
        lines = boundaries(tmp_path / "out" / name.replace(".npy", ".csv.gz"))
        assert tokens.nbytes <= SMALL or len(lines) == 1
        closed = (np.flatnonzero(tokens == peer.eos_token_id) + 1).tolist()  # how OLMo-core finds documents
        assert [int(line[1]) for line in lines] == closed
        assert [int(line[0]) for line in lines] == [0, *closed[:-1]]
        found += [(line[2], tokens[int(line[0]) : int(line[1])].tolist()) for line in lines]
        places += [(line[2], line[3], int(line[4])) for line in lines]
        whole += len(tokens)
    assert found == loaded(data)
    assert sorted({peer.decode(ids) for _, ids in found}) == sorted(f"{text}<|endoftext|>" for text in prose)
    assert max(Counter(id for id, _ in found).values()) == 3
    assert [id for id, _ in found] != sorted(id for id, _ in found)
    for id, place, line in places:
        source, shard = place.split("/")
        assert pq.read_table(stations.pools[source].folder / "shards" / shard)["id"][line - 1].as_py() == id
    assert whole == record["counts"]["tokens"] == data.counts["tokens_with_copies"]
    assert record["counts"] | {"bytes": 2 * whole, "added_end_of_text": 0} == record["counts"]
    for name, file in record["files"].items():
        assert file == {
            "bytes": (tmp_path / "out" / name).stat().st_size,
            "hash": file_hash(tmp_path / "out" / name),
        }
    assert read_json(tmp_path / "out" / "export.json") == record
    assert not (tmp_path / "out" / ".export").exists()


def test_conversations_have_label_masks_and_one_end_that_is_not_learnt(tmp_path, stations, tokenizer, mixed):
    manifest, data = mixed(chat="chat")
    out = tmp_path / "out"
    record = export_mix(olmo_core(manifest, data, tokenizer, 100), out, stations.ctx.executor)
    end = AutoTokenizer.from_pretrained(out / FOLDER, local_files_only=True).eos_token_id
    tokens, masks = [], []
    for part in range(record["parts"]):
        ids = np.memmap(out / f"token_ids_part_{part:04d}.npy", "<u2", "r")
        mask = np.memmap(out / f"labels_mask_part_{part:04d}.npy", bool, "r")
        assert len(ids) == len(mask)
        for start, stop in boundaries(out / f"token_ids_part_{part:04d}.csv.gz"):
            tokens.append(ids[int(start) : int(stop)].tolist())
            masks.append(mask[int(start) : int(stop)].tolist())
    assert record["parts"] > 1
    assert tokens == [[*ids, end] for _, ids in loaded(data)]
    assert masks == [[*mask, 0] for _, mask in loaded(data, mask=True)]
    assert all(ids.count(end) == 1 for ids in tokens)
    counts = record["counts"]
    assert counts["added_end_of_text"] == counts["documents"] == 6
    assert counts["tokens"] + 6 == sum(map(len, tokens))
    assert counts["tokens_in_loss"] == sum(map(sum, masks)) < counts["tokens"]
    told = read_json(out / "dataset_statistics.json")
    assert (told["total_tokens"], told["trainable_tokens"]) == (counts["tokens"] + 6, counts["tokens_in_loss"])
    assert told["tokens_by_source"] == {"chat": counts["tokens"] + 6}


def cut_to_three(rows: pa.Table) -> pa.Table:
    """The first three tokens of every document that has more than ten."""
    rows = rows.filter(pc.greater(rows["tokens"], 10))
    for name, value in (("transform", "head"), ("tokens", 3)):
        field = rows.schema.field(name)
        values = pa.repeat(pa.scalar(value, field.type), len(rows))
        rows = rows.set_column(rows.schema.get_field_index(name), field, values)
    return rows


def test_a_document_that_the_mix_cuts_is_closed(tmp_path, stations, tokenizer, mixed):
    manifest, data = mixed(cut_to_three, prose=None)
    record = export_mix(olmo_core(manifest, data, tokenizer, 1 << 20), tmp_path / "out", stations.ctx.executor)
    documents = record["counts"]["documents"]
    assert record["counts"]["added_end_of_text"] == documents
    assert record["counts"]["tokens"] == 3 * documents
    assert len(np.fromfile(tmp_path / "out" / "part-00000.npy", "<u2")) == 4 * documents


def read_rows(folder, record) -> list[dict]:
    rows = []
    for name in record["files"]:
        if name.endswith(".parquet"):
            rows += pq.read_table(folder / name).to_pylist()
        else:
            rows += [json.loads(line) for line in (folder / name).read_bytes().split(b"\n")[:-1]]
    return rows


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rendered_text_is_the_documents_in_the_loaders_order(tmp_path, stations, tokenizer, prose, mixed, form):
    manifest, data = mixed(prose=None, chat="chat")
    made = rendered_text(manifest, stations.pools, tokenizer, form, SMALL)
    record = export_mix(made, tmp_path / "out", stations.ctx.executor)
    rows = read_rows(tmp_path / "out", record)
    fed = loaded(data)
    assert [(row["id"], row["tokens"]) for row in rows] == [(id, len(ids)) for id, ids in fed]
    peer = AutoTokenizer.from_pretrained(tokenizer.folder / FOLDER, local_files_only=True)
    texts = [row["text"] for row in rows if row["source"] == "prose"]
    assert set(texts) == set(prose)
    for row, (_, ids) in zip(rows, fed, strict=True):
        if row["source"] == "prose":
            assert row["text"] + "<|endoftext|>" == peer.decode(ids)
        else:
            turns = "".join(f"<|{turn['role']}|>{turn['content']}<|end|>" for turn in row["messages"])
            assert turns == peer.decode(ids)
    assert record["counts"]["tokens"] == data.counts["tokens_with_copies"] == sum(row["tokens"] for row in rows)
    assert record["parts"] > 3
    assert not (tmp_path / "out" / ".export").exists()


def test_pairs_are_prompt_chosen_and_rejected(tmp_path, stations, tokenizer, mixed):
    manifest, data = mixed(pairs=None)
    made = rendered_text(manifest, stations.pools, tokenizer, "jsonl", 1 << 20)
    rows = read_rows(tmp_path / "out", export_mix(made, tmp_path / "out", stations.ctx.executor))
    plan = make_plan(open_data(data), TrainConfig(method="dpo", **WHOLE))
    ids = open_data(data).ids
    assert [row["id"] for row in rows] == [ids[row].as_py() for row in plan.row.tolist()]
    assert set(rows[0]) == {"id", "source", "tokens", "prompt", "chosen", "rejected"}
    given = {prompt[0][1]: (chosen[0][1], rejected[0][1]) for prompt, chosen, rejected in PAIRS}
    for row in rows:
        assert [turn["role"] for turn in (*row["prompt"], *row["chosen"], *row["rejected"])] == [
            "user", "assistant", "assistant",
        ]  # fmt: skip
        assert given[row["prompt"][0]["content"]] == (row["chosen"][0]["content"], row["rejected"][0]["content"])
    with pytest.raises(ValueError, match="no form for pairs; export them as parquet or jsonl"):
        olmo_core(manifest, data, tokenizer, 1 << 20)


def test_margins_go_along(tmp_path, stations, tokenizer, mixed):
    manifest, _ = mixed(lambda rows: rows, pairs=Margin(field="rating", scale=0.5).name)
    made = rendered_text(manifest, stations.pools, tokenizer, "parquet", 1 << 20)
    rows = read_rows(tmp_path / "out", export_mix(made, tmp_path / "out", stations.ctx.executor))
    found = {row["prompt"][0]["content"]: row["margin"] for row in rows}
    assert found == {f"question {n + 1}": n / 2 for n in range(4)}


def test_rearranged_text_spells_its_tokens(stations, tokenizer, prose):
    stations.pool("prose", prose)
    table = pq.read_table(stations.pools["prose"].shards()[0])
    encoder = load_encoder(tokenizer)
    rendered, _ = render(table, "fim rate=1.0 spm=0.5", encoder.specials)
    encoded = encoder.encode(rendered)
    peer = AutoTokenizer.from_pretrained(tokenizer.folder / FOLDER, local_files_only=True)
    spans = zip(encoded.starts[:-1], encoded.starts[1:], strict=True)
    decoded = [peer.decode(encoded.ids[a:b]) for a, b in spans]
    assert [text + "<|endoftext|>" for text in texts(rendered, encoder)] == decoded
    assert any("<|fim_middle|>" in text for text in decoded)


@pytest.mark.parametrize("form", ["olmo-core", "parquet"])
def test_a_killed_export_goes_on_by_parts_to_the_same_bytes(
    tmp_path, stations, tokenizer, mixed, monkeypatch, form
):
    manifest, data = mixed(prose=None)

    def run(folder):
        if form == "olmo-core":
            made = olmo_core(manifest, data, tokenizer, SMALL)
        else:
            made = rendered_text(manifest, stations.pools, tokenizer, form, SMALL)
        return export_mix(made, folder, stations.ctx.executor)

    run(tmp_path / "whole")
    write_part, written = module._write_part, []

    def dies_in_the_third(made, folder, scratch, part):
        if len(written) == 2:
            made.write(folder, scratch, part)  # its files are there, its record is not
            (folder / ".tmp-1-half").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(part)
        write_part(made, folder, scratch, part)

    monkeypatch.setattr(module, "_write_part", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    assert not (tmp_path / "killed" / "export.json").exists()
    again = []

    def counted(made, folder, scratch, part):
        again.append(part)
        write_part(made, folder, scratch, part)

    monkeypatch.setattr(module, "_write_part", counted)
    record = run(tmp_path / "killed")
    assert written == [0, 1]
    assert again == list(range(2, record["parts"]))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*")}
    assert run(tmp_path / "killed") == record
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*")} == times


def test_what_does_not_belong_together_is_refused(tmp_path, stations, tokenizer, mixed, monkeypatch):
    manifest, data = mixed(prose=None)
    form = olmo_core(manifest, data, tokenizer, SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds other files and no export"):
        export_mix(form, tmp_path / "full", stations.ctx.executor)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    export_mix(form, tmp_path / "out", stations.ctx.executor)
    with pytest.raises(ExportError, match="part_bytes 900, asked for is 1800; name a new folder"):
        export_mix(olmo_core(manifest, data, tokenizer, 2 * SMALL), tmp_path / "out", stations.ctx.executor)
    (tmp_path / "out" / "part-00001.npy").unlink()
    with pytest.raises(ExportError, match=r"part-00001.npy: None bytes, export.json says"):
        export_mix(form, tmp_path / "out", stations.ctx.executor)
    monkeypatch.setattr(form, "row", form.row.copy())
    form.row[0] = form.row[-1] if form.length[form.row[0]] != form.length[form.row[-1]] else form.row[-2]
    with pytest.raises(ExportError, match=r"\d+ tokens written, the manifest has \d+"):
        export_mix(form, tmp_path / "other", stations.ctx.executor)
    assert not (tmp_path / "other" / "export.json").exists()
    other = stations.mix("b", tokenizer, prose=None)
    with pytest.raises(ValueError, match="made from another manifest"):
        olmo_core(other, data, tokenizer, SMALL)
