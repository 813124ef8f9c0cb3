"""A stage killed at any step and run again gives the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from curation.files import read_json
from curation.steps import Context, load
from training import checkpoint
from training.config import TrainConfig
from training.model import find_specials, new_causal
from training.optimiser import make_optimiser
from training.station import train
from training.trace import Trace

from .conftest import TINY

WORKER = """
import sys
from pathlib import Path
from curation.files import read_json
from curation.steps import Context, load
from training.config import TrainConfig
from training.station import train

workspace, data, tokenizer, settings = sys.argv[1:]
print("ready", flush=True)
train(Context(workspace), "pretrain", load(Path(data)), load(Path(tokenizer)), None,
      TrainConfig.model_validate(read_json(Path(settings))))
"""


@pytest.fixture
def long_run(tiny) -> TrainConfig:
    """About sixty steps, a checkpoint every third."""
    return tiny.model_copy(update={"epochs": 8, "checkpoint_every": 3})


def kill_after(steps: int, workspace: Path, texts, tokenizer, settings: Path) -> int:
    """Run the stage in a process of its own; kill -9 it once its log holds so many lines. Its exit code."""
    root = Path(__file__).parents[2]
    arguments = [str(workspace), str(texts.folder), str(tokenizer.folder), str(settings)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", WORKER, *arguments], env=environment, cwd=root)
    try:
        while process.poll() is None:
            logs = list((workspace / "steps" / "train").glob("pretrain/*/log.jsonl"))
            if logs and logs[0].read_bytes().count(b"\n") >= steps:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
    finally:
        if process.poll() is None:
            process.kill()
    return process.wait()


def test_killed_runs_end_in_the_same_bits(tmp_path, context, texts, tokenizer, long_run):
    whole = train(context, "pretrain", texts, tokenizer, None, long_run)
    settings = tmp_path / "settings.json"
    settings.write_text(long_run.model_dump_json())
    workspace = tmp_path / "killed"
    chance = np.random.default_rng()  # another moment each time: the property holds for all of them
    first, second = sorted(chance.choice(np.arange(4, 50), 2, replace=False).tolist())
    assert kill_after(first, workspace, texts, tokenizer, settings) == -signal.SIGKILL
    assert kill_after(second, workspace, texts, tokenizer, settings) == -signal.SIGKILL
    folder = next((workspace / "steps" / "train" / "pretrain").glob("[0-9a-f]*"))
    assert load(folder) is None
    kept = checkpoint.latest(folder / ".units" / "checkpoints")
    assert kept is not None
    resumed = train(Context(workspace), "pretrain", texts, tokenizer, None, long_run)
    weights = "model/model.safetensors"
    assert resumed.record["files"][weights] == whole.record["files"][weights]
    assert resumed.content == whole.content, f"killed after {first} and {second} steps"
    assert not (resumed.folder / ".units" / "checkpoints").exists()


def test_a_forgotten_optimiser_would_show(tmp_path, context, texts, tokenizer, tiny, monkeypatch):
    """The planted bug: going on from the weights alone does not give the same bits."""

    whole = train(context, "pretrain", texts, tokenizer, None, tiny)
    often = tiny.model_copy(update={"checkpoint_every": 3})

    def interrupted(workspace: Path):
        honest = checkpoint.save

        def save_and_stop(*arguments):
            honest(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("training.loop.save", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                train(Context(workspace), "pretrain", texts, tokenizer, None, often)

    interrupted(tmp_path / "honest")
    resumed = train(Context(tmp_path / "honest"), "pretrain", texts, tokenizer, None, often)
    assert resumed.content == whole.content
    interrupted(tmp_path / "forgetful")
    with monkeypatch.context() as patch:
        honest = checkpoint.load_file
        patch.setattr(checkpoint, "load_file", lambda path: {} if "optimiser" in path.name else honest(path))
        forgetful = train(Context(tmp_path / "forgetful"), "pretrain", texts, tokenizer, None, often)
    assert forgetful.content != whole.content


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A checkpoint of a model after one update, with its model and optimiser."""
    vocabulary = tokenizer.folder / "tokenizer"
    model = new_causal(TINY, 266, find_specials(vocabulary))
    optimiser = make_optimiser(model, TrainConfig(model=TINY))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    trace = Trace("manifest", ["web"], step=1, steps=[{"step": 1, "loss": 0.1 + 0.2}])
    checkpoint.save(tmp_path / "progress", trace, model, optimiser, vocabulary)
    return checkpoint.latest(tmp_path / "progress"), model, optimiser, trace


def test_a_checkpoint_brings_everything_back(saved):
    folder, model, optimiser, trace = saved
    torch.manual_seed(5)
    other = new_causal(TINY, 266, find_specials(folder / "model"))
    others = make_optimiser(other, TrainConfig(model=TINY))
    assert checkpoint.restore(folder, other, others, "manifest") == trace
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        for name, value in optimiser.state[ours].items():
            assert torch.equal(value, others.state[theirs][name])


def test_a_checkpoint_of_other_bytes_or_data_is_refused(saved):
    folder, model, optimiser, _ = saved
    with pytest.raises(ValueError, match="trained on manifest manifest, not on another"):
        checkpoint.restore(folder, model, optimiser, "another")
    path = folder / "optimiser.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"optimiser\.safetensors: expected hash"):
        checkpoint.restore(folder, model, optimiser, "manifest")


def test_half_a_checkpoint_is_none(saved):
    folder, *_ = saved
    assert read_json(folder / checkpoint.STATE)["trace"]["step"] == 1
    (folder / checkpoint.STATE).unlink()
    assert checkpoint.latest(folder.parent) is None
