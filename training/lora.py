"""Low-rank adapters through peft: trained beside the parent's weights, merged into what is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from curation.files import read_json, remove, write_json
from training.config import Lora

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG = "adapter_config.json"


def add_adapters(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """Put adapters into a model, in place; all else is frozen but a reward model's score head.

    Train the model itself; the returned wrapper is what `write_adapters` and `merged` take. Before the first step
    the model computes what its parent does. Raises ValueError where peft is not installed, or has no such target.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ValueError("lora needs peft, which is not installed: pip install 'mixwright[lora]'") from None
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets) or "all-linear",
        modules_to_save=["score"] if hasattr(model, "score") else None,
        exclude_modules=["score"] if hasattr(model, "score") else None,
    )
    return get_peft_model(model, config)


def write_adapters(wrapper: PeftModel, folder: Path) -> None:
    """Write the adapters as peft loads them, without what names this machine or changes from run to run."""
    wrapper.save_pretrained(folder)
    remove(folder / "README.md")
    config = read_json(folder / CONFIG)
    config["base_model_name_or_path"] = None
    for name, value in config.items():
        if isinstance(value, list):
            config[name] = sorted(value)
    write_json(folder / CONFIG, config)


def merged(wrapper: PeftModel) -> PreTrainedModel:
    """The model with its adapters added to the weights; the wrapper is of no use afterwards."""
    return wrapper.merge_and_unload()
