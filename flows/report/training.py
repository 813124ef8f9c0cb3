"""Training: loss curves and token accounts by stage, and what each checkpoint knows of held-out data."""

from __future__ import annotations

from typing import Any

import polars as pl
from markupsafe import Markup

from curation.steps import StepOutput
from flows.report import human, svg
from flows.report.reading import read_optional, source_classes
from flows.run import Run

FINAL_SHARE = 0.1  # of the steps, at the end: the loss given in the table is their mean
SOURCES_DRAWN = 6  # curves by source in one chart, those with the most tokens
SAMPLES_SHOWN = 6  # of generated text, by stage
# Of the pair methods, drawn below the loss: the column of the losses and what it is called.
METRICS = {"accuracy": "Accuracy of the reward", "rewards/accuracies": "Accuracy of the implicit reward"}


def training(run: Run) -> dict[str, Any] | None:
    """The view: a card a stage, the tables of the evaluation. None if nothing was trained."""
    trained = run.steps("train/")
    if not trained:
        return None
    classes = source_classes(run)
    evaluations = {stage: read_optional(run.step(f"evaluate/{stage}"), "evaluation.json") for stage in trained}
    evaluations = {stage: found for stage, found in evaluations.items() if found is not None}
    return {
        "stages": [_stage(stage, output, classes) for stage, output in trained.items()],
        "bits": bits_per_byte(evaluations, classes),
        "pairs": [_pairs(stage, found) for stage, found in evaluations.items() if "pairs" in found],
        "samples": [
            (stage, [_sample(one) for one in found["samples"][:SAMPLES_SHOWN]])
            for stage, found in evaluations.items()
            if found.get("samples")
        ],
    }


def _stage(stage: str, output: StepOutput, classes: dict[str, str]) -> dict[str, Any]:
    head = read_optional(output, "checkpoint.json") or {}
    losses = pl.read_parquet(output.folder / "losses.parquet")
    last = losses.tail(max(1, round(len(losses) * FINAL_SHARE)))
    drawn = {source: classes.get(source, "ink") for source in _largest_sources(output)}
    charts = [("Loss", _loss_chart(stage, output, losses, drawn))]
    for metric, title in METRICS.items():
        if metric in losses.columns:
            curve = svg.Curve(metric, "ink", _points(losses, metric))
            charts.append((title, svg.line_chart([curve], f"{title} of {stage}", "tokens")))
    return {
        "stage": stage,
        "method": head.get("method", ""),
        "parameters": head.get("parameters"),
        "steps": len(losses),
        "first_loss": losses["loss"][0],
        "last_loss": last["loss"].mean(),
        "totals": head.get("totals", {}),
        "seconds": output.record["seconds"],
        "charts": charts,
        "legend": list(drawn.items()),
    }


def _points(losses: pl.DataFrame, column: str) -> list[tuple[float, float]]:
    seen = losses["tokens"].cum_sum().to_list()
    return svg.thinned(list(zip(seen, losses[column].to_list(), strict=True)))


def _largest_sources(output: StepOutput) -> list[str]:
    """The sources that get a curve of their own; none where there is only one."""
    sizes = (
        pl.scan_parquet(output.folder / "losses_by_source.parquet").group_by("source").agg(pl.col("count").sum())
    )
    names = sizes.collect().sort(["count", "source"], descending=[True, False])["source"].to_list()
    return names[:SOURCES_DRAWN] if len(names) > 1 else []


def _loss_chart(stage: str, output: StepOutput, losses: pl.DataFrame, drawn: dict[str, str]) -> Markup:
    """The loss over tokens seen: all sources as a bold line, each source as a thin one."""
    seen = dict(zip(losses["step"].to_list(), losses["tokens"].cum_sum().to_list(), strict=True))
    curves = []
    rows = pl.read_parquet(output.folder / "losses_by_source.parquet")
    for name, css in drawn.items():
        mine = rows.filter(pl.col("source") == name).sort("step")
        mean = (mine["loss_sum"] / mine["count"]).to_list()
        points = [(seen[step], value) for step, value in zip(mine["step"].to_list(), mean, strict=True)]
        curves.append(svg.Curve(name, f"thin {css}", svg.thinned(points, 120)))
    curves.append(svg.Curve("all", "ink", _points(losses, "loss")))
    return svg.line_chart(curves, f"loss of {stage}", "tokens")


def bits_per_byte(evaluations: dict[str, dict[str, Any]], classes: dict[str, str]) -> dict[str, Any] | None:
    """Bits per byte of each source after each stage that models text, the best of a source marked."""
    scored = {stage: found["text"] for stage, found in evaluations.items() if "text" in found}
    if not scored:
        return None
    sources = list(dict.fromkeys(source for found in scored.values() for source in found["by_source"]))
    rows = []
    for source in sources:
        cells = [found["by_source"].get(source, {}).get("bits_per_byte") for found in scored.values()]
        size = next(
            (found["by_source"][source]["bytes"] for found in scored.values() if source in found["by_source"]), 0
        )
        known = [cell for cell in cells if cell is not None]
        rows.append({"source": source, "cells": cells, "best": min(known, default=None), "bytes": size})
    total = [found["all"]["bits_per_byte"] for found in scored.values()]
    curves = [
        svg.Curve(
            row["source"],
            classes.get(row["source"], "ink"),  # its pool may be gone from the workspace
            [(n, cell) for n, cell in enumerate(row["cells"]) if cell is not None],
        )
        for row in rows
    ]
    chart = svg.line_chart(
        curves, "bits per byte by source after each stage", "after stage", names=list(scored), wide=True
    )
    return {
        "stages": list(scored),
        "rows": rows,
        "total": {"cells": total, "best": min((cell for cell in total if cell is not None), default=None)},
        "chart": chart,
        "legend": [(row["source"], classes.get(row["source"], "ink")) for row in rows],
    }


def _pairs(stage: str, found: dict[str, Any]) -> dict[str, Any]:
    """Accuracy on held-out pairs with its interval: in all, by source, by length and margin; and calibration."""
    what = "reward model" if found["method"] == "reward" else "implicit reward"
    pairs = found["pairs"]
    lines = [("all", pairs["all"]), *pairs["by_source"].items()]
    groups = {"Source": lines if len(lines) > 2 else lines[1:] or lines}
    groups["Length of the answers"] = list(pairs.get("by_length", {}).items())
    groups["Margin of the labels"] = list(pairs.get("by_margin", {}).items())
    return {
        "stage": stage,
        "what": what,
        "groups": [
            (
                name,
                [{"name": one, **line, "chart": _interval(one, line)} for one, line in members if line["pairs"]],
            )
            for name, members in groups.items()
            if members
        ],
        "calibration": _calibration(stage, pairs.get("calibration", [])),
        "calibration_error": pairs.get("calibration_error"),
    }


def _calibration(stage: str, levels: list[dict[str, float]]) -> Markup | None:
    """How often rewards are right, by how sure they are; a reward that means what it says lies on the diagonal."""
    if len(levels) < 2:
        return None
    points = [(level["confidence"], level["accuracy"]) for level in levels]
    ends = [(x, x) for x in (points[0][0], points[-1][0])]
    curves = [svg.Curve("sure as it may be", "thin dim", ends), svg.Curve("accuracy", "ink", points)]
    return svg.line_chart(curves, f"calibration of {stage}", "confidence")


def _interval(source: str, line: dict[str, Any]) -> Markup | None:
    if line["accuracy"] is None:
        return None
    return svg.interval(line["accuracy"], line["accuracy_low"], line["accuracy_high"], f"accuracy on {source}")


def _sample(one: dict[str, Any]) -> dict[str, Any]:
    """A prompt's end, since a chat's prompt may be long, and its continuations."""
    prompt = one["prompt"] if len(one["prompt"]) <= 400 else "… " + one["prompt"][-400:]
    return {**one, "prompt": human.clean(prompt)}
