"""A checkpoint from elsewhere: any causal model of transformers in a folder, taken in as a stage's parent."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from curation.files import remove, write_json
from curation.steps import Build, StepOutput, write_folder
from training.model import find_specials, load_causal, save_model
from training.size import rows

TOKENIZER = "tokenizer.json"


def take(build: Build, folder: Path, tokenizer: StepOutput) -> None:
    """The work of `training.station.given_checkpoint`: the model in float32, a row for each id of the tokenizer.

    Rows that the model lacks are drawn as transformers draws new ones, from a generator of a fixed seed. Raises
    ValueError where a token of the folder's own tokenizer has another id in the pipeline's.
    """
    vocabulary = tokenizer.folder / "tokenizer"
    _require_same_ids(folder, vocabulary)
    model = load_causal(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _make_room(model, max(Tokenizer.from_file(str(vocabulary / TOKENIZER)).get_vocab().values()) + 1)
    specials = find_specials(vocabulary)
    model.config.pad_token_id, model.config.eos_token_id = specials.pad, specials.end_of_text
    model.generation_config.eos_token_id = [specials.end_of_text, specials.end_of_turn]
    model.generation_config.pad_token_id = specials.pad
    remove(build.folder / "model")
    write_folder(build.folder / "model", lambda temporary: save_model(model, vocabulary, temporary))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    head = {"method": "causal", "kind": "given", "tokenizer": tokenizer.content, "parameters": parameters}
    write_json(build.folder / "checkpoint.json", head)


def _require_same_ids(folder: Path, vocabulary: Path) -> None:
    path = folder / TOKENIZER
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; the checkpoint's tokenizer shows whether its ids are the pipeline's"
        )
    known = Tokenizer.from_file(str(vocabulary / TOKENIZER)).get_vocab()
    for token, number in sorted(Tokenizer.from_file(str(path)).get_vocab().items()):
        if known.get(token) != number:
            raise ValueError(
                f"{path}: token {token!r} has id {number}, in the pipeline's tokenizer {known.get(token)}; "
                f"give the pipeline this one, tokenizer: {{path: {folder}}}"
            )


def _make_room(model: PreTrainedModel, ids: int) -> None:
    """A row of the embedding for each id; a model that has them already stays as it is."""
    if model.get_input_embeddings().num_embeddings < ids:
        model.resize_token_embeddings(rows(ids))
