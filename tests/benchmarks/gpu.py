"""The trainers on a GPU: tokens a second and what share of the card that is, beside TRL, and equal to the CPU.

    python -m tests.benchmarks.gpu OUT                            # TRL in this Python's environment
    python -m tests.benchmarks.gpu OUT --toy --peer .peers/trl/bin/python    # a rehearsal on a CPU, in minutes

The shape is that of the preset `1b` (1.48 billion parameters), weights are random, tokens are drawn by Zipf's law
from 100,278 ids; documents, prompts and answers have log-normal lengths. The card's ceiling is its median bfloat16
product of two random 8192 x 8192 matrices. Operations are counted as they are done, without what gradient
checkpointing repeats: six for each parameter of a layer and token, six for each of the output matrix and token in
the loss, twelve for each number of a key that a query sees. What a part finds goes to OUT/results.jsonl at once. A
part that fails says so there; the others go on.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from curation.chat import SPECIAL_TOKENS, chat_template
from tests.parity.trl.rows import as_data, as_plan
from training import attention, loop
from training.causal_lm import Causal
from training.config import ModelConfig, TrainConfig
from training.data import Data
from training.dpo import DPO, Reference, pair_logps
from training.loop import fit
from training.model import (
    Specials,
    compile_blocks,
    device,
    fixed_arithmetic,
    load_causal,
    new_causal,
    reward_from_causal,
    save_model,
    trade_memory,
)
from training.plan import Plan, make_plan
from training.precision import bfloat16_gain, in_bfloat16
from training.ranks import Ranks
from training.reward import Reward
from training.size import rows as padded
from training.size import width

PEER = Path(__file__).parents[1] / "parity" / "trl" / "peer.py"
WARM = (
    2  # steps that are not counted: kernels are chosen and compiled, memory is taken; later ones may compile too
)
RATE = 1e-5
THREADS = 8 if torch.cuda.is_available() else 1
COMMON = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "betas": (0.9, 0.999)}
COMMON |= {"learning_rate": RATE, "threads": THREADS, "checkpoint_every": 1 << 20}


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    shape: ModelConfig
    vocabulary: int
    product: int  # rows of the matrices whose product is the ceiling
    longest: int  # tokens of a document
    document: int  # the median of its tokens
    step: int  # tokens of a step of documents
    micro: int  # and of a micro-batch
    turn: int  # the median tokens of a prompt, and of an answer
    pair: int  # tokens of a prompt and an answer, at most
    rows: int  # conversations, and half as many pairs, of a step
    peer_rows: int  # of a micro-batch of the peer
    steps: int


PRESET = TrainConfig(preset="1b").model
FULL = Scale(PRESET, 100_278, 8192, 8192, 600, 65_536, 8192, 200, 2048, 128, 16, 8)
TOY_SHAPE = ModelConfig(
    architecture="olmo3", hidden_size=64, layers=4, heads=4, max_position=256, sliding_window=24
)
TOY = Scale(TOY_SHAPE.model_copy(update={"tie_embeddings": False}), 1000, 256, 128, 20, 512, 256, 10, 64, 16, 4, 4)


def write_tokenizer(folder: Path, vocabulary: int) -> Specials:
    """A byte-level vocabulary of so many tokens: only its sizes and special tokens are looked at."""
    symbols = [chr(code) for code in range(256, 512)]
    plain = vocabulary - len(SPECIAL_TOKENS)
    tokens = {symbols[n % 256] + symbols[n // 256 % 256] + symbols[n // 65536]: n for n in range(plain)}
    tokenizer = Tokenizer(models.BPE(tokens, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[1]
    )
    fast.chat_template = chat_template()
    fast.save_pretrained(folder)
    return Specials(plain, plain + SPECIAL_TOKENS.index("<|end|>"), plain + 1)


class Rows:
    """Random rows, the same for a seed: a few ids are frequent, so that there is something to learn."""

    def __init__(self, scale: Scale, seed: int):
        self.scale, self.chance = scale, np.random.default_rng(seed)
        weights = 1 / (np.arange(scale.vocabulary - 300) + 10.0)
        self.ends = np.cumsum(weights / weights.sum())

    def tokens(self, count: int) -> list[int]:
        return np.searchsorted(self.ends, self.chance.random(count)).tolist()

    def length(self, median: float, sigma: float, longest: int) -> int:
        return int(np.clip(self.chance.lognormal(np.log(median), sigma), 4, longest))

    def documents(self, tokens: int) -> list[dict[str, list[int]]]:
        found = []
        while tokens > 0:
            found.append(
                {"prompt": [], "chosen": self.tokens(self.length(self.scale.document, 1.1, self.scale.longest))}
            )
            tokens -= len(found[-1]["chosen"])
        return found

    def pairs(self, count: int) -> list[dict[str, list[int]]]:
        half = self.scale.pair // 2
        sides = ("prompt", "chosen", "rejected")
        return [
            {side: self.tokens(self.length(self.scale.turn, 0.7, half)) for side in sides} for _ in range(count)
        ]


def operations(shape: ModelConfig, pieces: list[tuple[int, int]], in_loss: int, vocabulary: int) -> float:
    """Floating-point operations of forward and backward pass over pieces (tokens, tokens shared before them)."""
    tokens = sum(piece for piece, _ in pieces)
    keys = shape.hidden_size // shape.heads * (shape.kv_heads or shape.heads)
    layer = 2 * shape.hidden_size * (shape.hidden_size + keys) + 3 * shape.hidden_size * width(shape)
    total = 6.0 * tokens * shape.layers * layer + 6.0 * in_loss * vocabulary * shape.hidden_size
    seen, near = 0, 0
    for piece, shared in pieces:
        visible = np.arange(shared + 1, shared + piece + 1)
        seen += int(visible.sum())
        near += int(np.minimum(visible, shape.sliding_window).sum())
    windowed = sum((layer + 1) % 4 != 0 for layer in range(shape.layers)) if shape.architecture == "olmo3" else 0
    return total + 12.0 * shape.hidden_size * (windowed * near + (shape.layers - windowed) * seen)


def median(amounts: Sequence[float], seconds: Sequence[float]) -> float:
    """The median rate of the steps that count."""
    return float(np.median(np.divide(amounts, seconds)[WARM:]))


@dataclass
class Bench:
    scale: Scale
    out: Path
    work: Path
    specials: Specials
    tokenizer: Path
    began: float
    budget: float
    peer: str
    ceiling: float = float("nan")

    def say(self, **line: Any) -> None:
        line["at"] = round(time.perf_counter() - self.began, 1)
        with open(self.out / "results.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        short = {name: value for name, value in line.items() if name not in ("losses", "trace", "norms")}
        print(json.dumps(short), flush=True)

    def part(self, name: str, function: Callable[..., dict], *arguments: Any, **options: Any) -> None:
        if time.perf_counter() - self.began > self.budget:
            self.say(part=name, skipped="no time left")
            return
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            self.say(part=name, **function(*arguments, **options))
        except Exception as error:
            self.say(
                part=name, error=f"{type(error).__name__}: {error}"[:600], trace=traceback.format_exc()[-3000:]
            )

    def product(self) -> dict:
        """The ceiling: the median of twenty products, after three."""
        size = self.scale.product
        one, other = torch.randn(2, size, size, device=device()).bfloat16()
        times = []
        for _ in range(23):
            began = time.perf_counter()
            one @ other
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        self.ceiling = 2 * size**3 / float(np.median(times[3:]))
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        return {
            "card": name,
            "torch": torch.__version__,
            "tflops": self.ceiling / 1e12,
            "bfloat16_gain": bfloat16_gain(device()),
        }

    def model(self, config: TrainConfig, folder: Path | None = None):
        torch.manual_seed(0)
        with torch.device(device()):
            model = new_causal(self.scale.shape, self.scale.vocabulary, self.specials) if folder is None else None
        if model is None:
            load = (
                reward_from_causal(folder, self.specials.pad) if config.method == "reward" else load_causal(folder)
            )
            model = load.to(device())
        if config.precision == "bfloat16":
            model = in_bfloat16(model)
        if config.gradient_checkpointing:
            trade_memory(model)
        if config.compile:
            compile_blocks(model)
        return model

    def train(self, data: Data, plan: Plan, config: TrainConfig, folder: Path | None = None) -> dict:
        """Tokens a second of the rows as they stand, and the operations a second that were done for them."""
        vocabulary = padded(self.scale.vocabulary)
        steps, seconds, tokens, done, before = len(plan.steps) - 1, [], [], [], 0.0
        with fixed_arithmetic(config.threads, 0):
            model, losses, norms = self.model(config, folder), [], []
            method = Causal(data)
            if config.method == "reward":
                method = Reward(data)
            if config.method == "dpo":
                for rows in (np.arange(data.rows // steps), np.arange(data.rows)):  # the first warms up
                    began = time.perf_counter()
                    logps = pair_logps(model.eval(), data, rows, plan.longest, config.micro_batch_tokens)
                    before = time.perf_counter() - began
                method = DPO(data, Reference(*logps), 0.1)

            def watch(row: dict, _rows: list, elapsed: float) -> None:
                seconds.append(elapsed)
                tokens.append(row["tokens"])
                losses.append(row["loss"])
                norms.append(row["gradient_norm"])

            honest = loop.batch_of_units

            def counted(*given):
                batch = honest(*given)
                in_loss = 0 if config.method == "reward" else len(batch.targets)
                pieces = list(zip(batch.pieces, batch.shared, strict=True))
                done.append(operations(self.scale.shape, pieces, in_loss, vocabulary))
                return batch

            loop.batch_of_units = counted
            try:
                fit(model, method, data, plan, config, self.work / "progress", self.tokenizer, watch)
            finally:
                loop.batch_of_units = honest
        ends = np.cumsum([len(plan.micro_batches(step, config.micro_batch_tokens)) for step in range(steps)])
        per_step = [sum(part) for part in np.split(done, ends[:-1])]
        rate = median(per_step, seconds)
        found = {
            "tokens_per_second": median(tokens, seconds),
            "tflops": rate / 1e12,
            "share_of_ceiling": rate / self.ceiling,
            "seconds": [round(one, 3) for one in seconds],
            "tokens": tokens,
            "losses": losses,
            "norms": norms,
        }
        if config.method == "dpo":
            found["reference_seconds"] = before
            found["with_reference"] = 1 / (1 / found["tokens_per_second"] + before / sum(tokens))
        if torch.cuda.is_available():
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return found

    def documents(self, rows: list[dict], **changes: Any) -> dict:
        options = {"deterministic": True, "kernel": True}
        options = {name: changes.pop(name, value) for name, value in options.items()}
        settings = {"sequence_length": self.scale.longest, "batch_tokens": self.scale.step, **COMMON}
        settings |= {
            "micro_batch_tokens": self.scale.micro,
            "precision": "bfloat16",
            "max_steps": self.scale.steps,
        }
        config = TrainConfig(**settings | changes)
        data = as_data(rows, False, self.scale.vocabulary)
        patched = []
        if not options["kernel"]:
            patched.append((attention, "OPTIONS", frozenset()))
        if not options["deterministic"]:
            patched.append((torch, "use_deterministic_algorithms", lambda *_, **__: None))
        kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
        try:
            for owner, name, value in patched:
                setattr(owner, name, value)
            return self.train(data, make_plan(data, config), config)
        finally:
            for owner, name, value in kept:
                setattr(owner, name, value)

    def pairs(self, method: str, rows: list[dict], **changes: Any) -> dict:
        """SFT, reward or DPO on the rows that the peer gets, in its order; the model is the one in its folder."""
        settings = {"method": method, "sequence_length": self.scale.pair, "batch_tokens": 1 << 24, **COMMON}
        settings |= {"micro_batch_tokens": 2 * self.scale.micro, "precision": "bfloat16"}
        config = TrainConfig(**settings | changes)
        data = as_data(rows, method != "causal", self.scale.vocabulary)
        batch = len(rows) // self.scale.steps
        return self.train(data, as_plan(data, config, list(range(len(rows))), batch), config, self.work / "causal")

    def trl(self, method: str, rows: list[dict], attention_kind: str, batch: int, **settings: Any) -> dict:
        """TRL's trainer on the same rows, `batch` a micro-batch: as it does by default, bfloat16 by autocast over
        float32 weights."""
        on_gpu = torch.cuda.is_available()
        folder = self.work / "peer"
        folder.mkdir(exist_ok=True)
        step = len(rows) // self.scale.steps
        settings |= {"learning_rate": RATE, "weight_decay": 0.0, "bf16": True}
        settings |= {"gradient_accumulation_steps": step // batch, "dataloader_pin_memory": on_gpu}
        settings |= {
            "max_length": None if settings.get("padding_free") else self.scale.pair,
            "use_cpu": not on_gpu,
        }
        job = {
            "method": method, "model": str(self.work / "causal"), "rows": rows, "order": list(range(len(rows))),
            "batch": batch, "steps": self.scale.steps, "settings": settings, "threads": THREADS,
            "attention": attention_kind, "folder": str(folder), "weights": None, "values": False, "gate": False,
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job))
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        if self.peer != sys.executable:
            environment.pop("PYTHONPATH", None)
        left = max(20.0, self.budget + 60 - (time.perf_counter() - self.began))
        command = [self.peer, str(PEER), str(folder / "job.json")]
        with open(self.out / "peer.log", "a") as log:
            ran = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, timeout=left, check=False
            )
        told = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
        steps = [line for line in told if "loss" in line]
        if len(steps) < self.scale.steps:
            raise RuntimeError(f"the peer ended after {len(steps)} steps with code {ran.returncode}: see peer.log")
        sides = ("chosen",) if method == "sft" else ("chosen", "rejected")
        tokens = np.array([sum(len(row["prompt"]) + len(row[side]) for side in sides) for row in rows])
        tokens = tokens.reshape(self.scale.steps, step).sum(1)
        seconds = [line["wall"] for line in steps]
        return {
            "tokens_per_second": median(tokens, seconds),
            "seconds": [round(one, 3) for one in seconds],
            "tokens": tokens.tolist(),
            "losses": [float(line["loss"]) for line in steps],
            "norms": [float(line["grad_norm"]) for line in steps],
            "peak_gib": steps[-1].get("peak_gpu_gib"),
        }

    def equality(self) -> dict:
        """A tiny model, twenty steps: the largest relative difference of losses and of gradient norms."""
        rows = Rows(TOY, 5).documents(20 * 512)
        data, found = as_data(rows, False, TOY.vocabulary), {}
        own = replace(self, scale=TOY)
        tokenizer = self.work / "toy-tokenizer"
        own.specials, own.tokenizer = write_tokenizer(tokenizer, TOY.vocabulary), tokenizer

        def run(place: str, **changes: Any) -> np.ndarray:
            settings = {"sequence_length": 128, "batch_tokens": 512, "micro_batch_tokens": 256, "max_steps": 20}
            config = TrainConfig(**settings | COMMON | {"learning_rate": 3e-3, "z_loss": 1e-4} | changes)
            torch.manual_seed(1)
            model = new_causal(TOY.shape, TOY.vocabulary, own.specials).to(place)
            model = in_bfloat16(model) if config.precision == "bfloat16" else model
            there, loop.device = loop.device, lambda: torch.device(place)
            lines = []
            try:
                with fixed_arithmetic(1, 0):
                    folder, method = self.work / "equality", Causal(data, config.z_loss)
                    watch = lambda row, *_: lines.append((row["loss"], row["gradient_norm"]))  # noqa: E731
                    fit(model, method, data, make_plan(data, config), config, folder, tokenizer, watch)
            finally:
                loop.device = there
            return np.array(lines).T

        def apart(one: np.ndarray, other: np.ndarray) -> list[float]:
            return (np.abs(one - other) / np.abs(other)).max(1).tolist()

        here = device().type
        cpu, gpu = run("cpu"), run(here)
        found["steps"] = cpu.shape[1]
        found["float32_against_cpu"] = apart(gpu, cpu)
        found["again"] = apart(run(here), gpu)
        found["unpacked"] = apart(run(here, micro_batch_tokens=128), gpu)  # most documents in a row of their own
        if here == "cuda":
            rounded = run(here, precision="bfloat16")
            found["bfloat16_against_cpu"] = apart(rounded, cpu)
            found["bfloat16_again"] = apart(run(here, precision="bfloat16"), rounded)
            found["bfloat16_unpacked"] = apart(run(here, precision="bfloat16", micro_batch_tokens=128), rounded)
        return found

    def sharded(self) -> dict:
        """FSDP2 by NCCL with the one process that one card allows: the same losses as without."""
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555", "RANK": "0", "WORLD_SIZE": "1"}
        rows = Rows(TOY, 6).documents(8 * 512)
        data, lines = as_data(rows, False, TOY.vocabulary), []
        tokenizer = self.work / "toy-tokenizer"
        specials = write_tokenizer(tokenizer, TOY.vocabulary)
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        try:
            for sharding in ("none", "full"):
                settings = {"sequence_length": 128, "batch_tokens": 512, "micro_batch_tokens": 256}
                config = TrainConfig(**settings | COMMON | {"processes": 2, "sharding": sharding})
                torch.manual_seed(1)
                model = new_causal(TOY.shape, TOY.vocabulary, specials).to(device())
                losses: list[float] = []
                with fixed_arithmetic(1, 0):
                    plan, place = make_plan(data, config), self.work / "sharded"
                    watch = lambda row, *_: losses.append(row["loss"])  # noqa: B023, E731
                    fit(model, Causal(data), data, plan, config, place, tokenizer, watch, Ranks())
                lines.append(losses)
        finally:
            torch.distributed.destroy_process_group()
        return {"steps": len(lines[0]), "apart": float(np.abs(np.subtract(*lines)).max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--peer", default=sys.executable, help="Python of TRL's environment; default: this one")
    parser.add_argument("--parts", nargs="+", default=[], help="in this order; none: all")
    parser.add_argument("--budget", type=float, default=420, help="seconds after which no part is begun")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--toy", action="store_true", help="a tiny model, to rehearse on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:  # the model's folder takes 6 GB
        measure(options, Path(temporary))


def measure(options: argparse.Namespace, work: Path) -> None:
    scale = TOY if options.toy else FULL
    scale = replace(scale, steps=options.steps or scale.steps)
    torch.set_num_threads(THREADS)
    specials = write_tokenizer(work / "tokenizer", scale.vocabulary)
    bench = Bench(
        scale, options.out, work, specials, work / "tokenizer", time.perf_counter(), options.budget, options.peer
    )
    documents = Rows(scale, 1).documents((scale.steps + 1) * scale.step)
    pairs = Rows(scale, 2).pairs(scale.steps * scale.rows)
    half = pairs[: len(pairs) // 2]

    def save() -> dict:
        torch.manual_seed(0)
        with torch.device(device()):
            model = new_causal(scale.shape, scale.vocabulary, specials)
        save_model(model, work / "tokenizer", work / "causal")
        return {"parameters": sum(parameter.numel() for parameter in model.parameters())}

    compiled, twice = {"compile": True}, {"micro_batch_tokens": 2 * scale.micro}
    kernel = {"padding_free": True, "gradient_checkpointing": False}
    parts: list[tuple[str, Callable[..., dict], tuple, dict]] = [
        ("equality", bench.equality, (), {}),
        ("documents compiled", bench.documents, (documents,), compiled),
        ("model", save, (), {}),
        ("sft compiled", bench.pairs, ("causal", pairs), compiled),
        ("trl sft packed", bench.trl, ("sft", pairs, "varlen", scale.peer_rows), kernel),
        ("dpo compiled", bench.pairs, ("dpo", half), compiled),
        ("trl dpo", bench.trl, ("dpo", half, "sdpa", scale.peer_rows // 2), {}),
        ("reward compiled", bench.pairs, ("reward", half), compiled),
        ("documents compiled twice as many", bench.documents, (documents,), compiled | twice),
        ("documents eager", bench.documents, (documents,), {}),
        (
            "documents compiled checkpointed",
            bench.documents,
            (documents,),
            compiled | twice | {"gradient_checkpointing": True},
        ),
        ("trl sft", bench.trl, ("sft", pairs, "sdpa", scale.peer_rows), {}),
        (
            "trl dpo kept",
            bench.trl,
            ("dpo", half, "sdpa", scale.peer_rows // 4),
            {"gradient_checkpointing": False},
        ),
        ("sft eager", bench.pairs, ("causal", pairs), {"micro_batch_tokens": scale.micro}),
        ("dpo eager", bench.pairs, ("dpo", half), {"micro_batch_tokens": scale.micro}),
        ("documents eager by slices", bench.documents, (documents,), {"kernel": False}),
        (
            "documents compiled not deterministic",
            bench.documents,
            (documents,),
            compiled | {"deterministic": False},
        ),
        ("documents float32", bench.documents, (documents,), {"precision": "float32", "max_steps": 3}),
        ("sharded", bench.sharded, (), {}),
    ]
    bench.part("product", bench.product)
    known = {part[0]: part for part in parts}
    for name in dict.fromkeys(["model", *(options.parts or known)]):
        _, function, arguments, changes = known[name]
        bench.part(name, function, *arguments, **changes)


if __name__ == "__main__":
    main()
