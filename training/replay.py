"""What a step fed to the model, without running one: its documents, their spans, their text with the loss mask.

It is made of the same plan and the same batches as the loop's, so it cannot tell another story than training did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from training.batch import Batch, batch_of_units
from training.config import TrainConfig
from training.data import Data
from training.optimiser import learning_rate
from training.plan import Plan, make_plan
from training.runs import decoded_runs


class NoSuchStepError(Exception):
    """The stage has no step of that number."""


def replay(data: Data, config: TrainConfig, step: int, tokenizer: Path) -> dict[str, Any]:
    """Step 1 and on of a stage, as plain data.

    {step, steps, learning_rate, tokens, in_loss, micro_batches: [[sequence]]}. A sequence is what one document
    brings into a micro-batch: {id, source, side (text, chosen or rejected), first, last (its span of the
    document's tokens, of a pair: of the side's), length (of these), in_loss (tokens), runs: [{in_loss, text}]}.
    tokenizer: the folder. Raises NoSuchStepError.
    """
    plan = make_plan(data, config)
    steps = len(plan.steps) - 1
    if not 1 <= step <= steps:
        raise NoSuchStepError(f"step {step}: the stage has steps 1 to {steps}")
    words = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    batches = []
    for units in plan.micro_batches(step - 1, config.micro_batch_tokens):
        batch = batch_of_units(data, plan, units, torch.device("cpu"))
        batches.append(_sequences(data, plan, units, batch, words))
    flat = [sequence for batch in batches for sequence in batch]
    return {
        "step": step,
        "steps": steps,
        "learning_rate": learning_rate(config, step - 1, steps),
        "tokens": sum(one["last"] - one["first"] for one in flat),
        "in_loss": sum(one["in_loss"] for one in flat),
        "micro_batches": batches,
    }


def _sequences(data: Data, plan: Plan, units: np.ndarray, batch: Batch, words: Tokenizer) -> list[dict[str, Any]]:
    """The sequences of a batch, read from the very tensors that the model would get."""
    pairs = len(batch.lengths) == 2 * len(units)
    sequences = []
    for place, (row, tokens, in_loss) in enumerate(zip(batch.rows.tolist(), *_unpacked(batch), strict=True)):
        unit, rejected = int(units[place % len(units)]), place >= len(units)
        starts, sizes = (data.rejected_start, data.rejected_length) if rejected else (data.start, data.length)
        first = int((plan.other_start if rejected else plan.start)[unit] - starts[row])
        sequences.append(
            {
                "id": data.ids[row].as_py(),
                "source": data.sources[data.source[row]],
                "side": "rejected" if rejected else "chosen" if pairs else "text",
                "first": first,
                "last": first + len(tokens),
                "length": int(sizes[row]),
                "in_loss": int(in_loss.sum()),
                "runs": decoded_runs(words, tokens, in_loss),
            }
        )
    return sequences


def _unpacked(batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The tokens of each sequence of a row, and which of them are in the loss.

    What a sequence shares with another stands in the row once: at the start of the other's piece.
    """
    row, positions = batch.tokens[0].numpy(), batch.positions[0].numpy()
    pieces = np.split(row, np.cumsum(batch.pieces)[:-1])
    lender = len(pieces) // 2
    tokens = [
        np.concatenate([pieces[place - lender][:shared], piece]) if shared else piece
        for place, (piece, shared) in enumerate(zip(pieces, batch.shared, strict=True))
    ]
    in_loss = [np.zeros(length, bool) for length in batch.lengths]
    for sequence, place in zip(batch.sequence.tolist(), batch.selected.tolist(), strict=True):
        in_loss[sequence][positions[place] + 1] = True
    return tokens, in_loss
