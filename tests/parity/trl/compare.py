"""The trainers against TRL itself: `make parity-trainers`.

    python -m tests.parity.trl.compare --peer .peers/trl/bin/python

Both sides start from the same weights of random models of Llama's and GPT-2's shape, in float32, with eager
attention and padded rows on TRL's side, packed rows on ours, and are fed the same token ids: lengths that differ,
answers of a single token, pad tokens inside an answer, a last step of fewer rows; in cases of their own rows
without any token in the loss, and a pad token that is the end of every answer. Compared are the log-probability of
every token in the loss, losses and gradient norms of 20 steps, and the weights after them. Prints a line for
each case and fails on any difference above its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from curation.chat import SPECIAL_TOKENS
from tests.parity.trl.rows import as_data, as_plan
from training.attention import PACKED
from training.batch import batch_of_units
from training.causal_lm import Causal
from training.config import TrainConfig
from training.dpo import DPO, Reference, pair_logps
from training.head import token_logps
from training.loop import fit
from training.model import (
    device,
    fixed_arithmetic,
    head_weight,
    hidden_states,
    load_causal,
    load_reward,
    reward_from_causal,
    save_model,
)
from training.reward import Reward, scores

PEER = Path(__file__).with_name("peer.py")
VOCABULARY = 256 + len(SPECIAL_TOKENS)
PAD, END = 257, 262
STEPS, BATCH, RATE = 20, 4, 1e-3
LIMITS = {"token log-probabilities": 1e-5, "losses": 1e-4, "gradient norms": 1e-4, "weights": 1e-4}
SHAPES = {
    "llama": LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=256,
    ),
    "gpt2": GPT2Config(
        vocab_size=320,
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=128,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=256,
    ),
}


@dataclass(frozen=True)
class Case:
    """One loss: what TRL is told, and what we are told."""

    name: str
    method: str
    theirs: dict = field(default_factory=dict)
    ours: dict = field(default_factory=dict)
    margins: bool = False
    empty: bool = False  # every seventh row has no answer, so no token in the loss
    pad_is_end: bool = False
    batch: int = BATCH  # rows of TRL's micro-batch


CASES = [
    Case("SFT", "sft"),
    Case("SFT, accumulated", "sft", {"gradient_accumulation_steps": 2}, {"micro_batch_tokens": 150}, batch=2),
    Case("SFT, rows without loss", "sft", empty=True),
    Case("SFT, pad = end", "sft", pad_is_end=True),
    Case("RM", "reward"),
    Case("RM, margin and centring", "reward", {"center_rewards_coefficient": 0.01}, {"centring": 0.01}, True),
    Case("DPO sigmoid", "dpo"),
    Case("DPO sigmoid, pad = end", "dpo", pad_is_end=True),
    Case("DPO hinge", "dpo", {"loss_type": ["hinge"]}, {"dpo_loss": "hinge"}),
    Case("DPO IPO", "dpo", {"loss_type": ["ipo"]}, {"dpo_loss": "ipo"}),
    Case(
        "DPO robust",
        "dpo",
        {"loss_type": ["robust"], "label_smoothing": 0.1},
        {"dpo_loss": "robust", "label_smoothing": 0.1},
    ),
    Case(
        "DPO sigmoid_norm",
        "dpo",
        {"loss_type": ["sigmoid_norm"], "beta": 5.0},
        {"dpo_loss": "sigmoid_norm", "beta": 5.0},
    ),
    Case(
        "DPO sigmoid + 0.5 SFT",
        "dpo",
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        {"sft_weight": 0.5},
    ),
]
DIFFERENCES = """
Known differences of definition, none of them in the comparison above:
- label_smoothing with the sigmoid loss: ours is cDPO, (1 - e) L(m) + e L(-m); TRL ignores it.
- accumulation: ours divides sums by counts once a step; TRL's DPO and RM losses are means of micro-batch means,
  and its SFT term is a token mean of each micro-batch. Compared with one micro-batch a step they agree.
- logged metrics: ours are means over all pairs of a step; TRL's are means over micro-batches, and over the steps
  between two logs. rewards/*, logps/*, accuracy, margin and mean_reward are the same quantities; chosen_nll
  and gradient_weight are ours alone; min_reward, max_reward, logits/*, entropy, mean_token_accuracy TRL's alone.
- a reward is read at the last token by length here, in TRL at the last token that is not the pad token: with
  pad = eos that is the token before the end.
- pairs beyond the length limit: ours are cut, dropped or refused, and counted; TRL's reward trainer drops the pair
  silently, its DPO trainer cuts both sides.
- plain text: the first token of a row has no target on either side; older transformers divide by one token more.
"""


def make_rows(count: int, seed: int = 3) -> list[dict]:
    """Random pairs. Among them answers of one token, of the prompt's own tokens, and with the pad token inside."""
    draw = np.random.default_rng(seed)

    def ids(low: int, high: int) -> list[int]:
        return draw.integers(0, 256, int(draw.integers(low, high))).tolist()

    rows = []
    for number in range(count):
        row = {"prompt": ids(3, 40), "chosen": [*ids(1, 50), END], "rejected": [*ids(1, 50), END]}
        if number % 7 == 1:
            row["chosen"] = [END]
        if number % 7 == 2:
            row["rejected"] = [*row["chosen"][:-1], *ids(1, 9), END]
        if number % 7 == 3:
            row["chosen"][len(row["chosen"]) // 2 : -1] = [PAD] * len(row["chosen"][len(row["chosen"]) // 2 : -1])
        row["margin"] = float(np.float32(draw.random())) if number % 3 else 0.0
        rows.append(row)
    return rows


def write_models(folder: Path) -> dict[str, Path]:
    """Random models of each shape, with their reward models: causal and reward folders by name of shape."""
    tokenizer = Tokenizer(models.BPE({chr(256 + n): n for n in range(256)}, []))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    for name, pad in (("tokenizer", PAD), ("tokenizer-end", END)):
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[pad - 256]
        )
        fast.save_pretrained(folder / name)
    for name, config in SHAPES.items():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED, dtype=torch.float32)
        with torch.no_grad():  # larger than usual, so that attention and logits are far from uniform
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)
        save_model(model, folder / "tokenizer", folder / name)
        save_model(reward_from_causal(folder / name, PAD), folder / "tokenizer", folder / f"{name}-reward")
        model.config.pad_token_id = model.generation_config.pad_token_id = END
        save_model(model, folder / "tokenizer-end", folder / f"{name}-end")


def settings(case: Case) -> TrainConfig:
    return TrainConfig(
        method={"sft": "causal"}.get(case.method, case.method),
        sequence_length=128,
        learning_rate=RATE,
        warmup_steps=0,
        schedule="constant",
        weight_decay=0.0,
        betas=(0.9, 0.999),
        threads=1,
        **{"batch_tokens": 1 << 16, "micro_batch_tokens": 1 << 16, **case.ours},
    )


def by_us(case: Case, rows: list[dict], order: list[int], model_folder: Path, folder: Path) -> dict:
    """What `peer.py` gives: values of every token (of a reward model: scores), losses, gradient norms, weights."""
    config, data = settings(case), as_data(rows, case.method != "sft", VOCABULARY)
    plan = as_plan(data, config, order, BATCH)
    with fixed_arithmetic(1, 0):
        model = (load_reward if case.method == "reward" else load_causal)(model_folder)
        method, values = make_method(case, config, model.eval(), data), []
        for first, last in zip(plan.steps[:-1], plan.steps[1:], strict=True):
            values += per_token(case, model, batch_of_units(data, plan, np.arange(first, last), device()))
        steps = []
        fit(model, method, data, plan, config, folder, model_folder, lambda row, *_: steps.append(row))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    return {"values": values, "steps": steps, "weights": weights}


def make_method(case: Case, config: TrainConfig, model: PreTrainedModel, data):
    if case.method == "sft":
        return Causal(data)
    if case.method == "reward":
        return Reward(data, config.centring)
    logps = pair_logps(model, data, np.arange(data.rows), 128, 4096)
    reference = Reference(*logps)
    return DPO(data, reference, config.beta, config.dpo_loss, config.label_smoothing, config.sft_weight)


@torch.no_grad()
def per_token(case: Case, model: PreTrainedModel, batch) -> list[list[float]]:
    if case.method == "reward":
        return [[score] for score in scores(model, batch).tolist()]
    found = token_logps(hidden_states(model, batch)[batch.selected], head_weight(model), batch.targets).numpy()
    return [found[batch.sequence == place].tolist() for place in range(len(batch.lengths))]


def by_peer(case: Case, rows: list[dict], order: list[int], model: Path, folder: Path, python: str) -> dict:
    job = {
        "method": case.method,
        "model": str(model),
        "rows": rows,
        "order": order,
        "batch": case.batch,
        "steps": STEPS,
        "settings": {"learning_rate": RATE, "weight_decay": 0.0, "max_length": 128} | case.theirs,
        "threads": 1,
        "attention": "eager",
        "folder": str(folder),
        "weights": str(folder / "weights.safetensors"),
        "values": True,
        "gate": False,
    }
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(job))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, str(PEER), str(folder / "job.json")]
    with (folder / "log.txt").open("w") as log:
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    if run.returncode:
        raise RuntimeError(f"the peer failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    values, _, *steps = [json.loads(line) for line in run.stdout.splitlines()]
    return {**values, "steps": steps, "weights": load_file(folder / "weights.safetensors")}


def apart(case: Case, ours: dict, theirs: dict) -> dict[str, float]:
    """The largest difference of each kind; losses above one, gradient norms and weights relative to their size."""
    pairs = list(zip(ours["values"], theirs["values"], strict=True))
    if any(len(a) != len(b) for a, b in pairs):
        raise RuntimeError("the two sides have other tokens in the loss")
    steps = list(zip(ours["steps"], theirs["steps"], strict=True))
    norms = [(a["gradient_norm"], float(b["grad_norm"])) for a, b in steps]
    moved = [
        _weights_apart(name, weight, theirs["weights"][name])
        for name, weight in ours["weights"].items()
        if not (case.name == "RM" and name.endswith("ln_f.bias"))
    ]
    return {
        "token log-probabilities": max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs if a),
        "losses": max(abs(a["loss"] - float(b["loss"])) / max(1.0, abs(a["loss"])) for a, b in steps),
        "gradient norms": max(abs(a - b) / b for a, b in norms),
        "weights": max(moved),
    }


def _weights_apart(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The difference of a parameter, relative to its size or to how far AdamW can have moved it.

    Without what only has rounding for a gradient, since AdamW walks by its sign: the biases of GPT-2's keys, which
    softmax does not see. (Nor is its last bias compared of a reward model without centring: it moves all scores.)
    """
    if name.endswith("c_attn.bias"):
        width = len(ours) // 3
        ours, theirs = (torch.cat([one[:width], one[2 * width :]]) for one in (ours, theirs))
    size = max(float(theirs.norm()), STEPS * RATE * theirs.numel() ** 0.5)
    return float((ours - theirs).norm()) / size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=".peers/trl/bin/python", help="Python of TRL's environment")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--only", default="", help="part of a case's name")
    options = parser.parse_args()
    rows, failed = make_rows(STEPS * BATCH - 1), False
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    print(f"{'':34}" + "".join(f"{name:>26}" for name in LIMITS) + "   metrics")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_models(folder)
        for shape in options.shapes:
            for case in (one for one in CASES if options.only in one.name):
                kind = "-reward" if case.method == "reward" else "-end" if case.pad_is_end else ""
                model = folder / f"{shape}{kind}"
                place = folder / f"{shape}-{CASES.index(case)}"
                fed = [
                    {
                        **row,
                        "margin": row["margin"] if case.margins else None,
                        "chosen": [] if case.empty and number % 7 == 4 else row["chosen"],
                    }
                    for number, row in enumerate(rows)
                ]
                ours = by_us(case, fed, order, model, place / "ours")
                theirs = by_peer(case, fed, order, model, place / "theirs", options.peer)
                found = apart(case, ours, theirs)
                wrong = [name for name, limit in LIMITS.items() if not found[name] <= limit]
                failed |= bool(wrong)
                print(
                    f"{shape + ' ' + case.name:34}" + "".join(f"{found[name]:26.1e}" for name in LIMITS),
                    f"  {metrics_apart(ours['steps'], theirs['steps'])}",
                    f"  above the limit: {', '.join(wrong)}" if wrong else "",
                    flush=True,
                )
    print(DIFFERENCES)
    return int(failed)


def metrics_apart(ours: list[dict], theirs: list[dict]) -> str:
    """The largest difference of the metrics that bear the same name on both sides."""
    names = sorted((set(ours[0]) & set(theirs[0])) - {"loss", "learning_rate", "step", "epoch"})
    if not names:
        return ""
    worst = max(abs(a[name] - float(b[name])) for a, b in zip(ours, theirs, strict=True) for name in names)
    return f"{worst:.1e} ({', '.join(names)})"


if __name__ == "__main__":
    sys.exit(main())
