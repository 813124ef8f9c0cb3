"""Options that change how a stage is computed: memory, adapters, averages, compilation, sharing out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from curation.files import read_json
from curation.steps import Context
from tests.processes import files_in_use
from training import checkpoint
from training.config import Lora, TrainConfig
from training.size import adapted
from training.station import train

from .test_train import columns, later, weights

LORA = Lora(rank=4, alpha=8)


@pytest.fixture
def pretrained(context, texts, tokenizer, tiny):
    return train(context, "pretrain", texts, tokenizer, None, tiny)


def interrupted(monkeypatch, workspace: Path, *stage) -> Context:
    """Run a stage in another workspace until its first checkpoint."""
    honest = checkpoint.save

    def save_and_stop(*arguments):
        honest(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.loop.save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(Context(workspace), *stage)
    return Context(workspace)


def test_gradient_checkpointing_changes_no_bit(tmp_path, context, texts, tokenizer, tiny, pretrained, monkeypatch):
    saving = tiny.model_copy(update={"gradient_checkpointing": True})
    assert train(context, "pretrain", texts, tokenizer, None, saving).reused  # no part of the identity
    honest, passes = LlamaMLP.forward, []
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: passes.append(1) or honest(self, x))
    counts = []
    for settings in (tiny, saving):
        passes.clear()
        other = train(Context(tmp_path / str(len(counts))), "pretrain", texts, tokenizer, None, settings)
        assert other.content == pretrained.content
        counts.append(len(passes))
    assert counts[1] > 1.3 * counts[0]  # all but the last layer's are computed twice, and those of the probe once


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_nor_where_the_last_layer_is_computed_in_part(tmp_path, pairs, tokenizer, tiny, pretrained, method):
    """So a killed run may go on with or without it."""
    contents = set()
    for saving in (False, True):
        settings = later(tiny, method=method, gradient_checkpointing=saving)
        contents.add(train(Context(tmp_path / str(saving)), "p", pairs, tokenizer, pretrained, settings).content)
    assert len(contents) == 1


def test_the_mean_of_the_last_checkpoints(tmp_path, context, texts, tokenizer, tiny, monkeypatch):
    constant = {"schedule": "constant", "checkpoint_every": 3}
    runs = {
        steps: weights(
            train(context, "p", texts, tokenizer, None, tiny.model_copy(update={**constant, "max_steps": steps}))
        )
        for steps in (2, 4, 6)
    }
    settings = tiny.model_copy(update={**constant, "max_steps": 6, "average_last": 3, "average_every": 2})
    averaged = train(context, "p", texts, tokenizer, None, settings)
    for name, tensor in weights(averaged).items():
        mean = (runs[2][name].double() + runs[4][name].double() + runs[6][name].double()) / 3
        assert torch.equal(tensor, mean.float()), name
        assert not torch.equal(tensor, ((runs[4][name].double() + runs[6][name].double()) / 2).float())
    resumed = interrupted(monkeypatch, tmp_path / "other", "p", texts, tokenizer, None, settings)
    assert train(resumed, "p", texts, tokenizer, None, settings).content == averaged.content
    assert not list(averaged.folder.rglob("snapshots"))
    with pytest.raises(ValueError, match="wants more than the 6 steps"):
        train(context, "p", texts, tokenizer, None, settings.model_copy(update={"average_last": 4}))
    with pytest.raises(ValueError, match="go together"):
        TrainConfig(average_last=2)


def logits(model) -> torch.Tensor:
    ids = torch.arange(40)[None] * 5 % 250
    with torch.no_grad():
        return model.eval()(ids).logits


def test_adapters_are_merged_and_kept_beside(tmp_path, context, texts, tokenizer, tiny, pretrained, monkeypatch):
    from peft import PeftModel

    settings = later(tiny, lora=LORA, checkpoint_every=3)
    output = train(context, "tuned", texts, tokenizer, pretrained, settings)
    head = read_json(output.folder / "checkpoint.json")
    assert head["trained_parameters"] == adapted(tiny.model, settings)
    assert head["parameters"] == read_json(pretrained.folder / "checkpoint.json")["parameters"]
    parent = AutoModelForCausalLM.from_pretrained(pretrained.folder / "model")
    before = logits(parent)
    merged = logits(AutoModelForCausalLM.from_pretrained(output.folder / "model"))
    theirs = logits(PeftModel.from_pretrained(parent, output.folder / "adapter"))
    torch.testing.assert_close(merged, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)
    old, new = weights(pretrained), weights(output)
    assert set(old) == set(new)
    assert torch.equal(old["model.embed_tokens.weight"], new["model.embed_tokens.weight"])
    targets = read_json(output.folder / "adapter" / "adapter_config.json")["target_modules"]
    assert targets == sorted(targets)  # peft keeps a set, whose order changes with PYTHONHASHSEED
    assert len(targets) == 14  # seven linear layers in each of two
    resumed = interrupted(monkeypatch, tmp_path / "other", "tuned", texts, tokenizer, pretrained, settings)
    assert train(resumed, "tuned", texts, tokenizer, pretrained, settings).content == output.content


def test_adapters_begin_where_the_parent_is(context, pairs, tokenizer, tiny, pretrained):
    """DPO: the reference is the parent, which is the model with its adapters off."""
    dpo = train(context, "dpo", pairs, tokenizer, pretrained, later(tiny, method="dpo", lora=LORA))
    losses = columns(dpo, "losses")
    assert losses["loss"][0] == pytest.approx(np.log(2), abs=1e-5)
    assert losses["rewards/margins"][-1] > 1e-3
    reward = train(context, "reward", pairs, tokenizer, pretrained, later(tiny, method="reward", lora=LORA))
    assert columns(reward, "losses")["loss"][-1] < columns(reward, "losses")["loss"][0]
    assert "score.weight" in weights(reward)
    assert read_json(reward.folder / "checkpoint.json")["trained_parameters"] > 32  # the score head among them


def test_chosen_targets_and_what_is_refused(context, texts, tokenizer, tiny, pretrained):
    few = later(tiny, lora=Lora(rank=2, targets=("q_proj", "v_proj")), max_steps=2)
    output = train(context, "few", texts, tokenizer, pretrained, few)
    config = read_json(output.folder / "adapter" / "adapter_config.json")
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert config["base_model_name_or_path"] is None
    changed = [
        name for name, tensor in weights(output).items() if not torch.equal(tensor, weights(pretrained)[name])
    ]
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)
    with pytest.raises(ValueError, match="nothing_proj"):
        train(context, "no", texts, tokenizer, pretrained, later(tiny, lora=Lora(targets=("nothing_proj",))))
    with pytest.raises(ValueError, match="lora adapts a parent"):
        train(context, "no", texts, tokenizer, None, tiny.model_copy(update={"lora": LORA}))
    with pytest.raises(ValueError, match="neither average_last nor sharding"):
        TrainConfig(lora=LORA, average_last=2, average_every=1)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same(context, texts, tokenizer, tiny, pretrained):
    compiled = train(context, "pretrain", texts, tokenizer, None, tiny.model_copy(update={"compile": True}))
    assert not compiled.reused
    ours, theirs = columns(compiled, "losses"), columns(pretrained, "losses")
    assert np.allclose(ours["loss"], theirs["loss"], rtol=1e-4)
    assert np.allclose(ours["gradient_norm"], theirs["gradient_norm"], rtol=1e-3)
    assert set(weights(compiled)) == set(weights(pretrained))


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_shared_out_trains_the_same(context, texts, tokenizer, tiny, tied, monkeypatch, tmp_path):
    """FSDP2 over two gloo processes: the losses and weights of one, and checkpoints that it goes on from."""
    shape = tiny.model.model_copy(update={"tie_embeddings": tied})
    alone = tiny.model_copy(update={"model": shape, "micro_batch_tokens": 128})
    shared = alone.model_copy(update={"processes": 2, "sharding": "full", "checkpoint_every": 3})
    one = train(context, "pretrain", texts, tokenizer, None, alone)
    two = train(context, "pretrain", texts, tokenizer, None, shared)
    ours, theirs = columns(two, "losses"), columns(one, "losses")
    for name, values in theirs.items():
        assert np.allclose(ours[name], values, rtol=1e-4), name
    assert set(weights(two)) == set(weights(one))
    for name, tensor in weights(one).items():
        assert torch.allclose(weights(two)[name], tensor, atol=1e-3), name
    if tied:
        honest = subprocess.Popen.wait
        stopped = Context(tmp_path / "stopped")

        def until_a_checkpoint(self, timeout=None):
            if timeout and files_in_use(tmp_path / "stopped", "trainer.json"):
                raise KeyboardInterrupt
            return honest(self, 0.01 if timeout else None)

        with monkeypatch.context() as patch:
            patch.setattr("training.launch.POLL", 0.01)
            patch.setattr(subprocess.Popen, "wait", until_a_checkpoint)
            with pytest.raises((KeyboardInterrupt, OSError)):
                train(stopped, "pretrain", texts, tokenizer, None, shared)
        assert train(stopped, "pretrain", texts, tokenizer, None, shared).content == two.content
