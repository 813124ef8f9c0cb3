"""Models: made from scratch, continued from a checkpoint, given a score head; saved as Hugging Face folders."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    Olmo3Config,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from curation.chat import END_OF_TEXT, END_OF_TURN, PAD
from training.attention import PACKED, has_kernel, told
from training.batch import Batch, without_unread
from training.config import ModelConfig, TrainConfig
from training.head import Products
from training.last_layer import only_at
from training.norm import fuse_norms
from training.positions import extend_positions
from training.size import rows, width

ONE_FILE = "1000GB"  # weights are never split over files
# Round where the code as it is written rounds: DPO's reference, not compiled, is then that of a compiled policy.
AS_WRITTEN = {"emulate_precision_casts": True}
# What a config says of the checkpoint that it was beside, or of code outside of transformers.
ELSEWHERE = ("architectures", "auto_map", "dtype", "model_type", "quantization_config", "torch_dtype")
CLOSE = 0.9  # from here on a key is another one mistyped; configs of older times have keys that are no more
GRAPHS = 128  # of one function, that the compiler may make before it gives up


@dataclass(frozen=True)
class Specials:
    """The special tokens that a model's config and the checks need, as ids."""

    end_of_text: int
    end_of_turn: int
    pad: int


def find_specials(folder: Path) -> Specials:
    """From a tokenizer folder. Raises ValueError naming a special token that it lacks."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (END_OF_TEXT, END_OF_TURN, PAD) if token not in vocabulary]
    if missing:
        raise ValueError(
            f"{folder}: the tokenizer lacks {', '.join(missing)}; train one or add them as special tokens"
        )
    return Specials(vocabulary[END_OF_TEXT], vocabulary[END_OF_TURN], vocabulary[PAD])


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def fixed_arithmetic(threads: int, seed: int) -> Iterator[None]:
    """Inside: this many threads, deterministic kernels, a seeded generator. Outside: as it was before."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
    filling = torch.utils.deterministic.fill_uninitialized_memory
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(gpus):
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a guard for debugging: a tenth of the time
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            torch.utils.deterministic.fill_uninitialized_memory = filling


def new_causal(shape: ModelConfig, vocabulary: int, specials: Specials) -> PreTrainedModel:
    """A causal model of this shape with transformers' own random initialisation, from torch's generator.

    Raises ValueError for a given config that transformers has no causal model for which can be packed.
    """
    common = {
        "vocab_size": rows(vocabulary),
        "pad_token_id": specials.pad,
        "bos_token_id": None,
        "eos_token_id": specials.end_of_text,
    }
    try:
        with _quiet():
            config = _shaped(shape, common) if shape.config is None else _given(shape.config, common)
            model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED, dtype=torch.float32)
    except Exception as error:  # every model of transformers checks its config in its own way, some not at all
        if shape.config is None or isinstance(error, ValueError):
            raise
        raise ValueError(
            f"model.config: transformers makes no model of it that can be packed: {error!r}"
        ) from error
    model.generation_config.eos_token_id = [specials.end_of_text, specials.end_of_turn]
    model.generation_config.pad_token_id = specials.pad
    return fuse_norms(model)


def _shaped(shape: ModelConfig, common: dict[str, Any]) -> PreTrainedConfig:
    """Of a Llama or Olmo 3."""
    common = common | {
        "hidden_size": shape.hidden_size,
        "intermediate_size": width(shape),
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads or shape.heads,
        "max_position_embeddings": shape.max_position,
        "tie_word_embeddings": shape.tie_embeddings,
    }
    if shape.norm_eps is not None:
        common["rms_norm_eps"] = shape.norm_eps
    rope = {"rope_type": "default", "rope_theta": shape.rope_theta}
    if shape.architecture == "olmo3":
        rope_of_layers = {"sliding_attention": dict(rope), "full_attention": dict(rope)}
        return Olmo3Config(**common, sliding_window=shape.sliding_window, rope_parameters=rope_of_layers)
    return LlamaConfig(**common, rope_parameters=rope)


def _given(settings: dict[str, Any], common: dict[str, Any]) -> PreTrainedConfig:
    """Of any type that transformers has in itself; code that a config points to (`auto_map`) is never taken."""
    kind = settings["model_type"]
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"model.config: transformers has no causal model of type '{kind}' in itself, "
            "and code from elsewhere is not run here"
        )
    config = AutoConfig.for_model(kind, **{k: v for k, v in settings.items() if k not in ELSEWHERE} | common)
    if config.get_text_config() is not config:
        raise ValueError(f"model.config: '{kind}' is of more than text; give its text_config")
    known = {*inspect.signature(type(config)).parameters, *config.attribute_map}
    for key in sorted(settings.keys() - known):
        if close := difflib.get_close_matches(key, sorted(known - settings.keys()), 1, CLOSE):
            raise ValueError(f"model.config: '{kind}' has no '{key}'; did you mean '{close[0]}'?")
    return config


def load_causal(folder: Path, attention: str = PACKED, settings: TrainConfig | None = None) -> PreTrainedModel:
    """The causal model of a checkpoint folder, in float32. `settings` may give it a longer context."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if settings is not None:
        extend_positions(config, settings)
    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            attn_implementation=attention,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
        )
    return fuse_norms(model)


def load_reward(folder: Path, attention: str = PACKED) -> PreTrainedModel:
    """The reward model of a checkpoint folder, in float32."""
    with _quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, attn_implementation=attention, dtype=torch.float32, local_files_only=True
        )
    return fuse_norms(model)


def reward_from_causal(folder: Path, pad: int) -> PreTrainedModel:
    """A reward model on the backbone of a causal checkpoint: one score, read at the last token.

    The head is drawn from torch's generator with a deviation of 1 / sqrt(hidden + 1), so that first scores are
    of order one. The config names the pad token: transformers' own forward pass finds the last token by it.
    """
    parent = load_causal(folder)
    config = parent.config
    config.num_labels, config.pad_token_id = 1, pad
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=PACKED, dtype=torch.float32)
    model.base_model.load_state_dict(parent.base_model.state_dict())
    torch.nn.init.normal_(model.score.weight, std=(config.hidden_size + 1) ** -0.5)
    return fuse_norms(model)


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """The model with every dropout set to zero: pairs are compared, and with a reference computed without it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model


def hidden_states(model: PreTrainedModel, batch: Batch, places: torch.Tensor | None = None) -> torch.Tensor:
    """The backbone's last hidden states on a batch: (t, width); of `places` alone, (n,) int64, if given."""
    if places is not None and not places.is_cuda:
        batch, places = without_unread(batch, places)
    with contextlib.nullcontext() if places is None else only_at(model, places, batch.tokens.shape[1]):
        output = model.base_model(
            input_ids=batch.tokens,
            position_ids=batch.positions,
            use_cache=False,
            **told(model, batch.pieces, batch.shared, batch.tokens.device),
        )
    states = output.last_hidden_state[0]
    return (states if places is None else states[places]).to(head_type(model))


def head_type(model: PreTrainedModel) -> torch.dtype:
    """What losses are computed in: the weights' own type, also where the backbone's products are rounded."""
    return next(model.parameters()).dtype


def head_weight(model: PreTrainedModel) -> torch.Tensor:
    """The matrix from hidden states to logits: (vocabulary, width)."""
    return model.get_output_embeddings().weight


def head_products(model: PreTrainedModel) -> Products:
    """How it is multiplied: in float32, if neither `precision.in_bfloat16` nor `compile_blocks` said otherwise."""
    return getattr(model, "products", Products())


def save_model(
    model: PreTrainedModel,
    tokenizer: Path,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
    published: bool = True,
) -> None:
    """Write a folder that `from_pretrained` loads: weights, config, and the tokenizer's files as they are.

    `weights` stand for the model's own parameters, which may be shared out over processes. Their names are those
    that the architecture was published with, or else the model's own; experts, for one, were apart there.
    """
    with _quiet():
        model.save_pretrained(folder, state_dict=weights, max_shard_size=ONE_FILE, save_original_format=published)
    for file in sorted(tokenizer.iterdir()):
        shutil.copyfile(file, folder / file.name)


def trade_memory(model: PreTrainedModel) -> None:
    """Keep no activations of a layer: the backward pass computes them again, to the same bits.

    It begins with the last layer, whose activations would be computed again at once: those are kept.
    """
    model.activation_checkpointing_enable({"use_reentrant": False})
    if layers := getattr(model.base_model, "layers", None):
        layers[-1].gradient_checkpointing = False


def compile_blocks(model: PreTrainedModel) -> None:
    """Compile what is the same for every batch but for its lengths.

    With the variable-length kernel these are whole layers, and what is between the products of the output matrix.
    Elsewhere attention takes a list of lengths, and would be compiled again for each: there it is feed-forward
    blocks and norms, which know nothing of documents.
    """
    layers = getattr(model.base_model, "layers", None) if has_kernel(model) else None
    blocks = [module for name, module in model.named_modules() if name.endswith((".mlp", "norm"))]
    # Layers with and without a window, rows with and without branches, gradients or none: each is a graph.
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    for module in blocks if layers is None else layers:
        module.compile(dynamic=True, options=AS_WRITTEN)
    if model.device.type == "cuda":
        model.products = head_products(model)._replace(fused=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and notices."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
