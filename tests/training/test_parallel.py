"""Threads that share a micro-batch: the same step as one thread's, to rounding, and the same bits every time."""

from __future__ import annotations

import copy
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from curation.steps import Context
from training import loop, parallel
from training.attention import PACKED
from training.causal_lm import Causal
from training.config import TrainConfig
from training.data import open_data
from training.dpo import DPO, Reference, pair_logps
from training.loop import NonFiniteLossError, fit
from training.lora import add_adapters
from training.model import find_specials, fixed_arithmetic, new_causal, trade_memory, without_dropout
from training.optimiser import Share, make_optimiser, shares
from training.parallel import Costs, Crew, split, twin
from training.plan import make_plan
from training.station import train

from .conftest import PAD, TINY, VOCABULARY
from .test_options import LORA, interrupted
from .test_train import later

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.fixture
def two(tiny):
    return tiny.model_copy(update={"threads": 2, "max_steps": 3})


def trained(data, tokenizer, config, folder: Path, checkpointing: bool = False, model=None):
    """The trace, and the parameters after it."""
    data, vocabulary = open_data(data), tokenizer.folder / "tokenizer"
    with fixed_arithmetic(config.threads, 0):
        model = model or new_causal(TINY, VOCABULARY, find_specials(vocabulary))
        if config.lora is not None:
            add_adapters(model, config.lora)
        if checkpointing:
            trade_memory(model)
        method = Causal(data)
        if config.method == "dpo":
            with torch.no_grad():
                logps = pair_logps(model.eval(), data, np.arange(data.rows), 64, 100)
            method = DPO(data, Reference(*logps), 0.1)
        trace = fit(model, method, data, make_plan(data, config), config, folder, vocabulary, lambda *_: None)
    return trace, [parameter.detach() for parameter in model.parameters()]


def alike(one, other) -> bool:
    (trace, parameters), (other_trace, others) = one, other
    rows = zip(trace.steps + trace.by_source, other_trace.steps + other_trace.by_source, strict=True)
    close = all(
        mine.pop("source", None) == theirs.pop("source", None)
        and mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
        for mine, theirs in ((dict(mine), dict(theirs)) for mine, theirs in rows)
    )
    return close and all(torch.allclose(a, b, atol=3e-4) for a, b in zip(parameters, others, strict=True))


@pytest.mark.parametrize("changes", [{}, {"lora": LORA}, {"checkpointing": True}, {"method": "dpo"}])
def test_parts_are_the_whole(tmp_path, texts, chats, pairs, tokenizer, two, changes, monkeypatch):
    data = pairs if "method" in changes else chats if changes else texts
    saving = changes.get("checkpointing", False)
    settings = {**two.model_dump(), **{k: v for k, v in changes.items() if k != "checkpointing"}}
    config = type(two)(**settings)
    whole = trained(data, tokenizer, config.model_copy(update={"threads": 1}), tmp_path, saving)
    seen = set()
    honest = loop._both_passes
    monkeypatch.setattr(loop, "_both_passes", lambda *a: seen.add(threading.current_thread().name) or honest(*a))
    parts = trained(data, tokenizer, config, tmp_path, saving)
    assert len({name for name in seen if name.startswith("crew")}) == 2
    assert alike(whole, parts)
    again = trained(data, tokenizer, config, tmp_path, saving)
    assert again[0].steps == parts[0].steps
    assert all(torch.equal(a, b) for a, b in zip(parts[1], again[1], strict=True))
    assert torch.get_num_threads() == 1


def test_a_gradient_counted_twice_or_over_its_own_tokens_shows(tmp_path, texts, tokenizer, two, monkeypatch):
    """The planted bugs."""
    whole = trained(texts, tokenizer, two.model_copy(update={"threads": 1}), tmp_path)
    honest = Share.gather

    def twice(share):
        for _, other in share.copies:
            other.grad *= 2
        honest(share)

    def lost(share):
        for _, other in share.copies:
            other.grad = None

    for wrong in (twice, lost):
        with monkeypatch.context() as patch:
            patch.setattr(Share, "gather", wrong)
            assert not alike(whole, trained(texts, tokenizer, two, tmp_path))
    outcome = Causal.outcome

    def over_its_own(self, model, batch):
        found = outcome(self, model, batch)
        return replace(found, loss=found.loss._replace(sum=found.loss.sum / found.loss.count))

    monkeypatch.setattr(Causal, "outcome", over_its_own)
    assert not alike(whole, trained(texts, tokenizer, two, tmp_path))


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, context, texts, tokenizer, two, monkeypatch):
    settings = two.model_copy(update={"max_steps": 5, "checkpoint_every": 3})
    whole = train(context, "p", texts, tokenizer, None, settings)
    other = interrupted(monkeypatch, tmp_path / "other", "p", texts, tokenizer, None, settings)
    assert train(other, "p", texts, tokenizer, None, settings).content == whole.content


def test_pairs_of_a_reward_model_in_parts(tmp_path, context, texts, pairs, tokenizer, tiny):
    parent = train(context, "p", texts, tokenizer, None, tiny.model_copy(update={"max_steps": 1}))
    contents = [
        train(
            Context(tmp_path / str(number)), "r", pairs, tokenizer, parent,
            later(tiny, method="reward", max_steps=3, threads=threads),
        )
        for number, threads in enumerate((1, 2, 2))
    ]  # fmt: skip
    assert contents[1].content == contents[2].content
    one, two = (_losses(output) for output in contents[:2])
    assert np.allclose(one, two, rtol=1e-4)


def _losses(output) -> np.ndarray:
    from .test_train import columns

    return columns(output, "losses")["loss"]


def test_a_part_that_is_no_number_names_its_documents(tmp_path, texts, tokenizer, two, monkeypatch):
    honest, wrong = Causal.outcome, []

    def spoiled(self, model, batch):
        outcome = honest(self, model, batch)
        if threading.current_thread().name.startswith("crew") and 0 in batch.rows:
            wrong.append({self.data.ids[int(row)].as_py() for row in batch.rows})
            outcome = replace(outcome, loss=outcome.loss._replace(sum=outcome.loss.sum * float("nan")))
        return outcome

    monkeypatch.setattr(Causal, "outcome", spoiled)
    with pytest.raises(NonFiniteLossError, match="the loss is nan in documents") as error:
        trained(texts, tokenizer, two.model_copy(update={"max_steps": None}), tmp_path)
    named = re.findall("[0-9a-f]{32}", str(error.value))
    assert named
    assert set(named) <= wrong[0]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_model_that_draws_is_not_shared(tmp_path, texts, tokenizer, two, monkeypatch, dropout):
    config = GPT2Config(vocab_size=384, n_embd=32, n_layer=1, n_head=2, n_positions=64, pad_token_id=PAD)
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = dropout
    members, honest = [], Crew.__init__
    monkeypatch.setattr(Crew, "__init__", lambda self, given: members.append(len(given)) or honest(self, given))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED)
    trained(texts, tokenizer, two.model_copy(update={"max_steps": 1}), tmp_path, model=model)
    assert members == [1 if dropout else 2]
    assert without_dropout(model) is model


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_hold_every_unit_once_and_are_even(texts, pairs, two, parts):
    costs = Costs(answer=1.0, pair=0.01)
    for data, config in ((texts, two), (pairs, later(two, method="dpo"))):
        plan = make_plan(open_data(data), config)
        for units in plan.micro_batches(0, 512):
            found = split(plan, units, parts, costs)
            assert sorted(np.concatenate(found)) == sorted(units)
            loads = [costs.of(plan, part).sum() for part in found]
            assert len(found) == 1 or sum(loads) >= parallel.EVEN * parts * max(loads)
        assert len(split(plan, units[:1], parts, costs)) == 1  # there is nothing to share


def test_two_parts_are_near_the_best_that_there_are(texts, two):
    """Against all ways to share out eight units; to take the largest first alone is further away."""
    plan, chance, apart = make_plan(open_data(texts), two), np.random.default_rng(0), []
    for _ in range(50):
        each = chance.integers(20, 400, 8)
        given = replace(plan, length=each, in_loss=0 * each, prompt=0 * each, other_length=0 * each)
        found = split(given, np.arange(8), 2, Costs())
        best = min(max(sum(each[ways >> np.arange(8) & 1 == side]) for side in (0, 1)) for ways in range(256))
        apart.append(max(each[part].sum() for part in found) / best)
    assert np.mean(apart) < 1.01


def test_costs_count_what_is_computed(pairs, two):
    """Against plain loops over a pair: each query of either side with the keys that it sees, a prompt's once."""
    plan = make_plan(open_data(pairs), later(two, method="dpo"))
    for unit in range(5):
        prompt, lengths = int(plan.prompt[unit]), (int(plan.length[unit]), int(plan.other_length[unit]))
        queries = [*range(lengths[0]), *range(prompt, lengths[1])]
        seen = sum(query + 0.5 for query in queries)
        cost = Costs(answer=3.0, pair=0.25).of(plan, np.array([unit]))[0]
        assert cost == pytest.approx(len(queries) + 3 * plan.in_loss[unit] + 0.25 * seen)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_shares_update_as_one_optimiser_after_clipping(threads, tokenizer):
    """Against torch's own clipping and AdamW on the summed gradients. The bug that the last lines would find: a
    share that is clipped by its own norm."""
    torch.manual_seed(0)
    model = new_causal(TINY, VOCABULARY, find_specials(tokenizer.folder / "tokenizer"))
    other = copy.deepcopy(model)
    config = TrainConfig(model=TINY, weight_decay=0.1)
    models = [model, *(twin(model) for _ in range(threads - 1))]
    optimiser, reference = make_optimiser(model, config), make_optimiser(other, config)
    parts = shares(optimiser, models)
    assert sorted(id(one) for part in parts for one, *_ in part.copies) == sorted(map(id, model.parameters()))
    for _ in range(3):
        for one, *copies in zip(other.parameters(), *(each.parameters() for each in models), strict=True):
            for each in copies:
                each.grad = torch.randn_like(one)
            one.grad = sum(each.grad for each in copies) / 7
        for part in parts:
            part.gather()
        norm = float(torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0))
        norms = [float(part.norm()) / 7 for part in parts]
        assert norm > 1
        assert sum(one * one for one in norms) ** 0.5 == pytest.approx(norm)
        assert threads == 1 or max(norms) < 0.99 * norm
        for part in parts:
            part.update(0.01, 7 * norm)
        for group in reference.param_groups:
            group["lr"] = 0.01
        reference.step()
        for one, expected in zip(model.parameters(), other.parameters(), strict=True):
            assert one.grad is None
            assert torch.allclose(one, expected, atol=1e-5)
            assert float(optimiser.state[one]["step"]) == float(reference.state[expected]["step"])


def test_an_error_of_a_member_is_raised_once_all_have_ended():
    ended = []

    def work(member: int, item: int) -> int:
        if item == 0:
            raise KeyError("of the first")
        ended.append(item)
        return item

    before = torch.get_num_threads()
    with Crew([0, 1]) as crew:
        assert list(crew.each(lambda member, item: (member, item, torch.get_num_threads()), [5, 6, 7])) == [
            (0, 5, 1), (1, 6, 1), (0, 7, 1),
        ]  # fmt: skip
        with pytest.raises(KeyError, match="of the first"):
            list(crew.each(work, [0, 1]))
        assert ended in ([], [1])
    assert torch.get_num_threads() == before
