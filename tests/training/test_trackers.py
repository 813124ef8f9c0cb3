"""Curves beside the log: the same figures, no part of the result."""

from __future__ import annotations

import sys

import pytest

from curation.steps import Context
from training.station import train
from training.trackers import scalars

from .test_train import columns


def test_tensorboard_holds_what_the_log_holds(tmp_path, context, texts, tokenizer, tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = train(context, "pretrain", texts, tokenizer, None, tiny)
    tracked = tiny.model_copy(update={"track": ("tensorboard",)})
    assert train(context, "pretrain", texts, tokenizer, None, tracked).reused  # no part of the identity
    output = train(Context(tmp_path / "other"), "pretrain", texts, tokenizer, None, tracked)
    assert output.content == plain.content
    events = EventAccumulator(str(output.folder / "tensorboard"))
    events.Reload()
    losses = columns(plain, "losses")
    for name in ("loss", "learning_rate", "gradient_norm"):
        assert [event.step for event in events.Scalars(name)] == losses["step"].tolist()
        assert [event.value for event in events.Scalars(name)] == pytest.approx(losses[name].tolist(), rel=1e-6)
    by_source = columns(plain, "losses_by_source")
    of_web = by_source["source"] == "web"
    bits = by_source["loss_sum"][of_web] / by_source["bytes"][of_web] / 0.6931471805599453
    assert [event.value for event in events.Scalars("bits_per_byte/web")] == pytest.approx(bits.tolist(), rel=1e-5)


@pytest.mark.slow
def test_weights_and_biases_stays_offline(tmp_path, context, texts, tokenizer, tiny, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracked = tiny.model_copy(update={"track": ("wandb",), "max_steps": 2})
    output = train(context, "pretrain", texts, tokenizer, None, tracked)
    files = list((output.folder / "wandb").rglob("offline-run-*/*.wandb"))
    assert len(files) == 1
    assert b"bits_per_byte/web" in files[0].read_bytes()
    assert not any("wandb" in name for name in output.record["files"])


def test_a_tracker_that_is_not_installed_is_said(context, texts, tokenizer, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'mixwright\[wandb\]'"):
        train(context, "pretrain", texts, tokenizer, None, tiny.model_copy(update={"track": ("wandb",)}))


def test_a_source_of_pairs_has_no_bits_per_byte():
    row = {"step": 1, "tokens": 100, "loss": 0.5}
    found = scalars(row, [{"source": "judged", "loss_sum": 2.0, "count": 4, "bytes": 0}], 2.0)
    assert found == {"tokens": 100, "loss": 0.5, "tokens_per_second": 50, "loss/judged": 0.5}
