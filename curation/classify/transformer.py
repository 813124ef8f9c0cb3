"""A `transformers` sequence classification model on texts, batched by length, on the GPU where there is one."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from curation.config import ConfigError

BATCH_TOKENS = 8192  # of a batch, padding included
LONGEST = 1_000_000  # a tokenizer that says more has no limit of its own


class TransformerModel:
    """A folder with config, safetensors and tokenizer. Nothing is fetched and no code of the folder is run.

    Several logits are a softmax over the labels. One logit is the sigmoid of a score: labels "0" and "1".
    """

    def __init__(self, folder: Path, prefix: int, max_tokens: int):
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            self._model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, **local)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder}: not a sequence classification model of transformers: {error}") from error
        config = self._model.config
        names = [config.id2label[place] for place in range(config.num_labels)]
        self.labels = names if len(names) > 1 else ["0", "1"]
        self._prefix = prefix
        positions = getattr(config, "max_position_embeddings", None) or LONGEST
        self._length = min(max_tokens, positions, self._tokenizer.model_max_length)
        self._pad = self._tokenizer.pad_token_id or 0
        config.pad_token_id = self._pad  # a decoder finds a row's last token by it
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.to(self._device).eval()
        self._lock = threading.Lock()  # threads would share the cores and the memory of the device

    def predict(self, texts: pa.LargeStringArray, asked: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `curation.classify.models.Model`. Batches are made of the texts of one call, shortest first."""
        beginnings = [text[: self._prefix] for text in texts.to_pylist()]
        with self._lock:
            ids = (
                self._tokenizer(beginnings, truncation=True, max_length=self._length)["input_ids"]
                if beginnings
                else []
            )
            chances = np.zeros((len(ids), len(self.labels)), np.float32)
            order = sorted(range(len(ids)), key=lambda row: (len(ids[row]), row))
            for rows in _by_length([max(1, len(ids[row])) for row in order]):
                places = [order[row] for row in rows]
                chances[places] = self._chances([ids[place] or [self._pad] for place in places])
        best = chances.argmax(axis=1).astype(np.int32)
        rows = np.arange(len(ids))
        return best, chances[rows, best], chances[:, asked] if asked >= 0 else np.zeros(len(ids), np.float32)

    def _chances(self, ids: list[list[int]]) -> np.ndarray:
        """Probabilities of the labels of one padded batch. Shape (rows, labels)."""
        longest = max(map(len, ids))
        padded = torch.tensor([one + [self._pad] * (longest - len(one)) for one in ids], device=self._device)
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=padded, attention_mask=mask).logits.float()
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # their softmax is the sigmoid
        return torch.softmax(logits, dim=1).cpu().numpy()


def _by_length(lengths: list[int]) -> list[range]:
    """Rising lengths cut into runs of at most BATCH_TOKENS with padding; one text at least in each."""
    batches, first = [], 0
    for row, length in enumerate(lengths):
        if row > first and (row - first + 1) * length > BATCH_TOKENS:
            batches.append(range(first, row))
            first = row
    return [*batches, range(first, len(lengths))] if lengths else []
