"""A step told afterwards is the step that was fed."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from curation.files import write_json
from flows.replay import print_replayed, replayed
from flows.run import Run, RunNotFoundError
from training import replay as module
from training.causal_lm import Causal
from training.data import open_data
from training.replay import NoSuchStepError, replay
from training.reward import Reward
from training.station import train

from .conftest import END, SPECIAL_TOKENS, chat, text, write_data
from .test_train import columns, later


def spy(monkeypatch, method) -> list:
    """Every batch that the loop feeds to a method."""
    honest, fed = method.outcome, []

    def outcome(self, model, batch):
        fed.append(batch)
        return honest(self, model, batch)

    monkeypatch.setattr(method, "outcome", outcome)
    return fed


def as_fed(data, batches) -> list[list[tuple]]:
    """What the loop fed, from the tensors: (id, tokens in the loss, text, text in the loss) of each sequence."""
    told = []
    for batch in batches:
        ends = np.cumsum(batch.pieces).tolist()
        sequences = []
        for place, (row, end) in enumerate(zip(batch.rows, ends, strict=True)):
            tokens = batch.tokens[0, end - batch.pieces[place] : end].tolist()
            if batch.shared[place]:
                other = place - len(ends) // 2
                start = ends[other] - batch.pieces[other]
                tokens = batch.tokens[0, start : start + batch.shared[place]].tolist() + tokens
            targets = batch.targets[torch.from_numpy(batch.sequence == place)].tolist()
            sequences.append((data.ids[int(row)].as_py(), len(targets), as_text(tokens), as_text(targets)))
        told.append(sequences)
    return told


def as_text(tokens: list[int]) -> str:
    """Bytes and special tokens, without the tokenizer."""
    return "".join(SPECIAL_TOKENS[token - 256] if token > 255 else chr(token) for token in tokens)


def as_replayed(found) -> list[list[tuple]]:
    return [
        [
            (
                one["id"],
                one["in_loss"],
                "".join(run["text"] for run in one["runs"]),
                "".join(run["text"] for run in one["runs"] if run["in_loss"]),
            )
            for one in batch
        ]
        for batch in found["micro_batches"]
    ]


def test_every_step_is_told_as_it_was_fed(context, texts, tokenizer, tiny, monkeypatch):
    fed = spy(monkeypatch, Causal)
    losses = columns(train(context, "pretrain", texts, tokenizer, None, tiny), "losses")
    data, vocabulary = open_data(texts), tokenizer.folder / "tokenizer"
    told = [replay(data, tiny, step, vocabulary) for step in losses["step"].tolist()]
    assert [batch for found in told for batch in as_replayed(found)] == as_fed(data, fed)
    assert [found["tokens"] for found in told] == losses["tokens"].tolist()
    assert [found["in_loss"] for found in told] == losses["count"].tolist()
    assert [found["learning_rate"] for found in told] == losses["learning_rate"].tolist()
    one = next(one for found in told for batch in found["micro_batches"] for one in batch if one["first"])
    row = data.ids.to_pylist().index(one["id"])
    span = data.tokens[data.start[row] + one["first"] : data.start[row] + one["last"]]
    assert as_text(span) == "".join(run["text"] for run in one["runs"])
    # The planted bug: a plan of another order tells another story.
    honest = module.make_plan

    def reordered(*settings):
        plan = honest(*settings)
        return replace(plan, row=plan.row[::-1], start=plan.start[::-1], length=plan.length[::-1])

    monkeypatch.setattr(module, "make_plan", reordered)
    assert as_replayed(replay(data, tiny, 1, vocabulary)) != as_fed(data, fed)[: len(told[0]["micro_batches"])]


def test_both_sides_of_a_pair_are_told(context, texts, pairs, tokenizer, tiny, monkeypatch):
    parent = train(context, "pretrain", texts, tokenizer, None, tiny)
    fed = spy(monkeypatch, Reward)
    settings = later(tiny, method="reward", sequence_length=24, max_steps=2)
    train(context, "reward", pairs, tokenizer, parent, settings)
    data = open_data(pairs)
    told = [replay(data, settings, step, tokenizer.folder / "tokenizer") for step in (1, 2)]
    assert [batch for found in told for batch in as_replayed(found)] == as_fed(data, fed)
    sides = [one["side"] for one in told[0]["micro_batches"][0]]
    assert sides == ["chosen"] * (len(sides) // 2) + ["rejected"] * (len(sides) // 2)
    assert any(one["last"] < one["length"] for one in told[0]["micro_batches"][0])  # cut


@pytest.fixture
def run(context, tokenizer, tiny):
    """A run whose stage has failed before its first step was done: data and settings alone."""
    rows = [chat("talk", "how are you", "fine"), text("web", "a line [bold]of[/] \x1b[31mtext")]
    data = write_data(context, "mixed", rows)
    steps = [
        {"name": one.name, "folder": one.folder.relative_to(context.workspace).as_posix()}
        for one in (data, tokenizer)
    ]
    stage = {"mix": "mixed", "parent": None, "config": tiny.model_dump(mode="json")}
    record = {"run": "r1", "config": {"train": {"pretrain": stage}}, "steps": steps}
    folder = context.workspace / "runs" / "r1"
    write_json(folder / "run.json", record)
    return Run(folder, record)


def test_a_person_sees_the_step(run):
    found = replayed(run, "pretrain", 1)
    assert found["recorded"] is None
    printed = io.StringIO()
    print_replayed(found, Console(file=printed, width=200, color_system=None))
    shown = printed.getvalue()
    assert "pretrain step 1 of 1  2 sequences in 1 micro-batches" in shown
    assert "how are you" in shown
    assert "[bold]of[/]" in shown
    assert "\x1b" not in shown
    answer = next(one for one in found["micro_batches"][0] if one["source"] == "talk")
    assert [part["in_loss"] for part in answer["runs"]] == [False, True]
    assert answer["runs"][1]["text"] == "fine" + SPECIAL_TOKENS[END - 256]


def test_what_is_not_there_is_said(run):
    with pytest.raises(NoSuchStepError, match="steps 1 to 1"):
        replayed(run, "pretrain", 2)
    with pytest.raises(RunNotFoundError, match="no stage 'sft'; it has pretrain"):
        replayed(run, "sft", 1)
    run.data["steps"].pop(0)
    with pytest.raises(RunNotFoundError, match="'data/mixed' is not in the workspace"):
        replayed(run, "pretrain", 1)
