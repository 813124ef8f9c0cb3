"""How well a tokenizer fits: bytes per token of every source, beside those of a reference tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from curation.encoder import Encoder
from curation.keys import key_of
from curation.shards import Picks, in_order, pick
from curation.steps import StepOutput
from curation.tokenizer.bpe import read_folder
from curation.tokenizer.config import Tokenizer
from curation.tokenizer.sample import LONGEST, Outputs, Texts

REPORT = "report.json"


def pick_shown(
    source: str, pools: Outputs, measured: Outputs, ledgers: list[StepOutput], config: Tokenizer
) -> list[Picks]:
    """The sample of a source: `report_bytes` of alive documents by keyed hash."""
    key = key_of(config.seed, f"tokenizer/report/{source}")
    return pick([source], pools, measured, ledgers, key, weight=config.report_bytes, largest=LONGEST)


def measure_fit(
    encoder: Encoder,
    alive: dict[str, int],
    shown: dict[str, list[Picks]],
    texts: Texts,
    config: Tokenizer,
    trained_on: list[Picks],
    threads: int,
) -> dict[str, Any]:
    """`{sources: [line], whole: line, reference}`; a line has counts of a sample and bytes per token.

    By source: `alive` bytes of text; the sample of `pick_shown`, and its `texts`, each the first 64 KiB of a
    document, contents alone: no special tokens. `documents_trained_on` says how many of them training has seen.
    `whole` weighs each source by its alive bytes.
    """
    reference = None
    if config.reference is not None:
        reference = read_folder(Path(config.reference))
        reference.encode_special_tokens = True
    seen = {one.path: one.rows for one in trained_on}

    def line(source: str) -> dict[str, Any]:
        counted = _count(shown[source], texts.get(source, []), seen, encoder, reference)
        return {"source": source, "pool_bytes": alive[source], **counted}

    lines = list(in_order(line, sorted(shown), threads))
    return {
        "vocab_size": encoder.vocab_size,
        "reference": None
        if reference is None
        else {"vocab_size": reference.get_vocab_size(with_added_tokens=True)},
        "sources": lines,
        "whole": _whole(lines, "reference_tokens" if reference else None),
    }


def _count(
    picks: list[Picks],
    texts: list[str],
    seen: dict[Path, np.ndarray],
    encoder: Encoder,
    reference: tokenizers.Tokenizer | None,
) -> dict[str, Any]:
    line: dict[str, Any] = {
        "documents": len(texts),
        "documents_trained_on": sum(int(np.isin(one.rows, seen.get(one.path, ())).sum()) for one in picks),
        "bytes": sum(len(text.encode()) for text in texts),
        "tokens": int(encoder.lengths(texts).sum()),
    }
    if reference is not None:
        encoded = reference.encode_batch_fast(texts, add_special_tokens=False)
        line["reference_tokens"] = sum(len(each.ids) for each in encoded)
    for tokens, rate in (("tokens", "bytes_per_token"), ("reference_tokens", "reference_bytes_per_token")):
        if tokens in line:
            line[rate] = round(line["bytes"] / line[tokens], 6) if line[tokens] else None
    return line


def _whole(lines: list[dict[str, Any]], reference: str | None) -> dict[str, Any]:
    """All sources as one text: their bytes, over the tokens that they would be at the rates of the samples."""
    whole: dict[str, Any] = {
        name: sum(line[name] for line in lines) for name in ("documents", "bytes", "pool_bytes")
    }
    for tokens, rate in (("tokens", "bytes_per_token"), (reference, "reference_bytes_per_token")):
        if tokens is not None:
            counted = [line for line in lines if line[tokens]]
            size = sum(line["pool_bytes"] for line in counted)
            estimate = sum(line["pool_bytes"] * line[tokens] / line["bytes"] for line in counted)
            whole[rate] = round(size / estimate, 6) if estimate else None
    return whole
