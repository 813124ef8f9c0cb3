"""The text of a document of any kind, derived from its fields and never stored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.chat import BLANK_LINE, joined
from curation.schema import MESSAGES, one_array


def rendered_text(table: pa.Table | pa.RecordBatch) -> pa.LargeStringArray:
    """The text of each document of a DOCUMENT table, shape (n,), no nulls.

    It is `text` where that is set, else the contents of `messages`, `chosen` and `rejected` in that order joined
    by blank lines; the empty string where all are null.
    """
    return _text_or(table, ("messages", "chosen", "rejected"), cut=False)


def prompt_text(table: pa.Table | pa.RecordBatch) -> pa.LargeStringArray:
    """What groups documents that must not be split between training and evaluation. Shape (n,), no nulls.

    The text; for chat and pairs the contents of `messages` up to and including the first turn of the user (all
    of them if no turn is the user's), joined by blank lines.
    """
    return _text_or(table, ("messages",), cut=True)


def _text_or(table: pa.Table | pa.RecordBatch, columns: tuple[str, ...], cut: bool) -> pa.LargeStringArray:
    text = one_array(table.column("text")).cast(pa.large_string())
    if text.null_count == 0:
        return text
    parts = [_joined(one_array(table.column(column)), cut) for column in columns]
    contents = parts[0]
    for part in parts[1:]:
        both = pc.binary_join_element_wise(contents, part, _large(BLANK_LINE))  # null if either is
        contents = pc.coalesce(both, contents, part)
    return pc.coalesce(text, contents, _large(""))


def _joined(messages: pa.ListArray, cut: bool) -> pa.LargeStringArray:
    """The contents of each list of messages joined by blank lines; null where there is no list or none in it."""
    lengths = pc.fill_null(pc.list_value_length(messages), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    turns = messages.cast(MESSAGES).flatten()  # the values of a slice alone, those under nulls left out
    contents = pc.fill_null(turns.field("content"), "")
    if cut:
        keep = _up_to_first_user(turns.field("role"), lengths)
        contents = contents.filter(pa.array(keep))
        rows = np.repeat(np.arange(len(lengths)), lengths)
        lengths = np.bincount(rows[keep], minlength=len(lengths))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return pc.if_else(pa.array(lengths > 0), joined(contents, starts), _large(None))


def _large(value: str | None) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def _up_to_first_user(roles: pa.Array, lengths: np.ndarray) -> np.ndarray:
    """Which turns come no later than the first one of the user in their own list. Shape (turns,), bool."""
    user = pc.fill_null(pc.equal(roles, "user"), False).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    users_before = np.concatenate([[0], np.cumsum(user)])[: len(user)]
    return users_before == users_before[starts[rows]] if len(user) else user
