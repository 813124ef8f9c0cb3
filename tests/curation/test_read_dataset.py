"""Hugging Face dataset folders: the layouts in which they are saved and published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from curation.config import ConfigError
from curation.ingest import Source, ingest
from curation.steps import Context


def texts(tmp_path: Path, root: Path, reader: str = "records", kind: str = "text", **dataset) -> list:
    source = Source(name="s", kind=kind, reader=reader, root=str(root), dataset=dataset)
    output = ingest(Context(tmp_path / "ws"), source)
    assert output.counts["quarantined"] == 0
    rows = [row for path in output.shards() for row in pq.read_table(path).to_pylist()]
    return sorted(row["text"] or row["messages"][-1]["content"] for row in rows)


def saved(folder: Path, *parts: list[str], indices: bool = False) -> None:
    """A split as Dataset.save_to_disk writes it: IPC streams, and a state that names them."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(parts):05d}.arrow" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        table = pa.table({"text": part})
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train", "_format_type": None}
    if indices:
        state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {}}')


def write(root: Path, files: dict[str, str | list[str]]) -> Path:
    """Files of texts by name, their form by the suffix; a string is written as it is."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, str):
            path.write_text(value)
        elif name.endswith(".parquet"):
            pq.write_table(pa.table({"text": value}), path)
        else:
            data = "".join(json.dumps({"text": text}) + "\n" for text in value).encode()
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return root


def test_a_saved_dataset_and_a_dictionary_of_them(tmp_path):
    saved(tmp_path / "one", ["a", "b"], ["c"])
    assert texts(tmp_path, tmp_path / "one") == ["a", "b", "c"]
    saved(tmp_path / "two/train", ["a"])
    saved(tmp_path / "two/test", ["b"])
    (tmp_path / "two/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert texts(tmp_path, tmp_path / "two") == ["a"]
    assert texts(tmp_path, tmp_path / "two", split="test") == ["b"]
    with pytest.raises(ConfigError, match="no split 'dev'; it has test, train"):
        texts(tmp_path, tmp_path / "two", split="dev")


def test_a_saved_dataset_that_is_not_whole_is_refused(tmp_path):
    saved(tmp_path / "one", ["a"], indices=True)
    with pytest.raises(ConfigError, match="flatten_indices"):
        texts(tmp_path, tmp_path / "one")
    saved(tmp_path / "two", ["a"], ["b"])
    (tmp_path / "two/data-00001-of-00002.arrow").unlink()
    with pytest.raises(ConfigError, match=r"data-00001-of-00002\.arrow', which is missing"):
        texts(tmp_path, tmp_path / "two")


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        ({"data/train-00000-of-00001.parquet": ["a"], "data/test-00000-of-00001.parquet": ["b"]}, "test", "b"),
        ({"data/train-00000-of-00001.parquet": ["a"], "data/test-00000-of-00001.parquet": ["b"]}, None, "a"),
        ({"train.jsonl": ["a"], "dev.jsonl.gz": ["b"]}, "validation", "b"),
        ({"train/0.jsonl": ["a"], "eval/0.jsonl": ["b"]}, "test", "b"),
        ({"my_train_file_1.jsonl": ["a"], "my-validation-1.jsonl": ["b"]}, "train", "a"),
        ({"x.parquet": ["a"], "dataset_infos.json": "{}", "LICENSE": "text"}, None, "a"),
        ({"contrast.jsonl": ["a"]}, "train", "a"),  # "train" is no word of it, and nothing else names a split
    ],
)
def test_splits_by_the_names_of_files_and_folders(tmp_path, files, split, expected):
    root = write(
        tmp_path / "in", {**files, "README.md": "---\nlicense: mit\n---\n# A card\n", ".git/train.jsonl": ["x"]}
    )
    assert texts(tmp_path, root, split=split) == [expected]


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: [data/a-*.jsonl, "more/**/*.jsonl"]
  - split: held
    path: data/b.jsonl
- config_name: other
  data_dir: other
- config_name: flat
  data_files: "*.jsonl"
---
# A card
"""


def test_splits_by_the_card(tmp_path):
    files = {"README.md": CARD, "data/a-1.jsonl": ["a"], "more/x/y.jsonl": ["m"], "data/b.jsonl": ["b"]}
    root = write(
        tmp_path / "in", files | {"other/train.jsonl": ["o"], "other/test.jsonl": ["t"], "z.jsonl": ["z"]}
    )
    assert texts(tmp_path, root) == ["a", "m"]
    assert texts(tmp_path, root, split="held") == ["b"]
    assert texts(tmp_path, root, config="other", split="test") == ["t"]
    assert texts(tmp_path, root, config="flat") == ["z"]
    with pytest.raises(ConfigError, match=r"no config 'x'; README\.md lists default, other, flat"):
        texts(tmp_path, root, config="x")
    (root / "data/b.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"'data/b\.jsonl', and no file is one"):
        texts(tmp_path, root)


def test_conversations_in_a_dataset(tmp_path):
    (tmp_path / "in/data").mkdir(parents=True)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    pq.write_table(pa.table({"messages": [turns]}), tmp_path / "in/data/train-00000-of-00001.parquet")
    assert texts(tmp_path, tmp_path / "in", "messages", "chat") == ["a"]


def test_a_dataset_says_itself_which_files_are_read(tmp_path):
    with pytest.raises(ValidationError, match="take 'include' out"):
        Source(name="s", reader="records", root=str(tmp_path), dataset={}, include=["*.parquet"])
