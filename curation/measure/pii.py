"""Personal data in text: the group `pii`, which counts it, and the edit `pii`, which masks it.

E-mail addresses, public IP addresses, telephone numbers, bank accounts (IBAN) and payment cards: what each of them
is stands in `curation.measure.pii_places` and `pii_numbers`. Precision comes before recall: numbers without a
checksum, a plus sign or the punctuation of a telephone number are left alone. A mask is the same for every
occurrence, so that it depends on nothing but the text. The first three are those of Dolma (Soldaini et al. 2024),
the others follow them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.edits import span_values
from curation.measure.group import Columns, Group
from curation.measure.pii_numbers import IBANS, card_end, iban_end, is_digit, is_word
from curation.measure.pii_places import email_end, email_start, ipv4_end, ipv6_end, local_phone_end, phone_end
from curation.measure.spans import WIDTH, add_span, span_array
from curation.measure.utf8 import text_buffers

RULES = ("pii_email", "pii_ip", "pii_phone", "pii_iban", "pii_card")
EMAIL, IP, PHONE, IBAN, CARD = range(len(RULES))
MASKS = ("|||EMAIL_ADDRESS|||", "|||IP_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IBAN|||", "|||CARD_NUMBER|||")
COLUMNS = ("pii_emails", "pii_ips", "pii_phones", "pii_ibans", "pii_cards")


def pii_spans(texts: pa.LargeStringArray) -> pa.ListArray:
    """The spans (SPANS) of personal data, replaced by masks. Texts without nulls, shape (n,)."""
    data, offsets = text_buffers(texts)
    counts = np.zeros(len(texts), np.int64)
    table = _find(data, offsets, IBANS, counts)
    return span_array(counts, table, MASKS, RULES)


def _measure(documents: pa.Table, texts: pa.LargeStringArray) -> Columns:
    flat, counts = span_values(pii_spans(texts))
    rows = np.repeat(np.arange(len(texts)), counts)
    kinds = flat.field("rule").to_numpy(zero_copy_only=False)
    return {
        column: pa.array(np.bincount(rows[kinds == rule], minlength=len(texts)), pa.uint64())
        for column, rule in zip(COLUMNS, RULES, strict=True)
    }


GROUP = Group("pii", dict.fromkeys(COLUMNS, pa.uint64()), _measure)


@njit(nogil=True)
def _may_begin(data, begin, at):
    """Whether a number may begin at byte `at`: it continues no word, number, path of dots or signed number."""
    if at == begin:
        return True
    before = data[at - 1]
    return not (is_word(before) or before == 0x2E or before == 0x2D or before == 0x2B)


@njit(nogil=True)
def _is_version(data, begin, at):
    """Whether "v " stands before byte `at`, as in the headers of RCS."""
    return at - 2 >= begin and data[at - 1] == 0x20 and data[at - 2] | 0x20 == 0x76


@njit(nogil=True)
def _number(data, begin, at, end):
    """The kind of what begins with a digit, a bracket or a plus sign at byte `at`, and its end; -1 for none."""
    if data[at] == 0x2B:
        return PHONE, phone_end(data, at, end)
    before = data[at - 1] if at > begin else np.uint8(0x20)
    in_address = (
        before == 0x2F or before == 0x3D or before == 0x26 or before == 0x25 or before == 0x23
    )  # / = & % #
    if data[at] != 0x28:
        in_table = at - 2 >= begin and before == 0x20 and is_digit(data[at - 2])
        stop = -1 if in_table else card_end(data, at, end)
        if stop >= 0:
            return CARD, stop
        stop = ipv6_end(data, at, end) if before != 0x3A else -1
        if stop < 0 and not _is_version(data, begin, at):
            stop = ipv4_end(data, at, end)
        if stop >= 0:
            return IP, stop
    return PHONE, -1 if in_address else local_phone_end(data, at, end)


@njit(nogil=True)
def _next(data, begin, at, done, end, ibans):
    """(kind, start, stop) of the first place from byte `at` on, -1 for none; `done` is where the last one ended.

    A loop of its own: in one that may give another table each turn would count references to it.
    """
    while at < end:
        byte = data[at]
        kind, start, stop = -1, at, -1
        if byte == 0x40:
            stop = email_end(data, at + 1, end)
            if stop >= 0:
                kind, start = EMAIL, email_start(data, done, at)
                stop = stop if start >= 0 else -1
        elif is_digit(byte) or byte == 0x2B or byte == 0x28:
            if _may_begin(data, begin, at):
                kind, stop = _number(data, begin, at, end)
        elif np.uint8(byte - 0x41) < 26 and _may_begin(data, begin, at):
            kind, stop = IBAN, iban_end(data, at, end, ibans)
        # Digits may begin an address.
        if stop >= 0 and not (stop < end and data[stop] == 0x40 and kind != EMAIL):
            return kind, start, stop
        at += 1
    return -1, end, end


@njit(nogil=True, cache=True)
def _find(data, offsets, ibans, counts):
    table, known = np.empty((0, WIDTH), np.int64), 0
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        before = known
        kind, start, stop = _next(data, begin, begin, begin, end, ibans)
        while kind >= 0:
            table = add_span(table, known, start - begin, stop - begin, kind, kind)
            known += 1
            kind, start, stop = _next(data, begin, stop, stop, end, ibans)
        counts[document] = known - before
    return table[:known]
