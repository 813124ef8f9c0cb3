"""The weights and the optimiser's state as plain tensors by name, whole even where processes share them out."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

KEYS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as if it were not shared out. All processes must ask for it together."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def assign(to: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor's values into one that may be shared out."""
    value = value.to(to.device)
    if isinstance(to, DTensor):
        value = distribute_tensor(value, to.device_mesh, to.placements, src_data_rank=None)
    to.detach().copy_(value)


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are trained, by name, whole."""
    return {name: whole(one) for name, one in model.named_parameters() if one.requires_grad}


def put_trained(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """The reverse of `trained`. Raises KeyError for a parameter that is not there."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assign(parameter, tensors[name])


def optimiser_state(model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name: `<parameter>/exp_avg` and so on, whole."""
    return {
        f"{name}/{key}": whole(value).contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def put_optimiser_state(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """The reverse of `optimiser_state`. A parameter that never had a gradient has none."""
    for name, parameter in model.named_parameters():
        for key in KEYS:
            if f"{name}/{key}" in tensors:
                value = tensors[f"{name}/{key}"]
                if key == "step":
                    value = value.to(parameter.device)  # where a fused optimiser counts
                else:
                    like = torch.zeros_like(parameter)
                    assign(like, value)
                    value = like
                optimiser.state[parameter][key] = value
