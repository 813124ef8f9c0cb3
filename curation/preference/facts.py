"""What is counted of each pair beside its tokens: its prompt, its answers, its turns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import xxhash

from curation.chat import Segments, Specials
from curation.encoder import Counted
from curation.schema import messages_bytes

# A turn's tokens are those of its content and the two special tokens around it, as trained on. The prompt is
# everything before the two answers. Turns are counted in both examples of a pair, prompt and chosen, prompt and
# rejected, so that a mean over turns is a mean over examples.
FACTS = pa.schema(
    [
        ("prompt", pa.string()),  # XXH3-128 of the prompt's turns: pairs of one prompt
        ("prompt_tokens", pa.uint32()),
        ("chosen_tokens", pa.uint32()),
        ("rejected_tokens", pa.uint32()),
        ("user_turns", pa.uint32()),
        ("user_tokens", pa.uint32()),
        ("assistant_turns", pa.uint32()),
        ("assistant_tokens", pa.uint32()),
    ]
)
IN_CATALOG = "pair:"  # how those of FACTS begin that stand in the catalog of a source of pairs


def pair_facts(table: pa.Table, rendered: Segments, counted: Counted, specials: Specials) -> pa.Table:
    """FACTS of documents of kind pairs, shape (n,). `rendered` and `counted` are under the transform `pair`."""
    sizes = counted.segments
    before = np.concatenate([[0], np.cumsum(sizes)])
    first, last = rendered.starts[:-1], rendered.starts[1:]
    responses = first + rendered.parts[:, 0], first + rendered.parts[:, 1]
    prompt = before[responses[0]] - before[first]
    columns = {
        "prompt": [xxhash.xxh3_128_hexdigest(messages_bytes(one)) for one in table["messages"].to_pylist()],
        "prompt_tokens": prompt,
        "chosen_tokens": before[responses[1]] - before[responses[0]],
        "rejected_tokens": before[last] - before[responses[1]] - prompt,
    }
    for role in ("user", "assistant"):
        ours = rendered.opening == specials.turns[role]
        turns = np.concatenate([[0], np.cumsum(ours)])
        tokens = np.concatenate([[0], np.cumsum(sizes * ours)])
        columns |= {f"{role}_turns": turns[last] - turns[first], f"{role}_tokens": tokens[last] - tokens[first]}
    return pa.table([pa.array(columns[one.name], one.type) for one in FACTS], schema=FACTS)
