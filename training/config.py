"""What a training stage or an evaluation may be told. Free of torch, so that plans read it in no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from curation.config import ConfigError, Count, Share, Strict, merge, read_yaml

Method = Literal["causal", "reward", "dpo"]
Preset = Literal["tiny", "small", "1b", "7b", "7b-midtrain", "7b-long-context"]
PRESETS = Path(__file__).parent / "presets"
# Longer than sequence_length: fragments, the first tokens alone, left out, or an error. All are counted.
OverLength = Literal["split", "cut", "drop", "raise"]
DpoLoss = Literal["sigmoid", "hinge", "ipo", "robust", "sigmoid_norm"]
SMOOTHED: tuple[DpoLoss, ...] = ("sigmoid", "robust")  # take a label_smoothing

# What changes no bit of a result, and so is no part of a step's identity.
WITHOUT_EFFECT = ("checkpoint_every", "gradient_checkpointing", "track")

# What a longer context is given by; see `training.positions`.
POSITIONS = ("yarn_factor", "yarn_beta_fast", "yarn_beta_slow", "rope_theta", "rope_layers", "max_position")

# The fields that one method alone reads. Setting one for another method is an error, not a silent no-op.
OWN_FIELDS: dict[str, tuple[str, ...]] = {
    "causal": ("z_loss", "loss_on", *POSITIONS),
    "reward": ("centring",),
    "dpo": ("beta", "dpo_loss", "label_smoothing", "sft_weight"),
}


class ModelConfig(Strict):
    """The shape of a model made from scratch. The vocabulary comes from the tokenizer."""

    config: str | dict[str, Any] | None = Field(
        None,
        description="Instead of a shape: a causal model of transformers by its config, {model_type: qwen2, ...}, "
        "or a JSON file that holds it, relative to this one. What it does not give is transformers' default.",
    )
    architecture: Literal["llama", "olmo3"] = "llama"
    hidden_size: int = Field(192, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    kv_heads: int | None = None  # grouped-query attention; None: as many as heads
    intermediate_size: int | None = None  # None: 8/3 of the hidden size, rounded up to a multiple of 32
    max_position: Count = 2048
    rope_theta: float = 10_000.0
    norm_eps: float | None = Field(None, gt=0)  # None: the architecture's own
    tie_embeddings: bool = True
    sliding_window: Count = 4096  # olmo3: the window of three layers in four

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        fields = type(self).model_fields.items()
        beside = [name for name, field in fields if name != "config" and getattr(self, name) != field.default]
        if self.config is not None and beside:
            raise ValueError(f"config says all of the model's shape; leave {', '.join(beside)} out")
        if isinstance(self.config, dict) and not isinstance(self.config.get("model_type"), str):
            raise ValueError("config is one of transformers and names its model_type, such as qwen2")
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of heads {self.heads}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if (
            self.architecture != "olmo3"
            and self.sliding_window != type(self).model_fields["sliding_window"].default
        ):
            raise ValueError("sliding_window is of architecture olmo3 only")
        return self


class Lora(Strict):
    """Low-rank adapters (Hu et al. 2021) through peft: the parent's weights stay, products of small matrices are
    trained beside them and merged into the model that is written."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)  # a product is weighed by alpha / rank
    targets: tuple[str, ...] = ()  # names of the layers to adapt; empty: every linear layer but the output


class TrainConfig(Strict):
    """One training stage. pretrain, midtrain, long-context and SFT are all `causal`; the data's mask differs."""

    method: Method = "causal"
    preset: Preset | None = Field(None, exclude=True)  # values for all that is not given here: training/presets
    model: ModelConfig | None = None  # required without a parent checkpoint, forbidden with one
    sequence_length: Count = 512  # tokens of a document, or of a side of a pair, that the model sees at once
    over_length: OverLength | None = None  # what becomes of longer ones; None: split documents, cut pairs
    loss_on: Literal["all", "last"] = "all"  # causal: of a conversation's turns in the loss, all or the last one
    batch_tokens: Count = 8192  # tokens of an optimiser step, at most (a single longer pair is a step of its own)
    micro_batch_tokens: Count = 4096  # tokens of one forward and backward pass, at most: bounds the memory
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)  # stop early; what is not reached is in the account

    learning_rate: float = Field(1e-3, gt=0)
    warmup_share: Share = Field(0.05, ge=0, le=1)  # of all steps, linear from zero
    warmup_steps: int | None = Field(None, ge=0)  # instead of warmup_share
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"  # wsd: warm-up, stable, linear decay
    decay_share: Share = Field(0.1, gt=0, le=1)  # wsd: of all steps, at the end
    decay_steps: int | None = Field(None, ge=1)  # wsd: instead of decay_share
    final_share: Share = Field(0.1, ge=0, le=1)  # of the learning rate, at the last step
    weight_decay: float = Field(0.1, ge=0)  # matrices only: never norms, biases, embeddings
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(1.0, gt=0)  # norm of the whole gradient

    z_loss: float = Field(0.0, ge=0)  # causal: weight of the squared log-partition
    yarn_factor: float | None = Field(None, gt=1)  # causal: stretch the parent's positions by YaRN
    yarn_beta_fast: float = Field(32.0, gt=0)  # rotations within the old context above which nothing is stretched
    yarn_beta_slow: float = Field(1.0, gt=0)  # and below which everything is
    rope_theta: float | None = Field(None, gt=0)  # causal: another base of the parent's rotary positions
    rope_layers: tuple[str, ...] | None = None  # kinds of layers that both change; None: see training.positions
    max_position: Count | None = None  # with rope_theta: the positions that the model then has
    centring: float = Field(0.0, ge=0)  # reward: weight of the squared sum of the two scores
    beta: float = Field(0.1, gt=0)  # dpo
    dpo_loss: DpoLoss = "sigmoid"  # the formulas are in training.losses.dpo
    label_smoothing: Share = Field(0.0, ge=0, lt=0.5)  # dpo, sigmoid (conservative form, cDPO) and robust
    sft_weight: float = Field(0.0, ge=0)  # dpo: of the chosen answers' cross-entropy, a mean over tokens

    seed: int = 0
    threads: int = Field(2, ge=1)  # fixed here, since the bits of a sum depend on it
    precision: Literal["float32", "bfloat16"] = "float32"  # of what is multiplied; see training.precision
    average_last: int = Field(1, ge=1)  # the result is the mean of so many checkpoints, the last step's among them
    average_every: int | None = Field(None, ge=1)  # steps between them
    lora: Lora | None = None  # train adapters instead of all weights
    compile: bool = False  # torch.compile of layers or parts of them; pays on GPUs and for long runs
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them; changes no result
    sharding: Literal["none", "full"] = (
        "none"  # full: each process keeps its part of weights and optimiser (FSDP2)
    )
    processes: int = Field(1, ge=1)  # started by torchrun; each takes its share of a step's micro-batches
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()  # curves for these, beside log.jsonl
    checkpoint_every: int = Field(50, ge=1)  # steps; changes no result

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, given: Any) -> Any:
        name = given.get("preset") if isinstance(given, dict) else None
        if name not in get_args(Preset):
            return given
        preset = read_yaml(PRESETS / f"{name}.yaml")[0]
        if isinstance(given.get("model"), dict) and "config" in given["model"]:
            preset.pop("model", None)
        return merge(preset, given)

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        for method, names in OWN_FIELDS.items():
            for name in names:
                if method != self.method and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is of method {method} only; this stage's method is {self.method}")
        if self.schedule != "wsd" and (self.decay_steps is not None or self.decay_share != 0.1):
            raise ValueError(f"decay_steps and decay_share are of schedule wsd only; it is {self.schedule}")
        self._check_positions()
        if (self.average_last > 1) != (self.average_every is not None):
            raise ValueError("average_last (above 1) and average_every go together")
        if self.lora is not None and (self.average_last > 1 or self.sharding != "none"):
            raise ValueError("lora goes with neither average_last nor sharding")
        if self.sharding != "none" and self.processes == 1:
            raise ValueError("sharding is over several processes; set processes")
        if self.label_smoothing and self.dpo_loss not in SMOOTHED:
            raise ValueError(f"label_smoothing is of dpo_loss {' and '.join(SMOOTHED)}, not of {self.dpo_loss}")
        if self.method != "causal" and self.over_length == "split":
            raise ValueError("over_length split is of documents; a pair's side can be cut, dropped or refused")
        if self.sequence_length < 2:
            raise ValueError(f"sequence_length must be at least 2, found {self.sequence_length}")
        if self.method == "causal" and self.sequence_length > self.micro_batch_tokens:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} is below sequence_length {self.sequence_length}"
            )
        if self.micro_batch_tokens * self.processes > self.batch_tokens:
            each = f", times {self.processes} processes" if self.processes > 1 else ""
            raise ValueError(
                f"batch_tokens {self.batch_tokens} must be at least "
                f"micro_batch_tokens {self.micro_batch_tokens}{each}"
            )
        return self

    def _check_positions(self) -> None:
        given = [name for name in POSITIONS if getattr(self, name) != type(self).model_fields[name].default]
        if given and self.yarn_factor is None and self.rope_theta is None:
            raise ValueError(f"{given[0]} goes with yarn_factor or rope_theta")
        if self.yarn_factor is None and any(name.startswith("yarn_") for name in given):
            raise ValueError("yarn_beta_fast and yarn_beta_slow go with yarn_factor")
        if self.yarn_beta_slow >= self.yarn_beta_fast:
            raise ValueError(f"yarn_beta_slow {self.yarn_beta_slow} must be below beta_fast {self.yarn_beta_fast}")
        if self.yarn_factor is not None and self.max_position is not None:
            raise ValueError("yarn_factor says how many positions the model has; leave max_position out")


def with_model_file(config: TrainConfig, folder: Path) -> TrainConfig:
    """The settings with the content of the file that `model.config` names, relative to `folder`, if it names one.

    A stage is known by what is in the file, not by its name. Raises ConfigError for a file that is no such config.
    """
    if config.model is None or not isinstance(config.model.config, str):
        return config
    path = folder / config.model.config
    try:
        model = ModelConfig(config=json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # of JSON, of UTF-8, of pydantic
        raise ConfigError(f"{path}: expected the config.json of a model of transformers: {error}") from None
    return config.model_copy(update={"model": model})


class EvaluateConfig(Strict):
    """One evaluation of a checkpoint on held-out documents and pairs."""

    window: Count = 512  # tokens seen at once; a longer document is scored in windows that overlap by one token
    pair_tokens: Count = 1024  # of each side of a pair, at most: what is longer is cut, as in training
    micro_batch_tokens: Count = 4096
    text_tokens: Count = 100_000  # of each source, at most; documents are taken in the manifest's order
    pairs: Count = 500  # of each source, at most
    bootstrap: int = Field(1000, ge=100)  # resamples behind each 95 % interval
    samples: int = Field(3, ge=0)  # prompts that are continued
    prompt_tokens: int = Field(32, ge=1)  # of a plain document; a chat's prompt is everything before the answer
    sample_tokens: int = Field(48, ge=1)
    temperature: float = Field(0.8, gt=0)  # of the second continuation of each prompt; the first is greedy
    beta: float = Field(0.1, gt=0)  # of implicit rewards
    seed: int = 0
    threads: int = Field(2, ge=1)
