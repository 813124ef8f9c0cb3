"""Do products in bfloat16 cost anything but time? Held-out figures of models trained in float32 and in bfloat16.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.precision

A small Llama shape over pairs of hh-rlhf: supervised from random weights on the chosen answers, then as a reward
model and by DPO from the float32 one, each in both precisions, on the same rows in the same order; every seed
draws weights and an order of its own. The last 400 pairs are held out and scored in float32.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from tests.benchmarks.trainers import LONGEST, METHODS, encode, train_tokenizer, transcripts
from tests.parity.trl.rows import as_data, as_plan
from training.batch import batch_of_units
from training.causal_lm import Causal
from training.config import ModelConfig, TrainConfig
from training.dpo import DPO, Reference, pair_logps
from training.loop import fit
from training.model import (
    device,
    find_specials,
    fixed_arithmetic,
    load_causal,
    new_causal,
    reward_from_causal,
    save_model,
)
from training.precision import in_bfloat16
from training.reward import Reward

SHAPE = ModelConfig(hidden_size=192, layers=4, heads=4, max_position=LONGEST)
VOCABULARY, BATCH, HELD_OUT = 4096, 8, 400
RATES = {"sft": 2e-3, "reward": 3e-4, "dpo": 3e-4}


def method_of(name: str, data, start: Path):
    if name == "sft":
        return Causal(data)
    if name == "reward":
        return Reward(data)
    logps = pair_logps(load_causal(start).eval(), data, np.arange(data.rows), LONGEST, 4096)
    return DPO(data, Reference(*logps), 0.1)


@torch.no_grad()
def held_out(name: str, model, rows: list[dict], start: Path) -> dict[str, float]:
    """The mean loss, and the share of pairs that are told right."""
    data = as_data(rows, name != "sft", VOCABULARY)
    plan = as_plan(data, TrainConfig(method=METHODS[name], sequence_length=LONGEST), list(range(len(rows))), BATCH)
    method, found, right = method_of(name, data, start), [], []
    for first, last in zip(plan.steps[:-1], plan.steps[1:], strict=True):
        outcome = method.outcome(model, batch_of_units(data, plan, np.arange(first, last), device()))
        found.append(outcome.loss.each)
        right += [outcome.metrics[key] for key in ("accuracy", "rewards/accuracies") if key in outcome.metrics]
    result = {"loss": float(torch.cat(found).double().mean())}
    return result | ({"accuracy": float(torch.cat(right).mean())} if right else {})


def train(name: str, precision: str, rows: list[dict], start: Path, seed: int, threads: int, folder: Path):
    """The model after one pass over the rows in an order of the seed, and the processor seconds of its steps."""
    data = as_data(rows, name != "sft", VOCABULARY)
    config = TrainConfig(
        method=METHODS[name],
        sequence_length=LONGEST,
        batch_tokens=1 << 20,
        micro_batch_tokens=4096,
        learning_rate=RATES[name],
        threads=threads,
        precision=precision,
        checkpoint_every=1 << 20,
    )
    plan = as_plan(data, config, np.random.default_rng(seed).permutation(len(rows)).tolist(), BATCH)
    with fixed_arithmetic(threads, seed):
        model = reward_from_causal(start, 1) if name == "reward" else load_causal(start)
        method = method_of(name, data, start)
        if precision == "bfloat16":
            model = in_bfloat16(model)
        began = time.process_time()
        fit(model, method, data, plan, config, folder, start, lambda *_: None)
        seconds = time.process_time() - began
    vars(model.base_model).pop("forward", None)  # scored in float32
    return model, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300, help="of supervised training; pairs get a third")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pairs = transcripts(Path(os.environ["MIXWRIGHT_DATA"]), 4 * HELD_OUT + 2 * BATCH * options.steps)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = [content for pair in pairs for side in pair.values() for _, content in side]
        train_tokenizer(folder / "tokenizer", texts, VOCABULARY)
        rows = encode(PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"), pairs)
        held, rows = rows[-HELD_OUT:], rows[: BATCH * options.steps]
        for seed in range(options.seeds):
            start, tuned = folder / f"start-{seed}", folder / f"tuned-{seed}"
            torch.manual_seed(seed)
            save_model(
                new_causal(SHAPE, VOCABULARY, find_specials(folder / "tokenizer")), folder / "tokenizer", start
            )
            for name in METHODS:
                fed = rows if name == "sft" else rows[: len(rows) // 3]
                for precision in ("float32", "bfloat16"):
                    place = folder / f"{seed}-{name}-{precision}"
                    parent = start if name == "sft" else tuned
                    model, seconds = train(name, precision, fed, parent, seed, options.threads, place)
                    found = held_out(name, model.eval(), held, parent)
                    told = ", ".join(f"{key} {value:.4f}" for key, value in found.items())
                    print(f"seed {seed} {name:7}{precision:9} held-out {told}; {seconds:.0f} s", flush=True)
                    if name == "sft" and precision == "float32":
                        save_model(model, folder / "tokenizer", tuned)


if __name__ == "__main__":
    main()
