"""The two stations of training, as steps: `train/<stage>` and `evaluate/<stage>`.

What names a step is read here without torch, so that a finished pipeline is found finished in no time; the work
imports it.
"""

from __future__ import annotations

from pathlib import Path

from curation.files import file_hash, read_json
from curation.steps import Build, Context, StepOutput, step
from training.config import WITHOUT_EFFECT, EvaluateConfig, TrainConfig, with_model_file

TRAIN_VERSION = 7
GIVEN_VERSION = 1
EVALUATE_VERSION = 5
REFERENCE_VERSION = 6


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
    with, by default the parent. Raises ValueError for settings that do not fit each other.
    """
    config = with_model_file(config, Path())
    _check_parent(stage, tokenizer, parent, config, reference)
    logps = reference_step(ctx, stage, data, reference or parent, config) if config.method == "dpo" else None
    inputs = {"data": data.content, "tokenizer": tokenizer.content}
    inputs |= {
        role: output.content for role, output in (("parent", parent), ("reference", logps)) if output is not None
    }
    literals = config.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))

    def work(build: Build) -> None:
        from training.train import train_stage

        train_stage(build, data, tokenizer, parent, config, logps)

    return step(ctx, f"train/{stage}", TRAIN_VERSION, literals, inputs, work)


def given_checkpoint(ctx: Context, stage: str, folder: Path, tokenizer: StepOutput) -> StepOutput:
    """A checkpoint of transformers in a folder as a parent for `train`; the output is `given/<stage>`.

    Raises ValueError for a folder without weights in safetensors or a config, or of another tokenizer.
    """
    files = sorted(
        path for path in folder.glob("*") if path.suffix in (".safetensors", ".json") and path.is_file()
    )
    if not any(path.suffix == ".safetensors" for path in files) or not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: expected a checkpoint of transformers, config.json and weights in safetensors"
        )
    inputs = {path.name: file_hash(path) for path in files} | {"tokenizer": tokenizer.content}

    def work(build: Build) -> None:
        from training.given import take

        take(build, folder, tokenizer)

    return step(ctx, f"given/{stage}", GIVEN_VERSION, {}, inputs, work)


def reference_step(
    ctx: Context, stage: str, data: StepOutput, checkpoint: StepOutput, config: TrainConfig
) -> StepOutput:
    """The step `reference/<stage>`: log-probabilities of every pair under a checkpoint, named by their content.

    Its table `logps.parquet` has the index's rows: id, chosen, rejected (float32, nats).
    """
    literals = config.model_dump(
        mode="json", include={"sequence_length", "micro_batch_tokens", "threads", "precision"}
    )
    inputs = {"data": data.content, "checkpoint": checkpoint.content}

    def work(build: Build) -> None:
        from training.dpo import write_reference

        write_reference(build, data, checkpoint, config)

    return step(ctx, f"reference/{stage}", REFERENCE_VERSION, literals, inputs, work)


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
    checkpoint that implicit rewards of DPO are measured against; it is required for a DPO checkpoint: ValueError.
    """
    method = read_json(checkpoint.file("checkpoint.json"))["method"]
    if method == "dpo" and pairs is not None and reference is None:
        raise ValueError(
            f"evaluate/{stage}: implicit rewards need the reference checkpoint, the parent of {stage}"
        )
    given = {
        "checkpoint": checkpoint,
        "tokenizer": tokenizer,
        "text": text,
        "pairs": pairs,
        "reference": reference,
    }
    inputs = {role: output.content for role, output in given.items() if output is not None}

    def work(build: Build) -> None:
        from training.evaluate import evaluate_stage

        evaluate_stage(build, stage, checkpoint, tokenizer, text, pairs, config, reference)

    return step(ctx, f"evaluate/{stage}", EVALUATE_VERSION, config, inputs, work)


def _check_parent(
    stage: str,
    tokenizer: StepOutput,
    parent: StepOutput | None,
    config: TrainConfig,
    reference: StepOutput | None,
) -> None:
    if parent is None and (config.method != "causal" or config.model is None):
        raise ValueError(f"train/{stage}: without a parent checkpoint, method causal and a model are required")
    if parent is None and config.lora is not None:
        raise ValueError(f"train/{stage}: lora adapts a parent; a model from scratch is trained whole")
    if parent is not None and config.model is not None:
        raise ValueError(f"train/{stage}: the model's shape comes from the parent {parent.name}; leave model out")
    if parent is None and (config.yarn_factor or config.rope_theta):
        raise ValueError(
            f"train/{stage}: yarn_factor and rope_theta change a parent's positions; "
            "give model.max_position and model.rope_theta instead"
        )
    if reference is not None and config.method != "dpo":
        raise ValueError(
            f"train/{stage}: a reference is of method dpo only; this stage's method is {config.method}"
        )
    for checkpoint in (parent, reference):
        if checkpoint is None:
            continue
        head = read_json(checkpoint.file("checkpoint.json"))
        if head["method"] == "reward":
            raise ValueError(f"train/{stage}: {checkpoint.name} is a reward model; start from a causal checkpoint")
        if head["tokenizer"] != tokenizer.content:
            raise ValueError(
                f"train/{stage}: {checkpoint.name} was trained with tokenizer {head['tokenizer'][:16]}, "
                f"given is {tokenizer.content[:16]}"
            )
