"""The model card: what a model is made of, the same bytes each time, with held-out figures when it is exported."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from curation.files import read_json, write_json
from curation.steps import Context
from flows.export import export_model
from flows.run import Run, RunNotFoundError
from training.config import EvaluateConfig, Lora
from training.station import evaluate, train

from .test_train import columns, later


def test_it_names_manifest_parent_and_figures(tmp_path, context, texts, chats, tokenizer, tiny):
    parent = train(context, "pretrain", texts, tokenizer, None, tiny)
    output = train(context, "sft", chats, tokenizer, parent, later(tiny))
    card = (output.folder / "model" / "README.md").read_text()
    head = read_json(output.folder / "checkpoint.json")
    for named in (head["manifest_hash"], parent.content, tokenizer.content, chats.content, "train/pretrain"):
        assert named in card
    account = head["account"]["talk"]
    assert f"| talk | {account['documents']:,} | {account['occurrences']:,} | {account['delivered']:,} |" in card
    losses = columns(output, "losses")
    assert f"Loss at the first step {losses['loss'][0]:.4f}" in card
    assert f"| talk | {losses['loss'][-1]:.4f} |" in card
    assert "model/README.md" in output.record["files"]
    elsewhere = Context(tmp_path / "elsewhere")
    again = train(
        elsewhere, "sft", chats, tokenizer, train(elsewhere, "pretrain", texts, tokenizer, None, tiny), later(tiny)
    )
    assert again.content == output.content  # no date, no path
    assert str(tmp_path) not in card


def test_export_adds_the_held_out_figures(tmp_path, context, texts, tokenizer, tiny):
    parent = train(context, "pretrain", texts, tokenizer, None, tiny)
    output = train(context, "tuned", texts, tokenizer, parent, later(tiny, lora=Lora(rank=2), max_steps=1))
    scored = evaluate(context, "tuned", output, tokenizer, texts, None, EvaluateConfig(samples=0, threads=1))
    steps = [
        {"name": one.name, "folder": one.folder.relative_to(context.workspace).as_posix()}
        for one in (output, scored)
    ]
    run = Run(context.workspace / "runs" / "r1", {"run": "r1", "steps": steps, "config": {}})
    folder = export_model(run, "tuned", tmp_path / "exported")
    card = (folder / "README.md").read_text()
    found = read_json(scored.folder / "evaluation.json")["text"]
    assert card.startswith((output.folder / "model" / "README.md").read_text())
    assert (
        f"| web | {found['by_source']['web']['documents']} | {found['by_source']['web']['bits_per_byte']:.4f} |"
        in card
    )
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size > 0
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    with pytest.raises(ValueError, match="is there already"):
        export_model(run, "tuned", folder)
    with pytest.raises(RunNotFoundError, match="no trained stage 'sft'; it has tuned"):
        export_model(run, "sft", tmp_path / "other")
    write_json(
        output.folder / "model" / "config.json", read_json(output.folder / "model" / "config.json") | {"x": 1}
    )
    run.data["steps"][0]["folder"] = steps[0]["folder"]
    with pytest.raises((ValueError, RunNotFoundError)):
        export_model(run, "tuned", tmp_path / "changed")
