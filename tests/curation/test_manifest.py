"""The manifest says what is in it, and every change of it is seen."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.files import json_hash, read_json, write_json
from curation.mix import manifest as module
from curation.mix.manifest import (
    MANIFEST,
    ManifestError,
    load_manifest,
    require_verified,
    verify_manifest,
    write_manifest,
)

HEAD = {
    "kind": "pretrain",
    "name": "small",
    "recipe": "kind: pretrain\nname: small\n",
    "seed": 1,
    "tokenizer_hash": "t" * 64,
    "pools": {"a": "p" * 64},
    "catalogs": {"a": "c" * 64},
    "parents": {},
    "sequence_length": 64,
}


def rows(n: int = 300, seed: int = 0) -> pa.Table:
    rng = random.Random(seed)
    return pa.Table.from_pylist(
        [
            {
                "id": f"{rng.getrandbits(128):032x}",
                "source": rng.choice("ab"),
                "bucket": rng.choice(["all", "q20"]),
                "shard": rng.choice(["s0", "s1"]),
                "row": number,
                "tokens": rng.randint(1, 400),
                "copies": rng.randint(1, 4),
                "transform": "none",
                "order": rng.getrandbits(64),
            }
            for number in range(n)
        ],
        schema=MANIFEST,
    )


@pytest.fixture
def written(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "PART_ROWS", 100)
    write_manifest(tmp_path / "mix", rows(), HEAD)
    return tmp_path / "mix"


def test_written_manifest_verifies_and_reads_back(written: Path):
    assert verify_manifest(written) == []
    manifest = load_manifest(written)
    expected = rows().sort_by([(name, "ascending") for name in module.SORTED_BY])
    assert manifest.rows().equals(expected)
    assert sorted(manifest.head["parts"]) == [f"part-{n:05d}.parquet" for n in range(3)]


def test_counts_against_plain_python(written: Path):
    head, table = load_manifest(written).head, rows().to_pylist()
    everything = sum(row["tokens"] * row["copies"] for row in table)
    for line in head["account"]:
        own = [row for row in table if (row["source"], row["bucket"]) == (line["source"], line["bucket"])]
        assert line["documents"] == len(own)
        assert line["occurrences"] == sum(row["copies"] for row in own)
        assert line["fragments"] == sum(row["copies"] * -(-row["tokens"] // 64) for row in own)
        assert line["tokens"] == sum(row["copies"] * row["tokens"] for row in own)
        assert line["share"] == line["tokens"] / everything
    assert head["totals"]["tokens"] == everything
    assert head["totals"]["unique_documents"] == 300


def test_row_order_does_not_change_a_byte(tmp_path: Path):
    table = rows()
    shuffled = table.take(random.Random(3).sample(range(len(table)), len(table)))
    one = write_manifest(tmp_path / "one", table, HEAD)
    two = write_manifest(tmp_path / "two", shuffled, HEAD)
    assert one == two
    for name in [*one["parts"], "mix.json"]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def rehash(folder: Path, change) -> None:
    """Change the head and make its hash fit again: what is left to see is the disagreement itself."""
    head = read_json(folder / "mix.json")
    change(head)
    head["hash"] = json_hash({key: value for key, value in head.items() if key != "hash"})
    write_json(folder / "mix.json", head)


def flip_byte(folder: Path):
    path = folder / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def rewrite_part(folder: Path, change) -> None:
    """A careful forger: the part changed, its entry in the head and the hash over all made to fit."""
    path = folder / "part-00002.parquet"
    table = change(pq.read_table(path))
    pq.write_table(table, path, compression="zstd")
    entry = {"rows": len(table), "hash": module.file_hash(path)}
    rehash(folder, lambda head: head["parts"].update({path.name: entry}))


def drop_row(folder: Path):
    rewrite_part(folder, lambda table: table.slice(1))


def swap_rows(folder: Path):
    rewrite_part(folder, lambda table: table.take([1, 0, *range(2, len(table))]))


def double_row(folder: Path):
    rewrite_part(folder, lambda table: table.take([0, *range(len(table))]))


def change_tokens(folder: Path):
    def change(table: pa.Table) -> pa.Table:
        frame = pl.from_arrow(table).with_columns(pl.col("tokens") + 1)
        return frame.to_arrow().cast(MANIFEST).replace_schema_metadata(table.schema.metadata)

    rewrite_part(folder, change)


def change_recipe(folder: Path):
    rehash(folder, lambda head: head.update(recipe=head["recipe"] + "seed: 2\n"))


def change_recipe_and_its_hash(folder: Path):
    recipe = "kind: pretrain\nname: other\n"
    rehash(folder, lambda head: head.update(recipe=recipe, recipe_hash=module.text_hash(recipe)))


def change_account(folder: Path):
    rehash(folder, lambda head: head["account"][0].update(documents=head["account"][0]["documents"] + 1))


def break_account(folder: Path):
    rehash(folder, lambda head: head["account"][0].pop("source"))


def change_target(folder: Path):
    rehash(folder, lambda head: head["account"][0].update(target_tokens=5))


def change_totals(folder: Path):
    rehash(folder, lambda head: head["totals"].update(fragments=0))


def change_seed_only(folder: Path):
    path = folder / "mix.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))


def remove_part(folder: Path):
    (folder / "part-00000.parquet").unlink()


def add_part(folder: Path):
    shutil.copy(folder / "part-00000.parquet", folder / "part-00003.parquet")


FORGERIES = {
    flip_byte: "part-00001.parquet: hash",
    drop_row: "account line",
    swap_rows: "not sorted",
    double_row: "name a document twice",
    change_tokens: "account line",
    change_recipe: "recipe_hash",
    change_recipe_and_its_hash: "do not name the same recipe",
    change_account: "documents is",
    break_account: "not a list of lines",
    change_target: "error_tokens",
    change_totals: "totals",
    change_seed_only: "its content has",
    remove_part: "not there",
    add_part: "not listed",
}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_every_change_is_seen(written: Path, forge):
    forge(written)
    problems = verify_manifest(written)
    assert any(FORGERIES[forge] in problem for problem in problems), problems
    with pytest.raises(ManifestError, match="does not verify"):
        require_verified(written)


def test_the_check_can_fail(written: Path, monkeypatch):
    """Planted bug: with the comparison of the rows switched off, a dropped row goes unseen."""
    drop_row(written)
    monkeypatch.setattr(module, "_verify_rows", lambda rows, head: [])
    assert verify_manifest(written) == []


def test_account_given_must_agree_with_the_rows(tmp_path: Path):
    table = rows().filter(pa.compute.equal(rows()["source"], "a"))
    plan = [{"source": "a", "bucket": bucket, "type": "Code", "target_tokens": 10} for bucket in ("all", "q20")]
    head = write_manifest(tmp_path / "fits", table, HEAD | {"account": plan})
    assert head["account"][0]["error_tokens"] == head["account"][0]["tokens"] - 10
    plan[0]["documents"] = 1
    with pytest.raises(ValueError, match="a/all: documents is 1, the rows say"):
        write_manifest(tmp_path / "differs", table, HEAD | {"account": plan})
    with pytest.raises(ValueError, match="one line for each"):
        write_manifest(tmp_path / "lacks", table, HEAD | {"account": plan[1:]})


def test_empty_manifest(tmp_path: Path):
    head = write_manifest(tmp_path, MANIFEST.empty_table(), HEAD)
    assert head["totals"] == {"unique_documents": 0, "occurrences": 0, "fragments": 0, "tokens": 0}
    assert verify_manifest(tmp_path) == []
    assert load_manifest(tmp_path).rows().equals(MANIFEST.empty_table())


@pytest.mark.parametrize("column", ["tokens", "copies"])
def test_rows_of_nothing_are_refused(tmp_path: Path, column: str):
    frame = pl.from_arrow(rows(3)).with_columns(pl.lit(0).alias(column))
    with pytest.raises(ValueError, match="no tokens or no copies"):
        write_manifest(tmp_path, frame.to_arrow().cast(MANIFEST), HEAD)


def test_rewriting_leaves_no_stale_part(written: Path):
    write_manifest(written, rows(10), HEAD)
    assert verify_manifest(written) == []


def test_no_manifest_is_an_error(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"no mix\.json"):
        verify_manifest(tmp_path)
    (tmp_path / "mix.json").write_text(json.dumps({"format": "else"}))
    with pytest.raises(ManifestError, match="format is 'else'"):
        load_manifest(tmp_path)
    (tmp_path / "mix.json").write_text("{")
    with pytest.raises(ManifestError, match="not JSON"):
        load_manifest(tmp_path)
