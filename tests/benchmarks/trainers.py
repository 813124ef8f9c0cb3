"""Tokens a second of the three trainers beside TRL's, in turns, step by step, on the same rows.

    make parity-trainers     # once: builds TRL's environment
    MIXWRIGHT_DATA=... python -m tests.benchmarks.trainers --peer .peers/trl/bin/python

A Llama shape of 13 million parameters with a 16k vocabulary, pairs of hh-rlhf of at most 512 tokens a side, 8 rows
a step, float32, AdamW without decay at a constant rate. Both sides start from the same weights and get the same
rows in the same order; they take turns step by step, so that whatever else runs here slows both. Tokens
are those of the rows, prompt and answer of each side, without padding, however often a side computes them.
Between the turns a matrix product is timed. Fails if the losses of a step differ by more than 1e-3.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from curation.chat import SPECIAL_TOKENS, chat_template
from tests.parity.trl.rows import as_data, as_plan
from training.causal_lm import Causal
from training.config import ModelConfig, TrainConfig
from training.dpo import DPO, Reference, pair_logps
from training.loop import fit
from training.model import (
    find_specials,
    fixed_arithmetic,
    load_causal,
    load_reward,
    new_causal,
    reward_from_causal,
    save_model,
)
from training.precision import in_bfloat16
from training.reward import Reward

PEER = Path(__file__).parents[1] / "parity" / "trl" / "peer.py"
SHAPE = ModelConfig(hidden_size=320, layers=6, heads=5, intermediate_size=864, max_position=1024)
LONGEST = 512  # tokens of a side; longer pairs are left out, as TRL's reward trainer does
BATCH = 8
RATE = 1e-4
METHODS = {"sft": "causal", "reward": "reward", "dpo": "dpo"}


def transcripts(root: Path, at_most: int) -> list[dict[str, list[tuple[str, str]]]]:
    """Pairs of hh-rlhf as {prompt, chosen, rejected}, lists of (role, content); identical answers are left out."""
    found = []
    with gzip.open(root / "preferences/hh-rlhf/harmless-base.train.jsonl.gz", "rt") as lines:
        for line in lines:
            chosen, rejected = (_turns(json.loads(line)[side]) for side in ("chosen", "rejected"))
            if (
                chosen[:-1] == rejected[:-1]
                and chosen != rejected
                and chosen[-1][0] == rejected[-1][0] == "assistant"
            ):
                found.append({"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]})
    return found[:at_most]


def _turns(text: str) -> list[tuple[str, str]]:
    pieces = re.split(r"\n\n(Human|Assistant): ", text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [(roles[role], content.strip()) for role, content in zip(pieces[::2], pieces[1::2], strict=True)]


def train_tokenizer(folder: Path, texts: list[str], vocabulary: int) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[1]
    )
    fast.chat_template = chat_template()
    fast.save_pretrained(folder)


def encode(tokenizer: PreTrainedTokenizerFast, pairs: list[dict]) -> list[dict[str, list[int]]]:
    """Token ids; the mark of the assistant's turn belongs to the prompt, as with TRL's generation prompt."""
    names = tokenizer.get_vocab()
    end, marks = names["<|end|>"], {role: names[f"<|{role}|>"] for role in ("user", "assistant")}

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    rows = []
    for pair in pairs:
        prompt = [token for role, content in pair["prompt"] for token in (marks[role], *ids(content), end)]
        row = {"prompt": [*prompt, marks["assistant"]]}
        row |= {side: [*ids(pair[side][0][1]), end] for side in ("chosen", "rejected")}
        if len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"])) <= LONGEST:
            rows.append(row)
    return rows


class Ours:
    """Our loop, one step at a time: a generator of losses and seconds."""

    def __init__(self, method: str, rows: list[dict], model: Path, folder: Path, options: argparse.Namespace):
        self.data = as_data(rows, method != "sft", options.vocabulary)
        self.config = TrainConfig(
            method=METHODS[method],
            sequence_length=LONGEST,
            batch_tokens=1 << 20,
            micro_batch_tokens=options.micro_batch_tokens,
            learning_rate=RATE,
            warmup_steps=0,
            schedule="constant",
            weight_decay=0.0,
            betas=(0.9, 0.999),
            threads=options.threads,
            precision=options.precision,
            checkpoint_every=1 << 20,
        )
        self.plan = as_plan(self.data, self.config, list(range(len(rows))), BATCH)
        self.method, self.model_folder, self.folder, self.steps = method, model, folder, []

    def run(self, turn) -> None:
        with fixed_arithmetic(self.config.threads, 0):
            model = (load_reward if self.method == "reward" else load_causal)(self.model_folder)
            if self.config.precision == "bfloat16":
                model = in_bfloat16(model)
            began = time.perf_counter(), time.process_time()
            method = self._method(model)
            self.before = time.perf_counter() - began[0], time.process_time() - began[1]
            self.clock = time.perf_counter(), time.process_time()

            def watch(row: dict, _rows: list, _seconds: float) -> None:
                wall, cpu = time.perf_counter() - self.clock[0], time.process_time() - self.clock[1]
                self.steps.append({"loss": row["loss"], "wall": wall, "cpu": cpu})
                turn()
                self.clock = time.perf_counter(), time.process_time()

            turn()
            forget_peak()
            self.clock = time.perf_counter(), time.process_time()
            fit(model, method, self.data, self.plan, self.config, self.folder, self.model_folder, watch)
            self.peak_mib = peak_mib()

    def _method(self, model):
        if self.method == "sft":
            return Causal(self.data)
        if self.method == "reward":
            return Reward(self.data)
        rows = np.arange(self.data.rows)
        logps = pair_logps(model.eval(), self.data, rows, LONGEST, self.config.micro_batch_tokens)
        return DPO(self.data, Reference(*logps), 0.1)


class Peer:
    """TRL in its own process, which waits for its turn before each step."""

    def __init__(self, method: str, rows: list[dict], model: Path, folder: Path, options: argparse.Namespace):
        settings = {"learning_rate": RATE, "weight_decay": 0.0, "max_length": LONGEST}
        settings |= {"gradient_checkpointing": options.checkpointing}
        if method == "dpo":
            settings["precompute_ref_log_probs"] = options.precompute
        job = {
            "method": method,
            "model": str(model),
            "rows": rows,
            "order": list(range(len(rows))),
            "batch": BATCH,
            "steps": len(rows) // BATCH,
            "settings": settings,
            "threads": options.threads,
            "attention": "sdpa",
            "folder": str(folder),
            "weights": None,
            "values": False,
            "gate": True,
        }
        (folder / "job.json").write_text(json.dumps(job))
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            [options.peer, str(PEER), str(folder / "job.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log.txt").open("w"),
            text=True,
            env=environment,
        )
        self.steps = []
        if json.loads(self.process.stdout.readline() or "{}") != {"ready": True}:
            raise RuntimeError(f"the peer did not start:\n{(folder / 'log.txt').read_text()[-3000:]}")

    def step(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.steps.append(json.loads(self.process.stdout.readline()))


def forget_peak() -> None:
    """Begin anew with this process's highest resident memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """This process's highest resident memory since."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def product_rate(size: int = 1024) -> float:
    """Floating-point operations a second of a float32 matrix product of this size, the best of three."""
    a, b = torch.randn(2, size, size)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def compare(method: str, rows: list[dict], model: Path, folder: Path, options: argparse.Namespace) -> dict:
    ours, steps, rates = Ours(method, rows, model, folder / "progress", options), len(rows) // BATCH, []
    peer = Peer(method, rows, model, folder, options) if options.peer else None

    def turn() -> None:
        rates.append(product_rate())
        if peer is not None and len(peer.steps) < steps:
            peer.step()

    ours.run(turn)
    sides = ("chosen", "rejected") if method != "sft" else ("chosen",)
    tokens = np.array([sum(len(row["prompt"]) + len(row[side]) for side in sides) for row in rows])
    tokens = tokens.reshape(steps, BATCH).sum(1)
    return {"tokens": tokens, "ours": ours, "peer": peer, "rates": rates}


def report(method: str, found: dict) -> bool:
    """Print a block; whether the losses agree. The first step of each side, which warms up, is not counted."""
    ours, peer, tokens = found["ours"].steps, found["peer"], found["tokens"]

    def speed(steps: list[dict], clock: str, extra: float = 0.0) -> float:
        return tokens[1:].sum() / (sum(step[clock] for step in steps[1:]) + extra)

    share = tokens[1:].sum() / tokens.sum()
    before = {"wall": found["ours"].before[0] * share, "cpu": found["ours"].before[1] * share}
    print(f"{method}: {len(ours)} steps of {BATCH} rows, {tokens.sum()} tokens")
    print(f"  matrix product {np.median(found['rates']) / 1e9:.0f} GFLOP/s (median)")
    for name, steps, extra in (("ours", ours, before), ("trl", peer.steps if peer else None, None)):
        if steps is None:
            continue
        line = f"  {name:5}" + "".join(
            f" {clock} {speed(steps, clock):8.0f} tokens/s" for clock in ("wall", "cpu")
        )
        if method == "dpo" and extra:
            line += f"; with the reference's pass {speed(steps, 'wall', extra['wall']):.0f}"
            line += f" and {speed(steps, 'cpu', extra['cpu']):.0f}"
        print(line)
    if peer is None:
        print(f"  peak memory: ours {found['ours'].peak_mib:.0f} MiB")
        return True
    ratios = {
        clock: speed(ours, clock, before[clock] if method == "dpo" else 0) / speed(peer.steps, clock)
        for clock in before
    }
    print(f"  times TRL: wall {ratios['wall']:.2f}, cpu {ratios['cpu']:.2f}")
    print(f"  peak memory: ours {found['ours'].peak_mib:.0f} MiB, trl {peer.steps[-1]['peak_mib']:.0f}")
    apart = max(abs(a["loss"] - float(b["loss"])) for a, b in zip(ours, peer.steps, strict=True))
    print(f"  losses differ by {apart:.2e} at most; ours {ours[0]['loss']:.4f} to {ours[-1]['loss']:.4f}")
    return apart < 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=None, help="Python of TRL's environment; without it, ours alone")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument(
        "--checkpointing", action=argparse.BooleanOptionalAction, default=True, help="TRL's default"
    )
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of our side")
    parser.add_argument("--precompute", action="store_true", help="let TRL compute the reference beforehand")
    options = parser.parse_args()
    root = os.environ.get("MIXWRIGHT_DATA")
    if not root:
        parser.error("MIXWRIGHT_DATA is not set: it names the folder with preferences/hh-rlhf")
    torch.set_num_threads(options.threads)
    pairs, agree = transcripts(Path(root), 2000), True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = [content for pair in pairs for side in pair.values() for _, content in side]
        train_tokenizer(folder / "tokenizer", texts, options.vocabulary)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        rows = encode(tokenizer, pairs)[: options.steps * BATCH]
        specials = find_specials(folder / "tokenizer")
        torch.manual_seed(0)
        model = new_causal(SHAPE, options.vocabulary, specials)
        print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
        save_model(model, folder / "tokenizer", folder / "causal")
        save_model(reward_from_causal(folder / "causal", specials.pad), folder / "tokenizer", folder / "reward")
        for method in options.methods:
            place = folder / f"run-{method}"
            place.mkdir()
            kind = "reward" if method == "reward" else "causal"
            agree &= report(method, compare(method, rows, folder / kind, place, options))
    return int(not agree)


if __name__ == "__main__":
    sys.exit(main())
