"""A tokenizer and materialised data from literals, in the format that trainers read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from curation.chat import SPECIAL_TOKENS, chat_template
from curation.files import write_bytes
from curation.keys import key_of, keyed_hash
from curation.schema import document_id
from curation.steps import Context, StepOutput, step
from training import launch
from training.config import ModelConfig, TrainConfig

BYTES = 256  # ids 0 to 255 are bytes; the special tokens follow
END_OF_TEXT, PAD, SYSTEM, USER, ASSISTANT, TOOL, END = range(BYTES, BYTES + 7)
VOCABULARY = BYTES + len(SPECIAL_TOKENS)
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # for a process: torch in this one would go on without its GPU
TINY = ModelConfig(hidden_size=32, layers=2, heads=4, kv_heads=2, max_position=256)


@dataclass
class Row:
    """One document, or one pair, as tokens."""

    source: str
    tokens: list[int]
    mask: list[int]
    copies: int = 1
    prompt: int = 0
    rejected: tuple[list[int], list[int]] | None = field(default=None)  # tokens and mask
    margin: float | None = None


def text(source: str, content: str, copies: int = 1) -> Row:
    tokens = [*content.encode(), END_OF_TEXT]
    return Row(source, tokens, [1] * len(tokens), copies)


def chat(source: str, question: str, answer: str, copies: int = 1) -> Row:
    prompt = [USER, *question.encode(), END, ASSISTANT]
    reply = [*answer.encode(), END]
    return Row(source, prompt + reply, [0] * len(prompt) + [1] * len(reply), copies)


def pair(source: str, question: str, chosen: str, rejected: str, copies: int = 1) -> Row:
    prompt = [USER, *question.encode(), END]

    def side(answer: str) -> tuple[list[int], list[int]]:
        reply = [ASSISTANT, *answer.encode(), END]
        return prompt + reply, [0] * (len(prompt) + 1) + [1] * (len(reply) - 1)

    tokens, mask = side(chosen)
    return Row(source, tokens, mask, copies, len(prompt), side(rejected))


def write_data(context: Context, name: str, rows: list[Row], seed: int = 0) -> StepOutput:
    """A `data/<name>` step with these rows, sorted as a manifest is."""
    ids = [document_id(row.source, repr((row.tokens, row.rejected)).encode()) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: (rows[place].source, ids[place]))
    rows, ids = [rows[place] for place in order], [ids[place] for place in order]

    def work(build):
        tokens, mask, index = [], [], []
        for row, identity, key in zip(rows, ids, keyed_hash(ids, key_of(seed, "order")).tolist(), strict=True):
            entry = {
                "id": identity,
                "source": row.source,
                "bucket": "all",
                "start": len(tokens),
                "length": len(row.tokens),
                "copies": row.copies,
                "order": key,
                "bytes": sum(token < BYTES for token, kept in zip(row.tokens, row.mask, strict=True) if kept),
            }
            tokens += row.tokens
            mask += row.mask
            if row.rejected is not None:
                rejected, rejected_mask = row.rejected
                entry |= {
                    "prompt_length": row.prompt,
                    "rejected_start": len(tokens),
                    "rejected_length": len(rejected),
                    "margin": row.margin,
                }
                tokens += rejected
                mask += rejected_mask
            index.append(entry)
        types = {"id": pa.string(), "source": pa.string(), "bucket": pa.string(), "start": pa.int64()}
        types |= {"length": pa.uint32(), "copies": pa.uint16(), "order": pa.uint64(), "bytes": pa.uint64()}
        if rows[0].rejected is not None:
            types |= {"prompt_length": pa.uint32(), "rejected_start": pa.int64(), "rejected_length": pa.uint32()}
        if any(row.margin is not None for row in rows):
            types["margin"] = pa.float32()
        build.write_table("index.parquet", pa.Table.from_pylist(index, schema=pa.schema(list(types.items()))))
        write_bytes(build.folder / "tokens.bin", np.array(tokens, "<u2").tobytes())
        write_bytes(build.folder / "mask.bin", np.array(mask, np.uint8).tobytes())
        head = {"kind": name, "dtype": "uint16", "vocab_size": VOCABULARY, "tokens": len(tokens)}
        head |= {"in_loss": sum(mask), "tokenizer_hash": "0" * 64, "manifest_hash": f"{seed:064d}"}
        build.write_json("data.json", head)

    literals = {"rows": repr(rows), "seed": seed}
    return step(context, f"data/{name}", 1, literals, {}, work)


def write_tokenizer(context: Context) -> StepOutput:
    """A `tokenizer` step: bytes and the special tokens, nothing merged."""

    def work(build):
        byte_symbols = _byte_symbols()
        vocabulary = {symbol: byte for byte, symbol in byte_symbols.items()}
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[1]
        )
        fast.chat_template = chat_template()
        fast.save_pretrained(build.folder / "tokenizer")

    return step(context, "tokenizer", 1, {}, {}, work)


def _byte_symbols() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


SENTENCE = "the quick brown fox jumps over the lazy dog while seven wizards mix a pool of tokens"
WORDS = SENTENCE.split()


def sentences(count: int, words: int, seed: int) -> list[str]:
    """Texts of a few known words, so that a tiny model learns something in a few steps."""
    chance = np.random.default_rng(seed)
    return [" ".join(chance.choice(WORDS, int(chance.integers(2, words)))) for _ in range(count)]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Also for what tests compute outside of a stage."""
    torch.set_num_threads(1)


@pytest.fixture
def on_cpu(monkeypatch):
    """Neither the test nor the ranks that it starts see a GPU. Stages train on one; but a model that a test makes
    is on the CPU, where its batches have to be too, and each of several ranks would want a GPU of its own."""
    honest = launch._environment
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(launch, "_environment", lambda: {**honest(), **NO_GPU})


@pytest.fixture
def tokenizer(context: Context) -> StepOutput:
    return write_tokenizer(context)


@pytest.fixture
def texts(context: Context) -> StepOutput:
    rows = [text("web", content) for content in sentences(30, 12, 1)]
    rows += [text("books", content, copies=2) for content in sentences(6, 60, 2)]
    return write_data(context, "pretrain", rows)


@pytest.fixture
def chats(context: Context) -> StepOutput:
    return write_data(context, "instruct", [chat("talk", q, q.upper()) for q in sentences(30, 6, 3)])


@pytest.fixture
def pairs(context: Context) -> StepOutput:
    rows = [
        pair("judged", q, q.upper(), "no " * (1 + n % 4), 1 + n % 2) for n, q in enumerate(sentences(30, 6, 4))
    ]
    return write_data(context, "preference", rows)


@pytest.fixture
def tiny() -> TrainConfig:
    """A run of about eight steps on `texts`. One thread: two wait for each other on a busy machine."""
    return TrainConfig(
        model=TINY,
        sequence_length=64,
        batch_tokens=512,
        micro_batch_tokens=256,
        learning_rate=3e-3,
        warmup_steps=1,
        threads=1,
    )
