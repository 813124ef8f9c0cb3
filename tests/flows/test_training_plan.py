"""What a pipeline's stages will need, told from its file alone."""

from __future__ import annotations

import io

import pytest
import yaml
from rich.console import Console

from curation.config import ConfigError
from flows.pipeline import load_pipeline
from flows.planning import is_pipeline
from flows.training_plan import plan_stages, print_stages
from tests.mini import write_inputs, write_pipeline
from training.config import TrainConfig
from training.size import parameters


@pytest.fixture
def pipeline(tmp_path):
    write_inputs(tmp_path / "inputs")
    return write_pipeline(tmp_path / "pipeline", tmp_path / "inputs")


def test_a_row_a_stage(pipeline):
    assert is_pipeline(pipeline)
    assert not is_pipeline(pipeline.parent / "pretrain.yaml")
    rows = {row["stage"]: row for row in plan_stages(pipeline, [])}
    stages = yaml.safe_load(pipeline.read_text())["train"]
    assert list(rows) == list(stages)
    first = TrainConfig(**stages["pretrain"]["config"])
    assert rows["pretrain"]["parameters"] == parameters(first.model, 400)
    assert {row["parameters"] for row in rows.values()} == {rows["pretrain"]["parameters"]}  # the parent's shape
    assert rows["pretrain"]["tokens"] == 40_000 * first.epochs
    assert rows["pretrain"]["steps"] == -(-rows["pretrain"]["tokens"] // first.batch_tokens)
    assert rows["pretrain"]["memory"] > 16 * rows["pretrain"]["parameters"]
    printed = io.StringIO()
    print_stages(list(rows.values()), Console(file=printed, width=160))
    assert "memory of each" in printed.getvalue()


def test_a_preset_of_a_pipeline(pipeline):
    rows = plan_stages(pipeline, ["train.pretrain.config={preset: 7b, max_steps: 1}"])
    assert 6.4e9 < rows[0]["parameters"] < 6.6e9  # with a vocabulary of 400
    assert (rows[0]["processes"], rows[0]["steps"]) == (8, 1)
    assert rows[1]["processes"] == 1
    print_stages(plan_stages(pipeline, []), Console(file=io.StringIO()))
    with pytest.raises(ConfigError, match="give one of a parent, a checkpoint and"):
        plan_stages(pipeline, ["train.sft.checkpoint=models/x"])
    given = plan_stages(pipeline, ["train.sft.checkpoint=models/x", "train.sft.parent=null"])
    assert (given[1]["parameters"], given[1]["memory"], given[3]["parameters"]) == (None, None, None)
    with pytest.raises(ConfigError, match="tiny"):
        plan_stages(pipeline, ["train.pretrain.config={preset: 8b}"])


def test_a_config_of_transformers_beside_the_pipeline(pipeline):
    settings = ["train.pretrain.config.model={config: qwen.json}"]
    with pytest.raises(ConfigError, match=r"qwen\.json: cannot be read"):
        load_pipeline(pipeline, settings)
    (pipeline.parent / "qwen.json").write_text('{"model_type": "qwen2", "hidden_size": 64}')
    loaded = load_pipeline(pipeline, settings)[0].train["pretrain"].config.model
    assert loaded.config == {"model_type": "qwen2", "hidden_size": 64}
    rows = plan_stages(pipeline, settings)
    assert len({row["parameters"] for row in rows}) == 1  # the parent's shape
    assert rows[0]["memory"] > 16 * rows[0]["parameters"] > 1e8
    assert rows[0]["steps"] > 0
    print_stages(rows, Console(file=io.StringIO()))
