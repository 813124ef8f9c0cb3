"""A longer context for a trained model: rotary positions stretched by YaRN, or turned by another base.

Olmo 3 stretches its full-attention layers alone, by a factor of 8 with betas of 32 and 1: a sliding window never
sees far positions. Layers are chosen by their kind, which is how transformers keeps rotary settings apart.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from training.config import TrainConfig

FULL = "full_attention"


def extend_positions(config: PreTrainedConfig, settings: TrainConfig) -> None:
    """Change a model's config, in place, as the settings of its stage say; nothing if they say nothing.

    yarn_factor: YaRN (Peng et al. 2023) as transformers implements it; the model then has so many times its
    positions. rope_theta: another base, with `max_position` positions (the parent's where it is not given).
    Both change the layers of the kinds in `rope_layers`; by default the full-attention layers of a model that has
    several kinds, and all layers of any other. Raises ValueError for kinds that the model does not have, and for
    positions that are stretched already.
    """
    if settings.yarn_factor is None and settings.rope_theta is None:
        return
    parameters = _by_kind(config)
    for kind in _chosen(parameters, settings.rope_layers):
        if settings.rope_theta is not None:
            parameters[kind]["rope_theta"] = settings.rope_theta
        if settings.yarn_factor is not None:
            _stretch(parameters[kind], config.max_position_embeddings, settings)
    config.rope_parameters = parameters.get(None, parameters)
    if settings.yarn_factor is not None:
        config.max_position_embeddings = round(config.max_position_embeddings * settings.yarn_factor)
    elif settings.max_position is not None:
        config.max_position_embeddings = settings.max_position


def _by_kind(config: PreTrainedConfig) -> dict[str | None, dict[str, Any]]:
    """A copy of the rotary settings by kind of layer; the kind is None where all layers share them."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise ValueError(f"a model of type {config.model_type} has no rotary positions that could be changed")
    kinds = set(getattr(config, "layer_types", None) or ()) & parameters.keys()
    return {kind: dict(parameters[kind]) for kind in sorted(kinds)} if kinds else {None: dict(parameters)}


def _chosen(parameters: dict[str | None, dict[str, Any]], wanted: tuple[str, ...] | None) -> list[str | None]:
    if wanted is None:
        return [FULL] if FULL in parameters else list(parameters)
    if unknown := [kind for kind in wanted if kind not in parameters]:
        known = ", ".join(kind for kind in parameters if kind) or "one kind alone: leave rope_layers out"
        raise ValueError(f"rope_layers: the model has no layers of kind '{unknown[0]}'; it has {known}")
    return list(wanted)


def _stretch(parameters: dict[str, Any], before: int, settings: TrainConfig) -> None:
    if parameters["rope_type"] != "default":
        raise ValueError(
            f"the parent's positions are stretched already ({parameters}); yarn_factor can be given once"
        )
    parameters |= {
        "rope_type": "yarn",
        "factor": settings.yarn_factor,
        "original_max_position_embeddings": before,
        "beta_fast": settings.yarn_beta_fast,
        "beta_slow": settings.yarn_beta_slow,
    }
