"""The model card: README.md of a model's folder. The same bytes for the same run: no date, no path."""

from __future__ import annotations

import math
from typing import Any

from training.config import TrainConfig
from training.trace import Trace

NATS_PER_BIT = math.log(2)
LAST = 0.1  # of the steps: the final figures are means over them
TASKS = {"causal": "text-generation", "reward": "text-classification", "dpo": "text-generation"}


def model_card(stage: str, head: dict[str, Any], trace: Trace, config: TrainConfig) -> str:
    """Of a stage's `checkpoint.json`, its trace and its settings. Held-out figures come with the export."""
    parent = head["parent"]
    facts = {
        "Method": config.method,
        "Kind of mix": head["kind"],
        "Manifest": f"`{head['manifest_hash']}`",
        "Token data": f"`{head['data']}`",
        "Tokenizer": f"`{head['tokenizer']}`",
        "Parent": "none, from scratch" if parent is None else f"{parent['name']}, `{parent['content']}`",
        "Parameters": f"{head['parameters']:,}, of which trained {head['trained_parameters']:,}",
        "Steps": f"{head['steps']:,}",
        "Tokens": f"{head['totals']['delivered']:,} fed, {head['totals']['in_loss']:,} in the loss",
        "Learning rate": f"{config.learning_rate:g}, {config.schedule}",
        "Seed": str(config.seed),
    }
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {TASKS[config.method]}",
        "---",
        "",
        f"# {stage}",
        "",
        "Made by mixwright. The hashes name what the model was made of; `from_pretrained` loads this folder.",
        "",
        *_table(("", ""), facts.items()),
        "",
        "## Sources",
        "",
        "Documents keep the licences that they came with; `mixwright why ID` tells where one is from.",
        "",
        *_table(("source", "documents", "occurrences", "tokens fed", "in the loss"), _sources(head["account"])),
        "",
        "## Training figures",
        "",
        f"Loss at the first step {trace.steps[0]['loss']:.4f}; over the last tenth of the steps:",
        "",
        *_table(("source", "loss", "bits per byte"), _figures(trace)),
        "",
    ]
    return "\n".join(lines)


def held_out(evaluation: dict[str, Any]) -> str:
    """The section of an `evaluation.json`: bits per byte and accuracy by source."""
    lines = ["## Held-out figures", ""]
    if "text" in evaluation:
        found = {"all": evaluation["text"]["all"], **evaluation["text"]["by_source"]}
        rows = ((name, line["documents"], _number(line["bits_per_byte"])) for name, line in found.items())
        lines += [*_table(("source", "documents", "bits per byte"), rows), ""]
    if "pairs" in evaluation:
        found = {"all": evaluation["pairs"]["all"], **evaluation["pairs"]["by_source"]}
        rows = (
            (
                name,
                line["pairs"],
                _number(line["accuracy"]),
                f"{_number(line['accuracy_low'])} to {_number(line['accuracy_high'])}",
            )
            for name, line in found.items()
        )
        lines += [*_table(("source", "pairs", "accuracy", "95 % interval"), rows), ""]
    return "\n".join(lines)


def _sources(account: dict[str, dict[str, int]]) -> list[tuple]:
    names = ("documents", "occurrences", "delivered", "in_loss")
    return [(source, *(f"{line[name]:,}" for name in names)) for source, line in sorted(account.items())]


def _figures(trace: Trace) -> list[tuple]:
    last = trace.step - max(1, round(LAST * trace.step))
    sums: dict[str, list[float]] = {}
    for row in trace.by_source:
        if row["step"] > last:
            for name in ("all", row["source"]):
                had = sums.setdefault(name, [0.0, 0.0, 0.0])
                sums[name] = [
                    a + b for a, b in zip(had, (row["loss_sum"], row["count"], row["bytes"]), strict=True)
                ]
    return [
        (name, _number(loss / count), _number(loss / NATS_PER_BIT / size) if size else "")
        for name, (loss, count, size) in sorted(sums.items())
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(head: tuple[str, ...], rows: Any) -> list[str]:
    """A table of Markdown. A name that holds a mark of the table is kept from breaking it."""
    cells = [head, *rows]
    text = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells]
    return [text[0], "|" + "---|" * len(head), *text[1:]]
