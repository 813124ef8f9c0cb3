"""A pipeline in small: real English text (the manual pages inside Python's own help), all stations, seconds long.

Its files hold exact duplicates, near-duplicates and broken records on purpose.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from pydoc_data.topics import topics

import yaml

CAUSAL = {
    "sequence_length": 64,
    "batch_tokens": 1024,
    "micro_batch_tokens": 512,
    "checkpoint_every": 2,
    "threads": 1,
}


def write_inputs(folder: Path) -> None:
    """The raw files. `notes.jsonl` holds a broken line; the last lines of `topics-b` repeat `topics-a`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [text for _, text in sorted(topics.items()) if len(text) > 400]
    half = len(texts) // 2
    edited = [f"{text}\nAdded at the end." for text in texts[:5]]
    _write(folder / "topics-a.jsonl", [{"text": text} for text in texts[:half]])
    _write(folder / "topics-b.jsonl.gz", [{"text": text} for text in [*texts[half:], *texts[:3], *edited]])
    (folder / "notes.jsonl").write_text('{"text": "a note of a few words"}\n{"text": broken\n', encoding="utf-8")
    chats, pairs = [], []
    for name, text in sorted(topics.items()):
        paragraphs = [part.strip() for part in text.split("\n\n") if len(part.strip()) > 80][:2]
        if len(paragraphs) == 2:
            question = {"role": "user", "content": f"What does the manual say about {name}?"}
            chats.append({"messages": [question, {"role": "assistant", "content": paragraphs[0]}]})
            pairs.append({"prompt": question["content"], "chosen": paragraphs[0], "rejected": paragraphs[1][:60]})
    _write(folder / "chat.jsonl", chats)
    _write(folder / "pairs.jsonl", pairs)


def _write(path: Path, rows: list[dict]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_pipeline(folder: Path, inputs: Path, training: bool = True) -> Path:
    """The pipeline file and its recipes; returns the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    root = str(inputs)
    files = {"topics": ["topics-*"], "notes": ["notes.jsonl"], "chat": ["chat.jsonl"], "pairs": ["pairs.jsonl"]}
    kinds = {"chat": ("chat", "messages"), "pairs": ("pairs", "prompt_chosen_rejected")}
    sources = []
    for name, include in files.items():
        kind, reader = kinds.get(name, ("text", "records"))
        source = {"name": name, "kind": kind, "type": "Manual", "reader": reader, "root": root, "include": include}
        sources.append(source | {"holdout": "10%", "profile": "chat" if name in kinds else "plain"})
    sources[0]["quality"] = True
    lines = {
        "pretrain": ("pretrain", "40K", [{"source": ["topics", "notes"], "share": "100%"}]),
        "instruction": ("instruction", "8K", [{"source": "chat", "share": "100%"}]),
        "preference": ("preference", "8K", [{"source": "pairs", "share": "100%"}]),
    }
    for name, (kind, budget, recipe_lines) in lines.items():
        recipe = {"kind": kind, "name": name, "pipeline": "pipeline.yaml", "budget": budget, "lines": recipe_lines}
        _dump(folder / f"{name}.yaml", recipe | {"on_shortage": "take_all"})
    pipeline = {
        "name": "mini",
        "sources": sources,
        "tokenizer": {"vocab_size": 400, "sample_bytes": "300KiB"},
        "classifiers": {
            "quality": {"positives": ["topics"], "negatives": ["chat"], "epochs": 2, "dim": 4, "buckets": 1000},
        },
        "mixes": {name: {"recipe": f"{name}.yaml"} for name in lines},
        "train": _stages() if training else {},
        "evaluate": {
            "window": 64,
            "text_tokens": 500,
            "pairs": 20,
            "samples": 1,
            "sample_tokens": 8,
            "threads": 1,
        },
    }
    _dump(folder / "pipeline.yaml", pipeline)
    return folder / "pipeline.yaml"


def _stages() -> dict:
    model = {"hidden_size": 16, "layers": 1, "heads": 2, "max_position": 64}
    return {
        "pretrain": {"mix": "pretrain", "config": {**CAUSAL, "model": model}},
        "sft": {"mix": "instruction", "parent": "pretrain", "config": CAUSAL},
        "reward": {"mix": "preference", "parent": "sft", "config": {**CAUSAL, "method": "reward"}},
        "dpo": {"mix": "preference", "parent": "sft", "config": {**CAUSAL, "method": "dpo"}},
    }


def _dump(path: Path, value: dict) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


def fingerprints(workspace: Path) -> dict[str, str]:
    """The content hash of every complete step, by step name: what must not depend on how a run went."""
    found = {}
    for record in sorted(workspace.glob("steps/**/step.json")):
        data = json.loads(record.read_bytes())
        found[data["name"]] = data["content"]
    return found


def contents(objects: dict[str, bytes]) -> dict[str, str]:
    """As `fingerprints`, of what a store holds."""
    records = [json.loads(data) for key, data in objects.items() if key.endswith("/step.json")]
    return {record["name"]: record["content"] for record in records}
