"""Training a byte-level BPE, taking a given tokenizer over, and writing either as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from curation.chat import END_OF_TEXT, PAD, SPECIAL_TOKENS, chat_template
from curation.files import file_hash, json_hash, read_json, write_bytes, write_json
from curation.tokenizer.config import Tokenizer
from curation.tokenizer.counter import byte_characters
from curation.tokenizer.splits import STYLES
from curation.tokenizer.training import count_words, merges_of

FILES = ("tokenizer.json", "tokenizer_config.json")


def train_bpe(texts: Iterator[list[str]], config: Tokenizer) -> tokenizers.Tokenizer:
    """A BPE over bytes, so that any text comes back; the special tokens have the first ids.

    By kernels of our own where they know the split, by `tokenizers` for any other: with the same result.
    """
    special = [_special(token) for token in (*SPECIAL_TOKENS, *config.special_tokens)]
    if config.split not in STYLES:
        return train_by_library(texts, config, special)
    tokenizer = _untrained(config)
    tokenizer.model = models.BPE(*_learned(texts, config, [token.content for token in special]))
    tokenizer.add_special_tokens(special)
    return tokenizer


def train_by_library(
    texts: Iterator[list[str]], config: Tokenizer, special: list[AddedToken]
) -> tokenizers.Tokenizer:
    """As `train_bpe`, by the trainer of `tokenizers`."""
    tokenizer = _untrained(config)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _learned(
    texts: Iterator[list[str]], config: Tokenizer, special: list[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary, and the merges in their order, both in the characters that stand for bytes."""
    characters = byte_characters()
    bytes_of = {character: byte for byte, character in enumerate(characters)}
    known = list(dict.fromkeys([*special, *sorted(characters)]))
    places = {token: place for place, token in enumerate(known)}
    in_bytes = [bytes(map(bytes_of.get, token)) if bytes_of.keys() >= set(token) else None for token in known]
    words, counts = count_words(texts, config.split)
    ids = np.array([places[character] for character in characters])
    found, pairs = merges_of(words, counts, ids, in_bytes, config.vocab_size, config.min_frequency)
    tokens = known + ["".join(characters[byte] for byte in token) for token in found]
    merges = {}
    for pair in pairs:  # of a pair that is given twice the last one holds
        merges.pop(pair, None)
        merges[pair] = tokens[pair[0]], tokens[pair[1]]
    return {token: number for number, token in enumerate(tokens)}, list(merges.values())


def _untrained(config: Tokenizer) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(config.pattern), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def folder_hash(path: Path, setting: str) -> str:
    """Hash of the files of a tokenizer's folder that we read. `setting`, the key that names it, is for errors."""
    files = [path / name for name in FILES]
    if not files[0].is_file():
        raise FileNotFoundError(f"{files[0]}: no such file; {setting} names a Hugging Face tokenizer folder")
    return json_hash({file.name: file_hash(file) for file in files if file.is_file()})


def read_folder(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder, without truncation and padding."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path / FILES[0]))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def take_given(path: Path, special_tokens: tuple[str, ...]) -> tuple[tokenizers.Tokenizer, dict]:
    """The tokenizer of a folder, with those special tokens added that it lacks, and its configuration."""
    tokenizer = read_folder(path)
    settings = read_json(path / FILES[1]) if (path / FILES[1]).is_file() else {}
    ends = {name: _token_text(settings.get(name)) for name in ("eos_token", "pad_token")}
    if ends["pad_token"] == ends["eos_token"]:
        ends["pad_token"] = None
    own = {"eos_token": END_OF_TEXT, "pad_token": PAD}
    ends = {name: text or own[name] for name, text in ends.items()}
    needed = [token for token in SPECIAL_TOKENS if token not in own.values()] + sorted(ends.values())
    missing = [token for token in (*needed, *special_tokens) if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([_special(token) for token in missing])
    return tokenizer, ends


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _token_text(value: str | dict | None) -> str | None:
    """A special token as tokenizer_config.json has it: a string or an AddedToken's mapping."""
    return value["content"] if isinstance(value, dict) else value


def write_folder(folder: Path, tokenizer: tokenizers.Tokenizer, settings: dict) -> None:
    """The folder that AutoTokenizer loads, with the chat template of `curation.chat`."""
    write_bytes(folder / FILES[0], tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
        "chat_template": chat_template(),
    }
    write_json(folder / FILES[1], {**config, **settings})
