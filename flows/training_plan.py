"""What the training stages of a pipeline will need, before any work: parameters, steps, compute, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from curation.files import read_json
from flows.pipeline import Pipeline, load_pipeline
from flows.report import human
from training.config import ModelConfig
from training.size import size

FLOPS = 6  # of a token and a parameter: forward and backward pass, attention apart


def plan_stages(path: Path, settings: list[str]) -> list[dict[str, Any]]:
    """A row a stage of a pipeline file, in its order.

    {stage, method, mix, parent, parameters, trained, batch_tokens, steps, tokens, flops, processes, state,
    activations, memory}: memory in bytes, of one process. Tokens and what follows of them are those of the mix's
    budget, None where its recipe has none; a stage may see fewer. Of a given checkpoint no size is told.
    """
    pipeline, recipes = load_pipeline(path, settings)
    vocabulary = _vocabulary(pipeline)
    shapes: dict[str, ModelConfig | None] = {}  # None: of a given checkpoint
    rows = []
    for name, stage in pipeline.train.items():
        config = stage.config
        shape = shapes[name] = config.model or shapes.get(str(stage.parent))
        found = None if shape is None else size(shape, vocabulary, config)
        budget = recipes[stage.mix].budget
        tokens = None if budget is None else budget * config.epochs
        steps = None if tokens is None else -(-tokens // config.batch_tokens)
        if steps is not None and config.max_steps is not None and config.max_steps < steps:
            steps, tokens = config.max_steps, config.max_steps * config.batch_tokens
        rows.append(
            {
                "stage": name,
                "method": config.method,
                "mix": stage.mix,
                "parent": stage.parent,
                "parameters": found and found.parameters,
                "trained": found and found.trained,
                "batch_tokens": config.batch_tokens,
                "steps": steps,
                "tokens": tokens,
                "flops": None if tokens is None or found is None else FLOPS * found.parameters * tokens,
                "processes": config.processes,
                "state": found and found.state,
                "activations": found and found.activations,
                "memory": found and found.memory,
            }
        )
    return rows


def _vocabulary(pipeline: Pipeline) -> int:
    settings = pipeline.tokenizer
    if settings.path is None:
        return settings.vocab_size
    given = read_json(Path(settings.path) / "tokenizer.json")
    added = [token["id"] for token in given.get("added_tokens", [])]
    return max([*dict(given["model"]["vocab"]).values(), *added]) + 1


def print_stages(rows: list[dict[str, Any]], console: Console) -> None:
    """The table for a person."""
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "method", "mix"):
        table.add_column(column)
    for column in ("parameters", "trained", "step", "steps", "tokens", "FLOPs", "processes", "memory of each"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["stage"],
            row["method"],
            row["mix"],
            human.count(row["parameters"]),
            human.count(row["trained"]),
            human.count(row["batch_tokens"]),
            human.count(row["steps"]),
            human.count(row["tokens"]),
            human.NOTHING if row["flops"] is None else f"{row['flops']:.1e}",
            str(row["processes"]),
            human.size(row["memory"]),
        )
    console.print(table)
    console.print(
        "memory: float32 weights, gradients, AdamW, activations of a micro-batch; beside it what Python and its "
        "libraries take. Smaller: micro_batch_tokens, gradient_checkpointing, sharding, lora.",
        style="dim",
    )
