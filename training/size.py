"""How large a stage is before it runs: parameters and memory, from its settings alone. Free of torch.

The memory is what one process needs for float32: weights, gradients and the two moments of AdamW (16 bytes a
parameter; gradients once more for each further thread of a CPU that shares the micro-batches), the activations of
one micro-batch, and the gradient of the output matrix, which the chunked cross-entropy holds beside the
parameter's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.config import ModelConfig, TrainConfig

VOCABULARY_MULTIPLE = 128  # rows of the embedding beyond the tokenizer's are never a target
FLOAT = 4  # bytes
OF_PARAMETER = 4 * FLOAT  # weight, gradient, two moments
# Numbers of the hidden size that a layer keeps for its backward pass, a token: counted, see the test.
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
    total = parameters(shape, vocabulary)
    trained = total if config.lora is None else adapted(shape, config)
    shared_by = config.processes if config.sharding == "full" else 1
    state = (total * FLOAT + trained * (OF_PARAMETER - FLOAT)) // shared_by
    state += trained * FLOAT * (sharing_threads(trained, config) - 1)
    hidden, output = shape.hidden_size, rows(vocabulary) * shape.hidden_size
    kept = KEPT[shape.architecture] * hidden + KEPT_BY_FEED_FORWARD * width(shape)
    layers = shape.layers * hidden + kept if config.gradient_checkpointing else shape.layers * kept
    numbers = config.micro_batch_tokens * (layers + 3 * hidden) + output
    if shared_by > 1:  # gathered for their use: embeddings and output, and two layers at once
        apart = (1 if shape.tie_embeddings else 2) * output + hidden
        numbers += apart + 2 * (total - apart) // shape.layers
    return Size(total, trained, state, numbers * FLOAT)
