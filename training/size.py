"""How large a stage is before it runs: parameters and memory, from its settings alone. Free of torch.

The memory is what one process needs for float32: weights, gradients and the two moments of AdamW (16 bytes a
parameter; gradients once more for each further thread of a CPU that shares the micro-batches), the activations of
one micro-batch, and the gradient of the output matrix, which the chunked cross-entropy holds beside the
parameter's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.config import ModelConfig, TrainConfig

VOCABULARY_MULTIPLE = 128  # rows of the embedding beyond the tokenizer's are never a target
FLOAT = 4  # bytes
OF_PARAMETER = 4 * FLOAT  # weight, gradient, two moments
# Numbers of the hidden size that a layer keeps for its backward pass, a token: counted, see the test. As on a GPU;
# on a CPU norms keep less (see `training.norm`).
KEPT = {"llama": 11, "olmo3": 16}
SHARED = 1 << 27  # trained parameters up to which threads share micro-batches: 512 MiB of gradients each
KEPT_BY_FEED_FORWARD = 4  # likewise of the feed-forward block's width


@dataclass(frozen=True)
class Size:
    """Of one process."""

    parameters: int  # of the whole model
    trained: int
    state: int  # bytes of weights, gradients and optimiser
    activations: int  # bytes, at the peak of a micro-batch

    @property
    def memory(self) -> int:
        return self.state + self.activations


def rows(vocabulary: int) -> int:
    """Rows of the embedding for a tokenizer of so many ids."""
    return -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def width(shape: ModelConfig) -> int:
    """Of the feed-forward block: as given, or 8/3 of the hidden size, rounded up to a multiple of 32."""
    return shape.intermediate_size or -(-shape.hidden_size * 8 // 3 // 32) * 32


def parameters(shape: ModelConfig, vocabulary: int) -> int:
    """Of a model made from scratch: embedding, layers, last norm, output."""
    hidden = shape.hidden_size
    keys = hidden // shape.heads * (shape.kv_heads or shape.heads)
    attention = 2 * hidden * hidden + 2 * hidden * keys
    norms = 2 * hidden + (hidden + keys if shape.architecture == "olmo3" else 0)  # Olmo's of queries and keys, too
    layer = attention + 3 * hidden * width(shape) + norms
    embeddings = (1 if shape.tie_embeddings else 2) * rows(vocabulary) * hidden
    return embeddings + shape.layers * layer + hidden


def adapted(shape: ModelConfig, config: TrainConfig) -> int:
    """Parameters of the adapters on every linear layer."""
    assert config.lora is not None
    hidden, keys = shape.hidden_size, shape.hidden_size // shape.heads * (shape.kv_heads or shape.heads)
    sides = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (hidden, hidden),
    }
    sides |= {name: (hidden, width(shape)) for name in ("gate_proj", "up_proj", "down_proj")}
    chosen = config.lora.targets or tuple(sides)
    return shape.layers * config.lora.rank * sum(sum(sides.get(name, (0, 0))) for name in chosen)


def sharing_threads(trained: int, config: TrainConfig) -> int:
    """How many threads of a CPU share a micro-batch (see `training.parallel`), each with gradients of its own:
    all, or one where those of so many trained parameters would take too much memory."""
    alone = trained > SHARED or config.sharding != "none" or config.compile
    return 1 if alone else config.threads


def size(shape: ModelConfig, vocabulary: int, config: TrainConfig) -> Size:
    """Of a stage that trains a model of this shape."""
    if shape.config is not None:
        return _size_of_given(shape, vocabulary, config)
    total = parameters(shape, vocabulary)
    trained = total if config.lora is None else adapted(shape, config)
    return _size(shape, total, trained, rows(vocabulary) * shape.hidden_size, config)


def _size(shape: ModelConfig, total: int, trained: int, output: int, config: TrainConfig) -> Size:
    """Of a model of about this shape, with so many parameters, those trained, and those of the output matrix."""
    shared_by = config.processes if config.sharding == "full" else 1
    state = (total * FLOAT + trained * (OF_PARAMETER - FLOAT)) // shared_by
    state += trained * FLOAT * (sharing_threads(trained, config) - 1)
    hidden = shape.hidden_size
    kept = KEPT[shape.architecture] * hidden + KEPT_BY_FEED_FORWARD * width(shape)
    layers = shape.layers * hidden + kept if config.gradient_checkpointing else shape.layers * kept
    numbers = config.micro_batch_tokens * (layers + 3 * hidden) + output
    if shared_by > 1:  # gathered for their use: embeddings and output, and two layers at once
        apart = (1 if shape.tie_embeddings else 2) * output + hidden
        numbers += apart + 2 * (total - apart) // shape.layers
    return Size(total, trained, state, numbers * FLOAT)


def _size_of_given(shape: ModelConfig, vocabulary: int, config: TrainConfig) -> Size:
    """Of a model by a config of transformers: it is made without its numbers, and its parameters are counted.

    Its layers are taken to keep for the backward pass what a Llama's of their widths would.
    """
    import torch  # here: no other plan needs it
    from transformers.pytorch_utils import Conv1D

    from training.model import Specials, new_causal

    with torch.device("meta"):
        model = new_causal(shape, vocabulary, Specials(0, 0, 0))
    told, output = model.config, model.get_output_embeddings()
    total = trained = sum(one.numel() for one in model.parameters())
    if config.lora is not None:
        linear = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
        }
        chosen = config.lora.targets
        sides = [sum(m.weight.shape) for name, m in linear.items() if not chosen or name.split(".")[-1] in chosen]
        trained = config.lora.rank * sum(sides)
    hidden = told.hidden_size
    experts = getattr(told, "num_experts_per_tok", None) or 1
    width = getattr(told, "moe_intermediate_size", None) or getattr(told, "intermediate_size", None) or 4 * hidden
    like = ModelConfig(
        hidden_size=2 * math.ceil(hidden / 2),
        heads=1,
        layers=told.num_hidden_layers,
        intermediate_size=experts * width,
        tie_embeddings=told.tie_word_embeddings,
    )
    return _size(like, total, trained, output.weight.numel(), config)
