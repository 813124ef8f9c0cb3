"""Continuations of held-out prompts: what a model says, fixed by seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel

from training.config import EvaluateConfig
from training.data import Data


def continuations(
    model: PreTrainedModel, tokenizer: Path, held_out: list[Data], config: EvaluateConfig
) -> list[dict[str, Any]]:
    """A greedy and a sampled continuation of each prompt. Prompts go round the sources, in the order given.

    The prompt of a plain document is its first tokens; of a chat or a pair, everything before the first token
    in the loss. A continuation ends with the model's own end token. Each is {id, source, kind (text or chat),
    prompt, greedy, sampled, temperature}.
    """
    decoder = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    results = []
    for number, (data, row) in enumerate(_prompt_rows(held_out, config.samples)):
        tokens, place = _prompt(data, row, config)
        greedy = _generate(model, tokens, len(decoder), config.sample_tokens, None)
        torch.manual_seed(config.seed + number)
        sampled = _generate(model, tokens, len(decoder), config.sample_tokens, config.temperature)
        results.append(
            {
                "id": data.ids[row].as_py(),
                "source": data.sources[data.source[row]],
                "kind": place,
                "prompt": decoder.decode(tokens),
                "greedy": decoder.decode(greedy),
                "sampled": decoder.decode(sampled),
                "temperature": config.temperature,
            }
        )
    return results


def _prompt_rows(held_out: list[Data], count: int) -> list[tuple[Data, int]]:
    """The first documents of each source in the manifest's order, one source after the other, `count` in all."""
    queues = []
    for data in held_out:
        for position in range(len(data.sources)):
            rows = np.flatnonzero(data.source == position)
            queues.append([(data, int(row)) for row in rows[np.lexsort((rows, data.order[rows]))][:count]])
    rounds = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return rounds[:count]


def _prompt(data: Data, row: int, config: EvaluateConfig) -> tuple[list[int], str]:
    """The prompt's token ids, and "text" or "chat"."""
    start, length = int(data.start[row]), int(data.length[row])
    in_loss = np.flatnonzero(data.mask[start : start + length])
    answer = int(in_loss[0]) if len(in_loss) else length
    if answer == 0:
        return data.tokens[start : start + min(config.prompt_tokens, max(1, length - 1))].tolist(), "text"
    return data.tokens[start + max(0, answer - config.window) : start + answer].tolist(), "chat"


@torch.no_grad()
def _generate(
    model: PreTrainedModel, prompt: list[int], vocabulary: int, count: int, temperature: float | None
) -> list[int]:
    """Up to `count` tokens below `vocabulary` after the prompt: the likeliest ones, or drawn at a temperature."""
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or [])
    made: list[int] = []
    tokens, cache = torch.tensor([prompt], device=model.device), None
    while len(made) < count:
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = output.past_key_values, output.logits[0, -1, :vocabulary]
        if temperature is None:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial((logits / temperature).softmax(0), 1))
        made.append(token)
        if token in ends:
            break
        tokens = torch.tensor([[token]], device=model.device)
    return made
