"""Several processes train as one does: the same plan, the same losses, the same model to rounding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from curation.steps import Context
from tests.processes import wait_for_no_survivors
from training import ranks as module
from training.causal_lm import Causal
from training.config import TrainConfig
from training.data import open_data
from training.loop import NonFiniteLossError, fit
from training.model import find_specials, new_causal
from training.plan import make_plan
from training.ranks import Ranks
from training.station import train

from .conftest import NO_GPU, TINY
from .test_resume import WORKER
from .test_train import columns, later, weights

pytestmark = pytest.mark.usefixtures("on_cpu")


class Threads(Ranks):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, shared: dict):
        super().__init__(rank, size)
        vars(self)["shared"] = shared

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        self.shared[self.rank] = values.clone()
        self.shared["barrier"].wait(60)
        total = sum(self.shared[rank] for rank in range(self.size))
        self.shared["barrier"].wait(60)
        return total


class Forgetful(Threads):
    """The planted bug: each rank goes its own way, as if the others' gradients were its own."""

    def sum_gradients(self, parameters) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad *= self.size


def in_threads(kind: type[Threads], size: int, texts, tokenizer, config: TrainConfig) -> list[tuple]:
    """Train with so many ranks; the losses, the account and the weights of each."""
    data = open_data(texts)
    plan, vocabulary = make_plan(data, config), tokenizer.folder / "tokenizer"
    shared, results = {"barrier": threading.Barrier(size)}, {}

    def work(rank: int, model) -> None:
        trace = fit(
            model, Causal(data), data, plan, config, Path("/nowhere"), vocabulary, lambda *_: None,
            kind(rank, size, shared),
        )  # fmt: skip
        results[rank] = trace, [parameter.detach() for parameter in model.parameters()]

    models = []
    for _ in range(size):
        torch.manual_seed(0)
        models.append(new_causal(TINY, 266, find_specials(vocabulary)))
    threads = [threading.Thread(target=work, args=(rank, model)) for rank, model in enumerate(models)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(size)]


def test_any_number_of_ranks_is_one(texts, tokenizer, tiny, monkeypatch):
    monkeypatch.setattr(module, "BUCKET", 5000)  # several buckets, as a larger model has
    config = tiny.model_copy(update={"micro_batch_tokens": 70, "max_steps": 4})
    assert {len(make_plan(open_data(texts), config).micro_batches(step, 70)) % 3 for step in range(4)} > {0}
    [(alone, model)] = in_threads(Threads, 1, texts, tokenizer, config)
    for size in (2, 3):
        many = in_threads(Threads, size, texts, tokenizer, config)
        for trace, parameters in many:
            assert trace.account == alone.account
            assert trace.steps == many[0][0].steps
            for ours, theirs in zip(trace.steps, alone.steps, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-5)
            for ours, theirs in zip(trace.by_source, alone.by_source, strict=True):
                assert ours == {**theirs, "loss_sum": pytest.approx(theirs["loss_sum"], rel=1e-5)}
            for ours, theirs, first in zip(parameters, model, many[0][1], strict=True):
                assert torch.equal(ours, first)
                assert torch.allclose(ours, theirs, atol=2e-4)
    wrong = in_threads(Forgetful, 2, texts, tokenizer, config)[0][0]
    assert wrong.steps[-1]["loss"] != pytest.approx(alone.steps[-1]["loss"], rel=1e-5)


def test_a_rank_without_a_share_adds_nothing(texts, tokenizer, tiny):
    """One micro-batch a step, two ranks: the second one learns even the metrics' names from the first."""
    config = tiny.model_copy(update={"micro_batch_tokens": 512, "max_steps": 3})
    [(alone, _)] = in_threads(Threads, 1, texts, tokenizer, config)
    (first, _), (second, _) = in_threads(Threads, 2, texts, tokenizer, config)
    assert first.steps == second.steps == alone.steps


def test_rounds_are_as_many_on_every_rank():
    assert Ranks(0, 2).rounds("abc") == [("a", True), ("c", True)]
    assert Ranks(1, 2).rounds("abc") == [("b", True), ("a", False)]
    assert Ranks(2, 3).rounds("a") == [("a", False)]
    assert Ranks().rounds("ab") == [("a", True), ("b", True)]


def test_plain_data_is_agreed_on():
    shared = {"barrier": threading.Barrier(2)}
    told = {}

    def work(rank: int) -> None:
        told[rank] = Threads(rank, 2, shared).agree(["rewards/chosen", "ä"] if rank == 0 else [])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told[0] == told[1] == ["rewards/chosen", "ä"]


def two(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"processes": 2, "micro_batch_tokens": 128})


def test_two_processes_train_as_one(context, tmp_path, texts, tokenizer, tiny):
    """Real processes, under torchrun, with gloo."""
    alone = train(context, "pretrain", texts, tokenizer, None, tiny.model_copy(update={"micro_batch_tokens": 128}))
    both = train(context, "pretrain", texts, tokenizer, None, two(tiny))
    assert both.content != alone.content
    ours, theirs = columns(both, "losses"), columns(alone, "losses")
    for name, values in theirs.items():
        assert np.allclose(ours[name], values, rtol=1e-4), name
    assert both.counts == alone.counts
    for name, tensor in weights(alone).items():
        assert torch.allclose(weights(both)[name], tensor, atol=1e-3), name
    lines = (both.folder / "log.jsonl").read_text().splitlines()
    assert len(lines) == len(ours["loss"])


@pytest.mark.slow
def test_a_process_that_fails_tells_why(context, texts, tokenizer, tiny):
    settings = two(tiny).model_copy(update={"learning_rate": 1e30, "clip": 1e30})
    with pytest.raises(NonFiniteLossError, match=r"step \d+: the .* is (nan|inf)"):
        train(context, "pretrain", texts, tokenizer, None, settings)


@pytest.mark.slow
def test_two_killed_processes_go_on_to_the_same_bits(tmp_path, context, texts, tokenizer, tiny):
    settings = two(tiny).model_copy(update={"epochs": 8, "checkpoint_every": 3})
    whole = train(context, "pretrain", texts, tokenizer, None, settings)
    root, workspace, written = Path(__file__).parents[2], tmp_path / "killed", tmp_path / "settings.json"
    written.write_text(settings.model_dump_json())
    arguments = [str(workspace), str(texts.folder), str(tokenizer.folder), str(written)]
    environment = {**os.environ, **NO_GPU, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", WORKER, *arguments], env=environment, cwd=root)
    while process.poll() is None:
        logs = list((workspace / "steps" / "train").glob("pretrain/*/log.jsonl"))
        if logs and logs[0].read_bytes().count(b"\n") >= 10:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.005)
    assert process.returncode == -signal.SIGKILL
    assert not wait_for_no_survivors(workspace)
    log = next((workspace / "steps" / "train").glob("pretrain/*/log.jsonl"))
    steps = [file.read_bytes().count(b"\n") for file in (log, whole.folder / "log.jsonl")]
    assert steps[0] < steps[1], "its processes went on without it"
    resumed = train(Context(workspace), "pretrain", texts, tokenizer, None, settings)
    assert resumed.content == whole.content


@pytest.mark.slow
def test_two_processes_on_pairs(context, texts, pairs, tokenizer, tiny):
    parent = train(context, "pretrain", texts, tokenizer, None, tiny)
    settings = later(tiny, method="dpo", micro_batch_tokens=128, max_steps=4)
    alone = columns(train(context, "dpo", pairs, tokenizer, parent, settings), "losses")
    both = columns(train(context, "dpo", pairs, tokenizer, parent, later(settings, processes=2)), "losses")
    for name, values in alone.items():
        assert np.allclose(both[name], values, rtol=1e-3, atol=1e-5), name
