"""What a training step saw, from the records of a run: the command `replay`."""

from __future__ import annotations

from typing import Any

import polars as pl
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from flows.report import human
from flows.run import Run, RunNotFoundError


def replayed(run: Run, stage: str, step: int) -> dict[str, Any]:
    """`training.replay.replay` of a stage of a run, be the stage finished or not, and `recorded`: what the loop
    wrote down of the step, None where it did not get there.

    Raises RunNotFoundError for a stage that the run does not have, or whose data is no longer in the workspace;
    training.replay.NoSuchStepError.
    """
    from training.config import TrainConfig
    from training.data import open_data
    from training.replay import replay

    stages = run.data["config"].get("train", {})
    if stage not in stages:
        raise RunNotFoundError(f"{run.name}: no stage '{stage}'; it has {', '.join(stages) or 'none'}")
    data, tokenizer = run.step(f"data/{stages[stage]['mix']}"), run.step("tokenizer")
    if data is None or tokenizer is None:
        lost = "tokenizer" if tokenizer is None else f"data/{stages[stage]['mix']}"
        raise RunNotFoundError(f"{run.name}: its step '{lost}' is not in the workspace; run the pipeline again")
    config = TrainConfig.model_validate(stages[stage]["config"])
    found = replay(open_data(data), config, step, tokenizer.folder / "tokenizer")
    return {
        "run": run.name,
        "stage": stage,
        "data": data.content,
        **found,
        "recorded": _recorded(run, stage, step),
    }


def _recorded(run: Run, stage: str, step: int) -> dict[str, Any] | None:
    output = run.step(f"train/{stage}")
    if output is None:
        return None
    rows = pl.read_parquet(output.folder / "losses.parquet").filter(pl.col("step") == step).to_dicts()
    return rows[0] if rows else None


def print_replayed(found: dict[str, Any], console: Console) -> None:
    """Print a step for a person: each sequence with its span; what is in the loss stands out."""
    batches = found["micro_batches"]
    title = f"{found['stage']} step {found['step']} of {found['steps']}"
    facts = f"  {sum(map(len, batches)):,} sequences in {len(batches):,} micro-batches, {found['tokens']:,} tokens"
    console.print(Text.assemble((title, "bold"), f"{facts}, {found['in_loss']:,} in the loss"))
    if found["recorded"]:
        row = found["recorded"]
        console.print(
            f"recorded: loss {row['loss']:.4f} over {row['count']:,}, learning rate {row['learning_rate']:.3g}"
        )
    for number, batch in enumerate(batches, 1):
        console.print(Text(f"\nmicro-batch {number}", "bold"))
        for one in batch:
            side = "" if one["side"] == "text" else f"{one['side']}, "
            span = f"  {side}tokens {one['first']:,} to {one['last']:,} of {one['length']:,}"
            console.print(Text.assemble((f"{one['id']}  {one['source']}", "italic"), span))
            body = Text()
            for run in one["runs"]:
                body.append(human.clean(run["text"]), "green" if run["in_loss"] else "dim")
            console.print(Padding(body, (0, 4), expand=False))
