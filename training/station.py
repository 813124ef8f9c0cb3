"""The two stations of training, as steps: `train/<stage>` and `evaluate/<stage>`."""

from __future__ import annotations

from curation.steps import Context, StepOutput
from training.config import EvaluateConfig, TrainConfig


def train(
    ctx: Context,
    stage: str,
    data: StepOutput,
    tokenizer: StepOutput,
    parent: StepOutput | None,
    config: TrainConfig,
    reference: StepOutput | None = None,
) -> StepOutput:
    """Train one stage on materialised data (`data/<mix>`); the output is `train/<stage>`.

    `parent` is the checkpoint to start from, None for a model from scratch. `reference` is what DPO compares
    with, by default the parent.
    """
    from training.train import train_step

    return train_step(ctx, stage, data, tokenizer, parent, config, reference)


def evaluate(
    ctx: Context,
    stage: str,
    checkpoint: StepOutput,
    tokenizer: StepOutput,
    text: StepOutput | None,
    pairs: StepOutput | None,
    config: EvaluateConfig,
    reference: StepOutput | None = None,
) -> StepOutput:
    """Score a checkpoint on held-out data; the output is `evaluate/<stage>` with `evaluation.json`.

    `text` is `data/heldout-text`, `pairs` is `data/heldout-pairs`; either may be None. `reference` is the
    checkpoint that implicit rewards of DPO are measured against; it is required for a DPO checkpoint.
    """
    from training.evaluate import evaluate_step

    return evaluate_step(ctx, stage, checkpoint, tokenizer, text, pairs, config, reference)
