"""What a checkpoint knows of held-out data: bits per byte by source, accuracy on pairs, samples of text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel

from curation.files import read_json
from curation.steps import Build, StepOutput
from training.batch import make_batch
from training.config import EvaluateConfig
from training.data import Data, open_data
from training.head import cross_entropy
from training.model import device, fixed_arithmetic, head_weight, hidden_states, load_causal, load_reward
from training.pair_accuracy import choose, pair_accuracy
from training.plan import best_fit_decreasing
from training.samples import continuations

FORMAT = 1
CHAT_KINDS = ("instruction", "preference")  # kinds of mixes after which a model can be asked
NATS_PER_BIT = float(np.log(2))


def evaluate_stage(
    build: Build,
    stage: str,
    checkpoint: StepOutput,
    tokenizer: StepOutput,
    text: StepOutput | None,
    pairs: StepOutput | None,
    config: EvaluateConfig,
    reference: StepOutput | None,
) -> None:
    """The work of `training.station.evaluate`.

    `evaluation.json`: format, stage, method, checkpoint (content hash), and what applies of
    text and answers (see `bits_per_byte`; answers are the chosen completions of the pairs, given their prompts),
    pairs (see `pair_accuracy`), samples (see `training.samples.continuations`).
    """
    head = read_json(checkpoint.folder / "checkpoint.json")
    method = head["method"]
    result: dict[str, Any] = {
        "format": FORMAT,
        "stage": stage,
        "method": method,
        "checkpoint": checkpoint.content,
    }
    vocabulary = tokenizer.folder / "tokenizer"
    documents, held_out = _open(text), _open(pairs)
    build.context.progress.begin(build.name, 3)
    with fixed_arithmetic(config.threads, config.seed), torch.no_grad():
        load = load_reward if method == "reward" else load_causal
        model = load(checkpoint.folder / "model").to(device()).eval()
        if documents and method != "reward":
            result["text"] = bits_per_byte(model, documents, config)
        if held_out and method != "reward":
            result["answers"] = bits_per_byte(model, _answers(held_out, vocabulary), config)
        build.context.progress.advance(build.name, note="bits per byte")
        if held_out and method != "causal":
            result["pairs"] = pair_accuracy(model, method, held_out, reference, config)
        build.context.progress.advance(build.name, note="pairs")
        if method != "reward" and config.samples:
            model.set_attn_implementation("sdpa")
            in_chat = [held_out] if held_out and head["kind"] in CHAT_KINDS else []
            prompts = [*in_chat, *([documents] if documents else [])]
            result["samples"] = continuations(model, vocabulary, prompts, config)
        build.context.progress.advance(build.name, note="samples")
    build.write_json("evaluation.json", result)
    build.counts = _counts(result)


def bits_per_byte(model: PreTrainedModel, data: Data, config: EvaluateConfig) -> dict[str, Any]:
    """Bits that the model needs for a byte of held-out text, by source and in all.

    bits: the negative log2-likelihood of every token in the loss, the end token too, since a code must say where
    a document ends. A document longer than the window is scored window by window; each window begins with the
    last token of the one before it, so every token is scored once. The first token of a document has nothing
    before it and costs log2 of the vocabulary. bytes: UTF-8 bytes of the text in the loss.
    Returns {window, all, by_source: {source: ...}}, each line {documents, windows, tokens, bytes, bits,
    bits_per_byte}.
    """
    rows = choose(data, data.length, config.text_tokens)
    windows = [_windows(int(data.start[row]), int(data.length[row]), config.window) for row in rows]
    of_row = np.repeat(np.arange(len(rows)), [len(spans) for spans in windows])
    spans = np.array([span for document in windows for span in document], np.int64).reshape(-1, 2)
    bits = np.zeros(len(rows))
    tokens = np.zeros(len(rows), np.int64)
    first_in_loss = np.asarray(data.mask)[data.start[rows]].astype(bool)
    bits[first_in_loss] = np.log2(data.head["vocab_size"])
    tokens[first_in_loss] = 1
    weight = head_weight(model)
    for members in best_fit_decreasing(spans[:, 1], config.micro_batch_tokens):
        chosen = np.array(members)
        batch = make_batch(
            data,
            rows[of_row[chosen]],
            spans[chosen, 0],
            spans[chosen, 1],
            np.zeros(len(chosen), np.int64),
            device(),
        )
        _, nll = cross_entropy(hidden_states(model, batch, batch.selected), weight, batch.targets)
        at = of_row[chosen][batch.sequence]
        bits += np.bincount(at, nll.double().cpu().numpy() / NATS_PER_BIT, len(rows))
        tokens += np.bincount(at, minlength=len(rows))

    def line(which: np.ndarray) -> dict[str, Any]:
        size = int(data.bytes[rows[which]].sum())
        total = float(bits[which].sum())
        return {
            "documents": int(which.sum()),
            "windows": int(which[of_row].sum()),
            "tokens": int(tokens[which].sum()),
            "bytes": size,
            "bits": total,
            "bits_per_byte": total / size if size else None,
        }

    by_source = {name: line(data.source[rows] == position) for position, name in enumerate(data.sources)}
    return {"window": config.window, "all": line(np.ones(len(rows), bool)), "by_source": by_source}


def _open(output: StepOutput | None) -> Data | None:
    """The held-out data, None where there is none."""
    data = None if output is None else open_data(output)
    return data if data is not None and data.rows else None


def _answers(data: Data, tokenizer: Path) -> Data:
    """Held-out pairs seen as documents: the chosen completion in the loss, and its own size in bytes."""
    decoder = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    sizes = np.zeros(data.rows, np.int64)
    for row, (start, length) in enumerate(zip(data.start.tolist(), data.length.tolist(), strict=True)):
        span = slice(start, start + length)
        sizes[row] = len(
            decoder.decode(data.tokens[span][data.mask[span] == 1], skip_special_tokens=True).encode()
        )
    return replace(data, bytes=sizes)


def _windows(start: int, length: int, window: int) -> list[tuple[int, int]]:
    """(start, length) of spans of at most `window` tokens, each beginning with the last one of the span before."""
    return [(start + at, min(window, length - at)) for at in range(0, max(1, length - 1), window - 1)]


def _counts(result: dict[str, Any]) -> dict[str, int]:
    parts = [result[name]["all"] for name in ("text", "pairs") if name in result]
    documents = sum(part.get("documents", part.get("pairs", 0)) for part in parts)
    return {"documents_in": documents, "documents_out": documents}
