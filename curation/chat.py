"""Documents as token ids with a loss mask: plain text, chat turns, preference pairs.

Every rendering is a run of segments: an opening token, a content, a closing token. Contents are encoded one by
one and never searched for special tokens, so that text which spells `<|end|>` stays text. A chat turn is
`<|user|>content<|end|>`, without blanks or line breaks of the template's own; the loss is on an assistant's
content and the `<|end|>` after it. A text is its content and the end-of-text token, all in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import MESSAGES, one_array

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
END_OF_TURN = "<|end|>"
TURNS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<|tool|>"}
FILL_IN_MIDDLE = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
SPECIAL_TOKENS = (END_OF_TEXT, PAD, *TURNS.values(), END_OF_TURN, *FILL_IN_MIDDLE)

# The names that instruction sets use, and the turn that each is.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "tool",
    "environment": "tool",
}

# The transform of a document of which a mix takes only the first tokens, by the transform of the whole one.
CUT = {"none": "head", "chat_plain": "chat_plain_head"}
WHOLE = {cut: whole for whole, cut in CUT.items()}
KIND_TRANSFORM = {"text": "none", "chat": "chat", "pairs": "pair"}  # how each kind is trained on by default
PAIR = ("messages", "chosen", "messages", "rejected")  # what a pair is rendered from, in order
BLANK_LINE = "\n\n"  # between the messages of a conversation as one text
DOCUMENT_COLUMNS = ["id", "text", "messages", "chosen", "rejected"]


@dataclass(frozen=True)
class Specials:
    """Token ids that a rendering puts around contents."""

    end_of_text: int
    end_of_turn: int
    turns: dict[str, int]  # system, user, assistant, tool
    others: dict[str, int] = field(default_factory=dict)  # of FILL_IN_MIDDLE, those that the tokenizer has


@dataclass(frozen=True)
class Segments:
    """Documents cut into contents, each with the special tokens around it. n documents, m segments."""

    contents: pa.LargeStringArray  # (m,), no nulls
    opening: np.ndarray  # int64 (m,): token id, -1 for none
    closing: np.ndarray  # int64 (m,): token id, -1 for none
    loss: np.ndarray  # bool (m,): content and closing token are in the loss
    starts: np.ndarray  # int64 (n + 1,): the segments of document i are starts[i] to starts[i + 1]
    parts: np.ndarray  # int64 (n, 2): of pairs, how many segments the prompt has, and prompt + chosen; else 0


def chat_template() -> str:
    """The Jinja template that gives `transformers` the same tokens as `segments` for messages without specials."""
    turns = ", ".join(f"'{name}': '{TURNS[turn]}'" for name, turn in ROLES.items())
    return (
        f"{{%- set turns = {{{turns}}} -%}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] not in turns -%}"
        "{{- raise_exception('unknown role ' ~ message['role']) -}}"
        "{%- endif -%}"
        "{{- turns[message['role']] -}}"
        f"{{%- if turns[message['role']] == '{TURNS['assistant']}' -%}}"
        f"{{%- generation -%}}{{{{- message['content'] ~ '{END_OF_TURN}' -}}}}{{%- endgeneration -%}}"
        "{%- else -%}"
        f"{{{{- message['content'] ~ '{END_OF_TURN}' -}}}}"
        "{%- endif -%}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{- '{TURNS['assistant']}' -}}}}{{%- endif -%}}"
    )


def kind_of(table: pa.Table | pa.RecordBatch) -> str:
    """text, chat or pairs: which of DOCUMENT's columns are set. Raises ValueError if rows are of several kinds."""
    rows = len(table)
    filled = {name: rows - table[name].null_count for name in ("text", "messages", "chosen", "rejected")}
    if filled["text"] == rows and not any(filled[name] for name in ("messages", "chosen", "rejected")):
        return "text"
    if filled["messages"] == rows and filled["text"] == 0:
        if filled["chosen"] == filled["rejected"] == rows:
            return "pairs"
        if filled["chosen"] == filled["rejected"] == 0:
            return "chat"
    raise ValueError(
        f"rows {table['id'][0]} to {table['id'][-1]}: expected all to have text, or messages, or messages with "
        f"chosen and rejected; of {rows} rows, these many are set: {filled}"
    )


def segments(table: pa.Table | pa.RecordBatch, transform: str, specials: Specials) -> Segments:
    """Cut documents (columns DOCUMENT_COLUMNS, one kind) into segments.

    transform: "none" for text; "chat" for messages; "chat_plain" for messages (of pairs: prompt and chosen) as
    one text; "pair" for prompt and chosen, then prompt and rejected. Raises ValueError naming the document for
    a role that is not known, a message without content, or a transform that does not fit the kind.
    """
    kind = kind_of(table) if len(table) else "text"
    allowed = {"text": ("none",), "chat": ("chat", "chat_plain"), "pairs": ("pair", "chat_plain")}[kind]
    if len(table) and transform not in allowed:
        raise ValueError(f"document {table['id'][0]}: transform '{transform}' does not fit {kind}; use {allowed}")
    if transform in ("none", "chat_plain"):
        return _plain_segments(plain_texts(table), specials)
    turns, lengths = _turns(table, ("messages",) if transform == "chat" else PAIR)
    roles = pc.fill_null(pc.index_in(turns.field("role"), pa.array(list(ROLES), pa.string())), -1).to_numpy()
    _require(table, turns, lengths, roles >= 0)
    numbers, learned = (
        np.array([of[turn] for turn in ROLES.values()])[roles]
        for of in (specials.turns, {turn: turn == "assistant" for turn in TURNS})
    )
    parts = np.zeros((len(table), 2), np.int64)
    if transform == "pair":
        parts = np.cumsum(lengths[:, :2], axis=1)
        # The prompt's own assistant turns are context here: only the two responses are compared.
        learned &= np.repeat(np.tile([False, True], 2 * len(table)), lengths.ravel())
    return Segments(
        contents=turns.field("content"),
        opening=numbers,
        closing=np.full(len(turns), specials.end_of_turn, np.int64),
        loss=learned,
        starts=_starts(lengths),
        parts=parts,
    )


def plain_texts(table: pa.Table | pa.RecordBatch) -> pa.LargeStringArray:
    """Each document as one text: a text as it is; messages (of pairs: prompt and chosen) joined by blank lines.

    Raises ValueError naming the document for a message without content.
    """
    kind = kind_of(table) if len(table) else "text"
    if kind == "text":
        return one_array(table["text"]).cast(pa.large_string())
    turns, lengths = _turns(table, ("messages", "chosen") if kind == "pairs" else ("messages",))
    _require(table, turns, lengths)
    return joined(turns.field("content"), _starts(lengths))


def joined(contents: pa.LargeStringArray, starts: np.ndarray) -> pa.LargeStringArray:
    """The texts starts[i] to starts[i + 1] of `contents` (no null) joined by blank lines, for each i."""
    return pc.binary_join(
        pa.LargeListArray.from_arrays(starts, contents), pa.scalar(BLANK_LINE, pa.large_string())
    )


def _turns(table: pa.Table | pa.RecordBatch, columns: Sequence[str]) -> tuple[pa.StructArray, np.ndarray]:
    """The messages of each document, those of one column after those of the other; and how many they are, by
    document and column: int64 (n, columns)."""
    lists = {name: one_array(table[name]).cast(MESSAGES) for name in columns}
    sizes = {
        name: pc.fill_null(pc.list_value_length(one), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        for name, one in lists.items()
    }
    lengths = np.stack([sizes[name] for name in columns], axis=1)
    turns = [one.flatten() for one in lists.values()]
    if len(columns) == 1:
        return turns[0], lengths
    before = dict(zip(lists, np.cumsum([0, *map(len, turns)]), strict=False))
    first = np.stack([before[name] + np.cumsum(sizes[name]) - sizes[name] for name in columns], axis=1)
    counts = lengths.ravel()
    places = np.repeat(first.ravel() - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return pa.concat_arrays(turns).take(pa.array(places)), lengths


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where the messages of each document begin, and where the last ones end: int64 (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths.sum(axis=1))])


def _require(
    table: pa.Table | pa.RecordBatch, turns: pa.StructArray, lengths: np.ndarray, known: np.ndarray | None = None
) -> None:
    """Raises ValueError for the first message without content, or with a role that is not `known`, bool (m,)."""
    sound = pc.is_valid(turns.field("content")).to_numpy(zero_copy_only=False)
    sound = sound if known is None else sound & known
    if sound.all():
        return
    at = int(sound.argmin())
    ends = np.cumsum(lengths.ravel())
    run = int(np.searchsorted(ends, at, "right"))
    document, place = table["id"][run // lengths.shape[1]], at - int(ends[run] - lengths.ravel()[run])
    role = turns.field("role")[at].as_py()
    if known is None or known[at]:
        raise ValueError(f"document {document}: message {place} ({role}) has no content; expected text")
    raise ValueError(
        f"document {document}: message {place} has the role {role!r}; "
        f"expected one of {', '.join(ROLES)}: map it in the source's reader"
    )


def _plain_segments(texts: pa.LargeStringArray, specials: Specials) -> Segments:
    n = len(texts)
    return Segments(
        contents=texts,
        opening=np.full(n, -1, np.int64),
        closing=np.full(n, specials.end_of_text, np.int64),
        loss=np.ones(n, bool),
        starts=np.arange(n + 1, dtype=np.int64),
        parts=np.zeros((n, 2), np.int64),
    )
