"""The tokenizer of a pipeline, trained on its pools or given, and the token counts of every document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from curation.chat import (
    DOCUMENT_COLUMNS,
    END_OF_TEXT,
    KIND_TRANSFORM,
    PAD,
    SPECIAL_TOKENS,
    chat_template,
    kind_of,
    plain_texts,
    segments,
)
from curation.config import Bytes, Count, Strict
from curation.encoder import CHOICE, FOLDER, Encoder, load_encoder
from curation.files import file_hash, json_hash, read_json, write_bytes, write_json, write_parquet
from curation.keys import key_of
from curation.shards import Picks, batches, pick
from curation.steps import Build, Context, StepOutput, step

# Pre-tokenization of cl100k (OpenAI's tiktoken), which the Dolma tokenizer derives from: contractions, words with
# one character before them, numbers of up to three digits, runs of signs, line breaks, blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LONGEST_SAMPLE = 1 << 16  # bytes of a document's beginning that training sees, so that a few books do not rule
PROOF_BYTES = 1 << 18  # of each source, on which fastokens is compared with tokenizers
PROOF_TEXTS = (
    "",
    " ",
    "\r\n\n \t x",
    "\x00\x01\x7f",
    "it's IT'S we'Ll 1234567 3.14",
    "é e\u0301 ﬁ 日本語 한국어 עברית 🎉👩‍👩‍👧 \u200b\ufeff",
    "".join(SPECIAL_TOKENS),
    "a " * 3000,
    "ab" * 3000,
)


class Tokenizer(Strict):
    """How to get the tokenizer: train a byte-level BPE, or take the Hugging Face folder at `path`."""

    vocab_size: Count = 32_000
    sample_bytes: Bytes = 64 << 20  # text to train on, by keyed hash from all alive documents
    seed: int = 0
    path: str | None = None  # a folder with tokenizer.json; the other settings have no effect then


def train_tokenizer(
    ctx: Context,
    pools: dict[str, StepOutput],
    measured: dict[str, StepOutput],
    ledgers: list[StepOutput],
    config: Tokenizer,
) -> StepOutput:
    """The step `tokenizer`: `tokenizer/`, a folder that AutoTokenizer loads, and `encoder.json`.

    `encoder.json` says which library encodes: fastokens if it gives the ids of tokenizers on a sample of every
    pool. It is no part of the step's content, which is that of `tokenizer/` alone (tokenizer.json and the chat
    template): what token ids depend on, and what mixes record as `tokenizer_hash`.
    """
    inputs = {f"pool/{source}": pool.content for source, pool in sorted(pools.items())}
    inputs |= {f"measured/{source}": output.content for source, output in sorted(measured.items())}
    inputs |= {f"ledger/{ledger.name}": ledger.content for ledger in ledgers}
    if config.path is None:
        literals = config.model_dump(mode="json", exclude={"path"})
    else:
        literals = {"seed": config.seed}
        inputs["given"] = _given_hash(Path(config.path))

    def work(build: Build) -> None:
        if config.path is None:
            key = key_of(config.seed, "tokenizer")
            picks = pick(pools, pools, measured, ledgers, key, weight=config.sample_bytes, largest=LONGEST_SAMPLE)
            tokenizer, settings = _train(_sample(picks), config.vocab_size), {}
            build.counts["sample_documents"] = sum(len(one.rows) for one in picks)
        else:
            tokenizer, settings = _given(Path(config.path))
        build.counts["vocab_size"] = tokenizer.get_vocab_size(with_added_tokens=True)
        _write_folder(build.folder / FOLDER, tokenizer, settings)
        choice = _prove(build.folder / FOLDER, pools, measured, ledgers, config.seed)
        write_json(build.scratch(CHOICE), choice)
        build.counts |= {"proof_texts": choice["texts"], "proof_tokens": choice["tokens"]}

    return step(ctx, "tokenizer", 1, literals, inputs, work)


def count_tokens(ctx: Context, pool: StepOutput, tokenizer: StepOutput) -> StepOutput:
    """The step `tokens/<source>`: for every document of the pool `id, tokens, tokens_plain` (uint32).

    tokens: as trained by default: text + end-of-text; chat by the template; pairs prompt + chosen and prompt +
    rejected, so the prompt counts twice. tokens_plain: as one text + end-of-text (of pairs prompt and chosen).
    """

    def work(build: Build) -> None:
        units = {path.stem: (str(path), str(tokenizer.folder)) for path in pool.shards()}
        results = build.map(count_shard, units, "threads").values()
        totals = {name: sum(result[name] for result in results) for name in COUNTED}
        library = load_encoder(tokenizer).library
        build.counts = {**totals, "documents_out": totals["documents_in"], "encoded_by": {library: len(units)}}

    inputs = {"pool": pool.content, "tokenizer": tokenizer.content}
    return step(ctx, f"tokens/{pool.source}", 1, {}, inputs, work)


COUNTED = ("documents_in", "tokens", "tokens_plain", "tokens_in_loss", "without_loss")


def count_shard(folder: Path, key: str, shard: str, tokenizer: str) -> dict[str, int]:
    """Count one shard. `without_loss` documents have no token to learn from, such as a chat without an answer."""
    encoder = load_encoder(Path(tokenizer))
    ids, tokens, plain = [], [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
    totals = dict.fromkeys(COUNTED, 0)
    for _, table in batches(Path(shard), DOCUMENT_COLUMNS):
        kind = kind_of(table)
        encoded = encoder.encode(segments(table, KIND_TRANSFORM[kind], encoder.specials))
        tokens.append(encoded.lengths.astype(np.uint32))
        if kind == "text":
            plain.append(tokens[-1])
        else:
            plain.append(encoder.encode(segments(table, "chat_plain", encoder.specials)).lengths.astype(np.uint32))
        in_loss = encoded.in_loss
        totals["tokens_in_loss"] += int(in_loss.sum())
        totals["without_loss"] += int((in_loss == 0).sum())
        ids.extend(table["id"].to_pylist())
    counted = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "tokens": pa.array(np.concatenate(tokens), pa.uint32()),
            "tokens_plain": pa.array(np.concatenate(plain), pa.uint32()),
        }
    )
    write_parquet(folder / "shards" / f"{key}.parquet", counted)
    totals["documents_in"] = len(counted)
    totals |= {name: int(counted[name].to_numpy().sum(dtype=np.int64)) for name in ("tokens", "tokens_plain")}
    return totals


def _sample(picks: list[Picks]) -> Iterator[list[str]]:
    for one in picks:
        for _, table in batches(one.path, DOCUMENT_COLUMNS, one.rows):
            yield [_beginning(text) for text in plain_texts(table)]


def _beginning(text: str) -> str:
    return text[:LONGEST_SAMPLE].encode()[:LONGEST_SAMPLE].decode(errors="ignore")


def _train(sample: Iterator[list[str]], vocab_size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def _given_hash(path: Path) -> str:
    files = [path / "tokenizer.json", path / "tokenizer_config.json"]
    if not files[0].is_file():
        raise FileNotFoundError(f"{files[0]}: no such file; tokenizer.path names a Hugging Face tokenizer folder")
    return json_hash({file.name: file_hash(file) for file in files if file.is_file()})


def _given(path: Path) -> tuple[tokenizers.Tokenizer, dict]:
    """The tokenizer of a folder, with those of our special tokens added that it lacks, and its configuration."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    ends = {name: _token_text(settings.get(name)) for name in ("eos_token", "pad_token")}
    if ends["pad_token"] == ends["eos_token"]:
        ends["pad_token"] = None
    own = {"eos_token": END_OF_TEXT, "pad_token": PAD}
    ends = {name: text or own[name] for name, text in ends.items()}
    needed = [token for token in SPECIAL_TOKENS if token not in own.values()] + sorted(ends.values())
    missing = [token for token in needed if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    return tokenizer, ends


def _token_text(value: str | dict | None) -> str | None:
    """A special token as tokenizer_config.json has it: a string or an AddedToken's mapping."""
    return value["content"] if isinstance(value, dict) else value


def _write_folder(folder: Path, tokenizer: tokenizers.Tokenizer, settings: dict) -> None:
    write_bytes(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
        "chat_template": chat_template(),
    }
    write_json(folder / "tokenizer_config.json", {**config, **settings})


def _prove(
    folder: Path,
    pools: dict[str, StepOutput],
    measured: dict[str, StepOutput],
    ledgers: list[StepOutput],
    seed: int,
) -> dict:
    """Compare fastokens with tokenizers on hard texts and a sample of every pool; the choice and its grounds."""
    reference = Encoder(folder, "tokenizers")
    choice = {"library": "fastokens", "texts": 0, "tokens": 0, "hash": "", "reason": None}
    try:
        fast = Encoder(folder, "fastokens")
    except ValueError as error:  # fastokens reads BPE alone
        return {**choice, "library": "tokenizers", "reason": str(error)}
    digest = hashlib.sha256()
    for name, texts in _proof_texts(pools, measured, ledgers, seed):
        expected, starts = reference.contents(texts)
        found, found_starts = fast.contents(texts)
        if not (np.array_equal(expected, found) and np.array_equal(starts, found_starts)):
            return {
                **choice,
                "library": "tokenizers",
                "reason": f"fastokens gives other ids in a sample of {name}",
            }
        digest.update(expected.tobytes())
        choice["texts"] += len(texts)
        choice["tokens"] += len(expected)
    return {**choice, "hash": digest.hexdigest()}


def _proof_texts(pools, measured, ledgers, seed) -> Iterator[tuple[str, list[str]]]:
    yield "hard texts", list(PROOF_TEXTS)
    for source in sorted(pools):
        key = key_of(seed, f"tokenizer/proof/{source}")
        for one in pick([source], pools, measured, ledgers, key, weight=PROOF_BYTES, largest=LONGEST_SAMPLE):
            for _, table in batches(one.path, DOCUMENT_COLUMNS, one.rows):
                yield source, [_beginning(text) for text in plain_texts(table)]
