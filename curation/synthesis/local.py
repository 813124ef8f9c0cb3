"""A generator in this process: a causal model of `transformers`, its weights read from safetensors alone.

What is guaranteed. A token is the likeliest one, or drawn by the document's own stream of random numbers, so no
document's randomness depends on another's. Batches have a fixed shape: `batch_size` rows, filled up with copies,
and a prompt length rounded up to a multiple of BUCKET, which the prompt alone decides. A row's arithmetic is then
the same whatever shares its batch, as far as the kernels treat rows alike: on the CPU with a fixed number of
threads and the same libraries and processor, the same request gives the same answer. Other hardware, library
versions, thread counts, batch sizes or number types may round otherwise, and all but the processor are part of
the generator's identity.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessor, PreTrainedModel
from transformers.utils import logging

from curation.config import ConfigError
from curation.executor import Executor
from curation.files import json_hash
from curation.read.inventory import find_files, inventory
from curation.synthesis.config import LocalModel, Sampling
from curation.synthesis.generation import Answer, Completion, Failure, Request

BUCKET = 32  # tokens: prompts are padded to a multiple
FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # weights, configs, tokenizer
SAFE = {"local_files_only": True, "trust_remote_code": False}  # nothing fetched, no code of the folder run
PLACE = "\ue000prompt\ue001"  # stands for the prompt in a chat template


class LocalGenerator:
    """Answers in batches of prompts of about one length. The weights are loaded with the first batch."""

    def __init__(self, config: LocalModel, sampling: Sampling, identity: dict[str, Any]):
        self._config, self._sampling, self.identity = config, sampling, identity
        self._tokenizer = AutoTokenizer.from_pretrained(config.model, **SAFE)
        if config.mode == "chat" and not self._tokenizer.chat_template:
            raise ConfigError(
                f"{config.model}: mode is chat, but the tokenizer has no chat template; use mode: text"
            )

    def __enter__(self) -> LocalGenerator:
        return self

    def __exit__(self, *exception) -> None:
        self.__dict__.pop("_model", None)  # the weights

    @functools.cached_property
    def _model(self) -> PreTrainedModel:
        with _no_bars():
            model = AutoModelForCausalLM.from_pretrained(
                self._config.model,
                dtype=getattr(torch, self._config.dtype),
                attn_implementation="sdpa",
                use_safetensors=True,
                **SAFE,
            )
        ends = model.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        pad = self._tokenizer.pad_token_id
        # The folder's own habits (penalties, sampling) are set aside: the pipeline file says how tokens are drawn.
        model.generation_config = GenerationConfig(
            max_new_tokens=self._sampling.max_tokens, do_sample=False, eos_token_id=ends, pad_token_id=pad or 0
        )
        return model.to(self._config.device).eval()

    def beginning(self, text: str, tokens: int) -> str:
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        offsets = encoded["offset_mapping"]
        return text if len(offsets) <= tokens else text[: offsets[tokens][0]]

    def answer(self, requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        prompts = [self._encode(request.prompt) for request in requests]
        longest = getattr(self._model.config, "max_position_embeddings", None) if requests else None
        buckets: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            needed = len(prompt) + self._sampling.max_tokens
            if not prompt:
                yield place, Failure("the prompt has no tokens")
            elif longest is not None and needed > longest:
                yield (
                    place,
                    Failure(f"prompt and max_tokens are {needed} tokens, the model holds {longest}; cut more"),
                )
            else:
                buckets.setdefault(-(-len(prompt) // BUCKET) * BUCKET, []).append(place)
        size = self._config.batch_size
        for length, places in sorted(buckets.items()):
            for first in range(0, len(places), size):
                batch = places[first : first + size]
                seeds = [requests[place].seed for place in batch]
                yield from zip(
                    batch, self._generate([prompts[place] for place in batch], seeds, length), strict=True
                )

    def _encode(self, prompt: str) -> list[int]:
        """Token ids. A special token that is spelled in a prompt is text, so that no document can end a turn."""
        if self._config.mode == "text":
            return self._tokenizer(prompt, split_special_tokens=True, verbose=False)["input_ids"]
        turn = [{"role": "user", "content": PLACE}]
        frame = self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        if frame.count(PLACE) != 1:
            raise ConfigError(f"{self._config.model}: the chat template does not hold a user's turn as it is")
        before, after = frame.split(PLACE)
        parts = ((before, False), (prompt, True), (after, False))
        return [
            token
            for part, plain in parts
            for token in self._tokenizer(
                part, add_special_tokens=False, split_special_tokens=plain, verbose=False
            )["input_ids"]
        ]

    def _generate(self, prompts: list[list[int]], seeds: list[int | None], length: int) -> list[Completion]:
        """Answers to prompts of at most `length` tokens, padded on the left to that length and to a full batch."""
        filled = [*range(len(prompts)), *[0] * (self._config.batch_size - len(prompts))]
        tokens = torch.full((len(filled), length), self._model.generation_config.pad_token_id)
        mask = torch.zeros_like(tokens)
        for row, place in enumerate(filled):
            tokens[row, length - len(prompts[place]) :] = torch.tensor(prompts[place])
            mask[row, length - len(prompts[place]) :] = 1
        draws = None
        if self._sampling.temperature > 0:
            draws = torch.stack([_stream(seeds[place], self._sampling.max_tokens) for place in filled])
        chooser = _Chooser(length, len(self._tokenizer), self._sampling, draws)
        with _threads(self._config.threads), torch.inference_mode():
            output = self._model.generate(
                tokens.to(self._config.device),
                attention_mask=mask.to(self._config.device),
                logits_processor=[chooser],
            ).cpu()
        return [self._completion(output[row, length:].tolist()) for row in range(len(prompts))]

    def _completion(self, tokens: list[int]) -> Completion:
        ends = self._model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        stop = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = self._tokenizer.decode(tokens[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(text, "length" if stop is None else "stop")


class _Chooser(LogitsProcessor):
    """Leaves one token of each row possible: drawn by the row's own random numbers, or the likeliest."""

    def __init__(self, prompt: int, vocabulary: int, sampling: Sampling, draws: torch.Tensor | None):
        self._prompt, self._vocabulary, self._sampling, self._draws = prompt, vocabulary, sampling, draws

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        known = scores[:, : self._vocabulary].cpu().double()  # rows of the head beyond the tokenizer are no tokens
        if self._draws is None:
            chosen = known.argmax(-1)
        else:
            draw = self._draws[:, input_ids.shape[1] - self._prompt]
            chosen = draw_tokens(known / self._sampling.temperature, self._sampling.top_p, draw)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, chosen[:, None].to(scores.device), 0.0)


def draw_tokens(logits: torch.Tensor, top_p: float, draw: torch.Tensor) -> torch.Tensor:
    """A token of each row by its number in [0, 1): int64 (rows,). logits: (rows, vocabulary), float64.

    Nucleus sampling (Holtzman et al. 2020): among the fewest likeliest tokens whose probability reaches `top_p`,
    each in proportion to its probability.
    """
    ordered, tokens = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    upto = ordered.cumsum(-1)
    inside = upto - ordered < top_p
    inside[:, 0] = True
    last = inside.sum(-1, keepdim=True) - 1
    at = torch.searchsorted(upto, draw[:, None] * upto.gather(1, last), right=True)
    return tokens.gather(1, torch.minimum(at, last))[:, 0]


def _stream(seed: int, count: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def local_identity(config: LocalModel, cache: Path, executor: Executor) -> dict[str, Any]:
    """What decides a local model's answers: the SHA-256 of its files, and what decides how numbers round.

    `cache` remembers the files' hashes. Raises ConfigError if the folder or its safetensors are missing.
    """
    find_files(config.model, ("*.safetensors",), ())
    folder, paths = find_files(config.model, (), (), FILES)
    files = inventory(folder, paths, cache, executor)
    settings = config.model_dump(mode="json", exclude={"model"})
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {**settings, "model": json_hash({file.relative: file.hash for file in files}), "libraries": libraries}
