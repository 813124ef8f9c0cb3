"""bfloat16 for matrix products, where the device is faster at them.

Weights, optimiser, norms, residuals, logits and losses stay in float32; torch's autocast rounds what goes into the
products and attention of the backbone. On a GPU the factors of the output matrix's products are rounded as well:
it gives their sums in float32, which a CPU does not. A device without bfloat16 in hardware emulates it, many times
slower, so the setting is checked by a measurement of products and refused where it cannot pay. It is off unless
set: small models on a CPU gain little or nothing by it (tests/benchmarks/RESULTS.md).
"""

from __future__ import annotations

import time
from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel

from training.head import Products

SIZE = {"cpu": 512, "cuda": 4096}  # rows; on a GPU a small product takes as long as its launch in either type
NEEDED = 1.2  # times the rate of float32 products; below, the casts cost more than they save


def bfloat16_gain(device: torch.device) -> float:
    """How many times as fast as in float32 a matrix product is in bfloat16, the best of a few each."""
    size = SIZE[device.type]

    def best(dtype: torch.dtype) -> float:
        one, other = torch.randn(2, size, size, device=device).to(dtype)  # a GPU is faster at ones
        times = []
        for _ in range(5):
            _wait(device)
            began = time.perf_counter()
            one @ other
            _wait(device)
            times.append(time.perf_counter() - began)
        return min(times)

    return best(torch.float32) / best(torch.bfloat16)


def in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its backbone under autocast. Raises ValueError on a device that is not faster for it."""
    gain = bfloat16_gain(model.device)
    if gain < NEEDED:
        raise ValueError(
            f"precision bfloat16: {model.device.type} products are {gain:.2f} times as fast as in float32, "
            f"needed are {NEEDED}; set precision float32"
        )
    model.base_model.forward = MethodType(_rounded_forward, model.base_model)
    if model.device.type == "cuda":
        model.products = Products(torch.bfloat16)
    return model


def _rounded_forward(backbone: torch.nn.Module, *arguments: Any, **named: Any) -> Any:
    # Without the cache, which is one for all threads.
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16, cache_enabled=backbone.device.type != "cpu"):
        return type(backbone).forward(backbone, *arguments, **named)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
