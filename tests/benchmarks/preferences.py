"""Whether the pair trainers learn: a reward model and DPO on human preferences, from a model of our own.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.preferences

Pretrains Llama shapes of several sizes on film reviews, papers, speeches and web text, then trains on pairs of
arguments of which people said which is the more convincing (UKPConvArg1), with whole debates held out:

- a reward model of each size, on a sixteenth, a quarter and all of the pairs: accuracy on held-out pairs with its
  bootstrap interval, the accuracy of "the longer one" beside it (after the scaling figure of Llama 2's report);
- with the last size, supervised training on the chosen arguments, then DPO in each of the ways given, of which
  other debates choose one: its implicit reward's accuracy on held-out pairs before (chance, by definition) and
  after, and the reward model's score of arguments that the policy writes on held-out topics, before and after,
  with the interval of the difference.

On a GPU, larger shapes and all of the text take minutes:

    ... preferences --characters 30000000 --batch-tokens 32768 --shapes 128x4 256x6 512x8
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.benchmarks.corpus import json_lines, paper_texts
from tests.benchmarks.trainers import train_tokenizer
from tests.parity.trl.rows import as_data
from training.batch import make_batch
from training.causal_lm import Causal
from training.config import EvaluateConfig, ModelConfig, TrainConfig
from training.data import Data
from training.dpo import DPO, Reference, pair_logps
from training.loop import fit
from training.model import (
    device,
    find_specials,
    fixed_arithmetic,
    load_causal,
    load_reward,
    new_causal,
    reward_from_causal,
    save_model,
)
from training.outcome import Method
from training.pair_accuracy import pair_accuracy
from training.plan import make_plan
from training.reward import Reward, scores
from training.samples import _generate

VOCABULARY = 4096
LONGEST = 192  # tokens of a side
HELD_OUT = ("is-the-school-uniform", "personal-pursuit", "gay-marriage")  # debates, both sides of each
CHOOSING = ("is-it-better-to-have", "william-farquhar")  # debates by which the way of DPO is chosen
POLICIES = ("sigmoid:5e-5:0", "sigmoid:5e-5:0.2", "sigmoid_norm:5e-5:0", "sigmoid_norm:2e-4:0", "ipo:5e-5:0")
BETA = {"sigmoid_norm": 2.0}  # of a mean over tokens; 0.1 elsewhere
SHARES = (1 / 16, 1 / 4, 1)


def shape(name: str) -> ModelConfig:
    """A Llama shape: "64x2" is 64 wide in two layers, with heads of 32."""
    width, layers = map(int, name.split("x"))
    return ModelConfig(hidden_size=width, layers=layers, heads=width // 32, max_position=LONGEST)


def arguments(root: Path) -> tuple[list[dict], list[dict], list[dict]]:
    """Pairs {prompt (the side of the debate), chosen, rejected}: to train on, of CHOOSING, of HELD_OUT."""
    parts: tuple[list[dict], list[dict], list[dict]] = ([], [], [])
    for path in sorted((root / "preferences/ukpconvarg1-strict").glob("*.csv.gz")):
        topic = path.name.removesuffix(".csv.gz").replace("-", " ").replace("_", ": ")
        table = io.StringIO(gzip.decompress(path.read_bytes()).decode())
        rows = csv.reader(table, "excel-tab", quoting=csv.QUOTE_NONE)
        next(rows)
        for _, label, first, second in rows:
            chosen, rejected = (first, second) if label == "a1" else (second, first)
            pair = {"prompt": topic, "chosen": chosen, "rejected": rejected}
            parts[2 if path.name.startswith(HELD_OUT) else int(path.name.startswith(CHOOSING))].append(pair)
    return parts


def texts(root: Path, characters: int) -> list[str]:
    """Film reviews, web pages, speeches and papers in turns, up to so many characters."""
    files = ("movie-reviews.jsonl.zst", "c4-sample.jsonl.gz", "speeches-state-union.jsonl.zst")
    found = [row["text"] for name in files for row in json_lines(root / "text" / name)] + paper_texts(root)
    order = np.random.default_rng(0).permutation(len(found))
    chosen, size = [], 0
    for place in order.tolist():
        chosen.append(found[place])
        size += len(found[place])
        if size > characters:
            break
    return chosen


class Bench:
    """The stages, each a call of the loop on rows in memory."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast, threads: int, batch_tokens: int):
        self.folder, self.tokenizer, self.threads, self.batch_tokens = folder, tokenizer, threads, batch_tokens
        self.specials = find_specials(folder / "tokenizer")
        self.runs = 0

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def rows(self, pairs: list[dict]) -> list[dict]:
        marks = self.tokenizer.get_vocab()
        rows = []
        for pair in pairs:
            prompt = [marks["<|user|>"], *self.ids(pair["prompt"]), self.specials.end_of_turn]
            prompt.append(marks["<|assistant|>"])
            sides = {side: [*self.ids(pair[side]), self.specials.end_of_turn] for side in ("chosen", "rejected")}
            rows.append({"prompt": prompt, "source": "arguments", **sides})
        return rows

    def train(self, model: PreTrainedModel, objective: Method, data: Data, **settings) -> list[dict]:
        """Train the model in place; returns a row of losses and metrics a step."""
        given = {"batch_tokens": 4096, "threads": self.threads, "weight_decay": 0.01} | settings
        given["micro_batch_tokens"] = given["batch_tokens"]
        config = TrainConfig(**{**given, "sequence_length": LONGEST, "checkpoint_every": 1 << 20})
        steps: list[dict] = []
        self.runs += 1
        fit(
            model,
            objective,
            data,
            make_plan(data, config),
            config,
            self.folder / f"progress-{self.runs}",
            self.folder / "tokenizer",
            lambda row, *_: steps.append(row),
        )
        return steps

    def pretrain(self, shape: ModelConfig, documents: list[str], folder: Path) -> list[dict]:
        torch.manual_seed(0)
        model = new_causal(shape, VOCABULARY, self.specials)
        rows = [{"prompt": [], "chosen": [*self.ids(text), self.specials.end_of_text]} for text in documents]
        data = as_data(rows, False, VOCABULARY)
        steps = self.train(
            model.to(device()), Causal(data), data, learning_rate=3e-3, batch_tokens=self.batch_tokens
        )
        save_model(model, self.folder / "tokenizer", folder)
        return steps


def evaluation(threads: int) -> EvaluateConfig:
    return EvaluateConfig(pair_tokens=LONGEST, pairs=100_000, threads=threads)


def shown(line: dict) -> str:
    return f"{line['accuracy']:.3f} ({line['accuracy_low']:.3f} to {line['accuracy_high']:.3f})"


def reward_models(
    bench: Bench, name: str, backbone: Path, train: list[dict], held: Data, shares: list[float]
) -> Path:
    """Accuracy by the share of the pairs; the folder of the model of all pairs."""
    order = np.random.default_rng(1).permutation(len(train))
    for share in shares:
        some = [train[place] for place in order[: round(len(train) * share)].tolist()]
        data = as_data(some, True, VOCABULARY)
        torch.manual_seed(0)
        model = reward_from_causal(backbone, bench.specials.pad).to(device())
        began = time.process_time()
        steps = bench.train(model, Reward(data, 0.01), data, method="reward", centring=0.01, learning_rate=1e-3)
        with torch.no_grad():
            found = pair_accuracy(model.eval(), "reward", held, None, evaluation(bench.threads))
        lengths = " ".join(f"{kind}: {line['accuracy']:.3f};" for kind, line in found["by_length"].items())
        print(
            f"  {name}, {len(some)} pairs: held-out accuracy {shown(found['all'])}, {lengths} calibration error "
            f"{found['calibration_error']:.3f}, training loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}, "
            f"{time.process_time() - began:.0f} s",
            flush=True,
        )
    folder = bench.folder / f"reward-{name}"
    save_model(model, bench.folder / "tokenizer", folder)
    return folder


def preference(
    bench: Bench, backbone: Path, judge: PreTrainedModel, train: list[dict], parts: tuple[Data, Data], options
) -> None:
    """Supervised training, DPO in each way, and what the implicit reward and the judge say of the one chosen."""
    policy = load_causal(backbone).to(device())
    chosen = as_data(train, False, VOCABULARY)
    steps = bench.train(policy, Causal(chosen), chosen, learning_rate=1e-3)
    print(f"  supervised: loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}")
    start = bench.folder / "supervised" / "model"
    save_model(policy, bench.folder / "tokenizer", start)
    data = as_data(train, True, VOCABULARY)
    logps = pair_logps(policy.eval(), data, np.arange(data.rows), LONGEST, 4096)
    reference = Reference(*logps)
    choosing, held = parts
    before = written(bench, policy, judge, held, options.samples)
    best, best_accuracy = policy, -1.0
    for way in options.policies:
        kind, rate, weight = way.split(":")
        settings = {"dpo_loss": kind, "beta": BETA.get(kind, 0.1), "sft_weight": float(weight)}
        other = load_causal(start).to(device())
        method = DPO(data, reference, settings["beta"], kind, 0.0, settings["sft_weight"])
        steps = bench.train(other, method, data, method="dpo", learning_rate=float(rate), **settings)
        accuracy = implicit(bench, other, start, choosing)["all"]
        fed = np.mean([step["rewards/accuracies"] for step in steps[-10:]])
        print(
            f"    DPO {way}: pairs it was fed last {fed:.3f}, debates to choose by {shown(accuracy)}", flush=True
        )
        if accuracy["accuracy"] > best_accuracy:
            best, best_accuracy, name = other, accuracy["accuracy"], way
    found = implicit(bench, best, start, held)
    print(f"  {name}: implicit accuracy on held-out pairs {shown(found['all'])}; before DPO every margin is zero")
    for kind, line in found["by_length"].items():
        print(f"    {kind}: {shown(line)} of {line['pairs']}")
    after = written(bench, best, judge, held, options.samples)
    change = after - before
    draws = np.random.default_rng(0).choice(change, (2000, len(change))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    print(
        f"  the reward model's score of {len(change)} written arguments: {before.mean():.3f} before, "
        f"{after.mean():.3f} after; difference {change.mean():.3f} ({low:.3f} to {high:.3f})"
    )


def implicit(bench: Bench, policy: PreTrainedModel, start: Path, pairs: Data) -> dict:
    with torch.no_grad():
        reference = SimpleNamespace(folder=start.parent)
        return pair_accuracy(policy.eval(), "dpo", pairs, reference, evaluation(bench.threads))


@torch.no_grad()
def written(bench: Bench, policy: PreTrainedModel, judge: PreTrainedModel, held: Data, count: int) -> np.ndarray:
    """The judge's scores of one argument of the policy for each of `count` held-out prompts, at temperature 1.

    An argument that does not end within its tokens gets the end of a turn: the judge reads its score there.
    """
    policy.eval().set_attn_implementation("sdpa")
    result = []
    rows = np.random.default_rng(2).choice(held.rows, count)
    for number, row in enumerate(rows.tolist()):
        start, length = int(held.start[row]), int(held.prompt[row])
        prompt = held.tokens[start : start + length].tolist()
        torch.manual_seed(number)
        made = _generate(policy, prompt, VOCABULARY, 64, 1.0)
        tokens = prompt + [token for token in made if token != bench.specials.end_of_turn]
        tokens.append(bench.specials.end_of_turn)
        one = replace(held, tokens=np.array(tokens), mask=np.ones(len(tokens), np.uint8))
        nothing = np.zeros(1, np.int64)
        batch = make_batch(one, nothing, nothing, np.array([len(tokens)]), nothing, device())
        result.append(float(scores(judge, batch)[0]))
    policy.set_attn_implementation("mixwright_packed")
    return np.array(result)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=2_000_000, help="of the text of pretraining")
    parser.add_argument(
        "--pairs", type=int, default=3200, help="to train on, of the debates that are not held out"
    )
    parser.add_argument("--held-out", type=int, default=1200, help="pairs")
    parser.add_argument("--shapes", nargs="+", default=["64x2", "128x4"], help="width x layers")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="of pretraining")
    parser.add_argument("--policies", nargs="+", default=POLICIES, help="dpo_loss:learning_rate:sft_weight")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), help="of the pairs, rising to 1")
    parser.add_argument("--samples", type=int, default=60, help="arguments written before and after DPO")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    root = os.environ.get("MIXWRIGHT_DATA")
    if not root:
        parser.error("MIXWRIGHT_DATA is not set: it names the folder with preferences/ukpconvarg1-strict")
    began = time.process_time()
    documents = texts(Path(root), options.characters)
    draw = np.random.default_rng(3)
    sizes = options.pairs, options.held_out, options.held_out
    train, choosing, held = (
        [part[place] for place in draw.permutation(len(part))[:size].tolist()]
        for part, size in zip(arguments(Path(root)), sizes, strict=True)
    )
    with tempfile.TemporaryDirectory() as temporary, fixed_arithmetic(options.threads, 0):
        folder = Path(temporary)
        train_tokenizer(folder / "tokenizer", documents, VOCABULARY)
        bench = Bench(
            folder,
            PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"),
            options.threads,
            options.batch_tokens,
        )
        rows = bench.rows(train)
        choosing_rows, held_rows = (as_data(bench.rows(part), True, VOCABULARY) for part in (choosing, held))
        longer = (held_rows.length > held_rows.rejected_length).mean()
        print(
            f"{len(train)} pairs to train on, {held_rows.rows} held out; the longer one is chosen in {longer:.3f}"
        )
        for name in options.shapes:
            backbone = folder / name
            steps = bench.pretrain(shape(name), documents, backbone)
            tokens = sum(step["tokens"] for step in steps)
            parameters = sum(one.numel() for one in load_causal(backbone).parameters())
            print(
                f"{name}: {parameters:,} parameters, pretrained on {tokens:,} tokens, "
                f"loss {steps[0]['loss']:.2f} to {np.mean([step['loss'] for step in steps[-5:]]):.2f}",
                flush=True,
            )
            judge_folder = reward_models(bench, name, backbone, rows, held_rows, options.shares)
        judge = load_reward(judge_folder).to(device()).eval()
        preference(bench, backbone, judge, rows, (choosing_rows, held_rows), options)
    print(f"{time.process_time() - began:.0f} s of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
