"""Documents as token ids with a loss mask: plain text, chat turns, preference pairs.

Every rendering is a run of segments: an opening token, a content, a closing token. Contents are encoded one by
one and never searched for special tokens, so that text which spells `<|end|>` stays text. A chat turn is
`<|user|>content<|end|>`, without blanks or line breaks of the template's own; the loss is on an assistant's
content and the `<|end|>` after it. A text is its content and the end-of-text token, all in the loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

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

    contents: list[str]  # m
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
    rows = []
    for document, messages, chosen, rejected in _conversations(table):
        prompt = _turns(document, messages, specials)
        if transform == "chat":
            rows.append((prompt, 0, 0))
        else:
            first = prompt + _turns(document, chosen, specials)
            both = first + prompt + _turns(document, rejected, specials)
            # The prompt's own assistant turns are context here: only the two responses are compared.
            masked = [
                (content, turn, loss and not _in_prompt(place, len(prompt), len(first)))
                for place, (content, turn, loss) in enumerate(both)
            ]
            rows.append((masked, len(prompt), len(first)))
    return _turn_segments(rows, specials)


def plain_texts(table: pa.Table | pa.RecordBatch) -> list[str]:
    """Each document as one text: a text as it is; messages (of pairs: prompt and chosen) joined by blank lines."""
    if len(table) == 0:
        return []
    if kind_of(table) == "text":
        return table["text"].to_pylist()
    return [
        "\n\n".join(_contents(document, [*messages, *(chosen or [])]))
        for document, messages, chosen, _ in _conversations(table)
    ]


def _conversations(table: pa.Table | pa.RecordBatch) -> Iterable[tuple]:
    return zip(*(table[name].to_pylist() for name in ("id", "messages", "chosen", "rejected")), strict=True)


def _content(document: str, place: int, message: dict) -> str:
    if message["content"] is None:
        raise ValueError(f"document {document}: message {place} ({message['role']}) has no content; expected text")
    return message["content"]


def _contents(document: str, messages: list[dict]) -> list[str]:
    return [_content(document, place, message) for place, message in enumerate(messages)]


def _turns(document: str, messages: list[dict], specials: Specials) -> list[tuple[str, int, bool]]:
    """(content, opening token id, in loss) of each message."""
    turns = []
    for place, message in enumerate(messages):
        turn = ROLES.get(message["role"])
        if turn is None:
            raise ValueError(
                f"document {document}: message {place} has the role {message['role']!r}; "
                f"expected one of {', '.join(ROLES)}: map it in the source's reader"
            )
        turns.append((_content(document, place, message), specials.turns[turn], turn == "assistant"))
    return turns


def _in_prompt(place: int, prompt: int, first: int) -> bool:
    """Whether segment `place` of prompt, chosen, prompt, rejected belongs to one of the two prompts."""
    return place < prompt or first <= place < first + prompt


def _plain_segments(texts: list[str], specials: Specials) -> Segments:
    n = len(texts)
    return Segments(
        contents=texts,
        opening=np.full(n, -1, np.int64),
        closing=np.full(n, specials.end_of_text, np.int64),
        loss=np.ones(n, bool),
        starts=np.arange(n + 1, dtype=np.int64),
        parts=np.zeros((n, 2), np.int64),
    )


def _turn_segments(rows: list[tuple[list, int, int]], specials: Specials) -> Segments:
    flat = [segment for turns, _, _ in rows for segment in turns]
    counts = np.array([len(turns) for turns, _, _ in rows], np.int64)
    return Segments(
        contents=[content for content, _, _ in flat],
        opening=np.array([turn for _, turn, _ in flat], np.int64),
        closing=np.full(len(flat), specials.end_of_turn, np.int64),
        loss=np.array([loss for _, _, loss in flat], bool),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        parts=np.array([[prompt, first] for _, prompt, first in rows], np.int64).reshape(-1, 2),
    )
