"""The settings of the tokenizer step, and the named ways to split a text before merging."""

from __future__ import annotations

import re

import tokenizers
from pydantic import Field, field_validator, model_validator

from curation.chat import SPECIAL_TOKENS
from curation.config import Bytes, Count, Strict

# No merge crosses the pieces that a pattern finds; what it does not match is a piece too.
# cl100k: that of OpenAI's tiktoken, from which the tokenizers of Dolma and Llama 3 derive: contractions, words
# with one character before them, numbers of up to three digits, runs of signs, line breaks, blanks.
# digits: the same with every digit a piece of its own, as in Qwen 2.
# gpt2: that of GPT-2, with numbers whole.
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITS = {
    "cl100k": _WORDS + r"|\p{N}{1,3}" + _REST,
    "digits": _WORDS + r"|\p{N}" + _REST,
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
BYTES = 256
TRAINING = ("vocab_size", "split", "min_frequency", "sample_bytes", "weights", "mix")


class Tokenizer(Strict):
    """How to get the tokenizer: train a byte-level BPE, or take the Hugging Face folder at `path`."""

    vocab_size: Count = 32_000  # with the special tokens
    split: str = "cl100k"  # a name of SPLITS, or a regular expression (Oniguruma)
    min_frequency: Count = Field(0, ge=0)  # a pair that the sample holds less often is not merged
    special_tokens: tuple[str, ...] = ()  # besides our own (curation.chat.SPECIAL_TOKENS)
    sample_bytes: Bytes = Field(64 << 20, gt=0)  # text to train on, by keyed hash from all alive documents
    weights: dict[str, float] = Field(default_factory=dict)  # of the sample, by source; none: as the pools are
    mix: str | None = None  # the folder of a mix of these pools: train on its documents, as often as it has them
    seed: int = 0
    path: str | None = None  # a folder with tokenizer.json, taken instead of training
    reference: str | None = None  # a folder with tokenizer.json: the report compares bytes per token with it
    report_bytes: Bytes = Field(1 << 20, gt=0)  # text of each source for the report and, a part of it, the proof

    @field_validator("split")
    @classmethod
    def _is_a_pattern(cls, split: str) -> str:
        if split in SPLITS:
            return split
        if re.fullmatch(r"[\w-]*", split):
            raise ValueError(f"no split '{split}': give one of {', '.join(SPLITS)} or a regular expression")
        try:
            tokenizers.Regex(split)
        except Exception as error:  # the library raises no narrower type
            raise ValueError(f"split {split!r} is no regular expression: {error}") from None
        return split

    @field_validator("special_tokens")
    @classmethod
    def _are_new(cls, special: tuple[str, ...]) -> tuple[str, ...]:
        wrong = sorted({token for token in special if not token.strip() or token in SPECIAL_TOKENS})
        if wrong or len(set(special)) < len(special):
            raise ValueError(f"special tokens are given twice, empty or there already: {wrong or list(special)}")
        return special

    @field_validator("weights")
    @classmethod
    def _are_positive(cls, weights: dict[str, float]) -> dict[str, float]:
        if wrong := [name for name, weight in weights.items() if not 0 < weight < float("inf")]:
            raise ValueError(
                f"weights of {', '.join(wrong)}: expected numbers above 0; leave a source out for none"
            )
        return weights

    @model_validator(mode="after")
    def _fits(self) -> Tokenizer:
        if self.path is not None:
            if given := [name for name in TRAINING if name in self.model_fields_set]:
                raise ValueError(f"the tokenizer at path is taken as it is: remove {', '.join(given)}")
        elif self.vocab_size < (least := BYTES + len(SPECIAL_TOKENS) + len(self.special_tokens)):
            raise ValueError(f"vocab_size {self.vocab_size} is below {least}: bytes and special tokens")
        if self.mix is not None and self.weights:
            raise ValueError("a mix has its own proportions: remove weights")
        return self

    @property
    def pattern(self) -> str:
        """The regular expression of the split."""
        return SPLITS.get(self.split, self.split)
