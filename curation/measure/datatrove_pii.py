"""The edit `datatrove_pii`: e-mail addresses and public IPv4 addresses replaced as datatrove's PIIFormatter does.

Its two patterns (0.10.1), read by a kernel in time that grows with the text alone. First the e-mail addresses are
found, then the IP addresses between them. Replacements are datatrove's; it goes through them in turn over all that
a worker reads, so that a document's text depends on the documents before it. Here each document begins anew. An IP
address is replaced if it is written without leading zeros and is none of the private ranges (RFC 6890) as
Python's `ipaddress` reads them, 192.0.0.0/24 as a whole taken for private.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.measure.pii_numbers import digit_run, is_digit, is_word
from curation.measure.pii_places import is_public
from curation.measure.spacy_english import IS_WORD, english
from curation.measure.spans import WIDTH, add_span, span_array
from curation.measure.utf8 import decode, text_buffers

RULES = ("datatrove_email", "datatrove_ip")
EMAIL, IP = range(2)
EMAILS = ("email@example.com", "firstname.lastname@example.org")
IPS = ("22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11", "18.104.22.168")
AT, STOP, HYPHEN, BRACKET, CLOSING_BRACKET, COLON = 0x40, 0x2E, 0x2D, 0x5B, 0x5D, 0x3A
FIRST_MULTICAST, FIRST_RESERVED = 224, 240
_LOCAL = np.zeros(256, np.bool_)
_LOCAL[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+/=?^_`{|}~-")] = True


def datatrove_pii_spans(texts: pa.LargeStringArray) -> pa.ListArray:
    """The spans (SPANS) of addresses and what replaces them. Texts without nulls, shape (n,)."""
    data, offsets = text_buffers(texts)
    counts = np.zeros(len(texts), np.int64)
    table = _find(data, offsets, english().classes, counts)
    return span_array(counts, table, [*EMAILS, *IPS], RULES)


@njit(nogil=True)
def _is_plain(byte):
    return is_word(byte) and byte != 0x5F


@njit(nogil=True)
def _octet(data, at, end, whole):
    """The bytes of a number up to 255 at `at`: all digits there if `whole`, else as many as fit; 0 for none."""
    digits = digit_run(data, at, min(end, at + 4))
    if digits >= 3:
        first, second, third = data[at], data[at + 1], data[at + 2]
        fits = first <= 0x31 or (first == 0x32 and (second < 0x35 or (second == 0x35 and third <= 0x35)))
        if fits and (digits == 3 or not whole):
            return 3
        return 0 if whole else 2
    return digits


@njit(nogil=True)
def _three_octets(data, at, end):
    """Where three numbers with a full stop behind each end, -1 if `at` begins none."""
    for _ in range(3):
        size = _octet(data, at, end, True)
        at += size
        if size == 0 or at >= end or data[at] != STOP:
            return -1
        at += 1
    return at


@njit(nogil=True)
def _domain_end(data, at, end):
    """Where the domain that begins at `at` ends, -1 if there is none."""
    if at < end and data[at] == BRACKET:
        return _literal_end(data, at + 1, end)
    best, labels = -1, 0
    while True:
        start, last = at, -1
        while at < end and (_is_plain(data[at]) or data[at] == HYPHEN):
            at += 1
            last = at if data[at - 1] != HYPHEN else last
        if at == start or data[start] == HYPHEN:
            return best
        best = last if labels else best
        if last != at or at >= end or data[at] != STOP:
            return best
        labels += 1
        at += 1


@njit(nogil=True)
def _literal_end(data, at, end):
    """An IP address in square brackets, its last number perhaps a tag and a colon."""
    at = _three_octets(data, at, end)
    if at < 0:
        return -1
    after = at + _octet(data, at, end, True)
    if after > at and after < end and data[after] == CLOSING_BRACKET:
        return after + 1
    after = at
    while after < end and (_is_plain(data[after]) or data[after] == HYPHEN):
        after += 1
    closed = after + 1 < end and data[after] == COLON and data[after + 1] == CLOSING_BRACKET
    return after + 2 if after > at and data[after - 1] != HYPHEN and closed else -1


@njit(nogil=True)
def _word_before(data, begin, at, end, classes):
    """Whether the character before byte `at` belongs to a word."""
    place = at - 1
    while place > begin and at - place < 4 and data[place] & 0xC0 == 0x80:
        place -= 1
    while place < at and decode(data, place, end)[1] < at:  # stray bytes
        place += 1
    return at > begin and classes[decode(data, place, end)[0]] & IS_WORD != 0


@njit(nogil=True)
def _local_start(data, begin, done, at, end, classes):
    """Where the local part before the @ at byte `at` begins, at a word boundary not before `done`; -1 for none."""
    low = at
    while low > done and (_LOCAL[data[low - 1]] or (low < at and data[low - 1] == STOP and data[low] != STOP)):
        low -= 1
    before = low < at and _word_before(data, begin, low, end, classes)
    for place in range(low, at):
        word = is_word(data[place])
        if word != before and data[place] != STOP:
            return place
        before = word
    return -1


@njit(nogil=True)
def _add_ips(data, begin, start, end, replaced, table, known):
    """Add spans for the public addresses in data[start:end]; (table, spans, addresses replaced so far)."""
    at = start
    while at < end:
        after = _three_octets(data, at, end) if is_digit(data[at]) else -1
        last = _octet(data, after, end, False) if after > 0 else 0
        if last == 0:
            at += 1
            continue
        if _replaced(data, at, after + last):
            number = len(EMAILS) + replaced % len(IPS)
            table = add_span(table, known, at - begin, after + last - begin, number, IP)
            known += 1
            replaced += 1
        at = after + last
    return table, known, replaced


@njit(nogil=True)
def _replaced(data, start, end):
    """Whether an address is one to replace: no zeros in front of its numbers, and not private."""
    address, value, digits = np.int64(0), np.int64(0), 0
    for at in range(start, end):
        if data[at] == STOP:
            address = address << 8 | value
            value, digits = np.int64(0), 0
            continue
        if digits and value == 0:
            return False
        value = 10 * value + np.int64(data[at]) - 0x30
        digits += 1
    address = address << 8 | value
    return is_public(address) or FIRST_MULTICAST <= address >> 24 < FIRST_RESERVED


@njit(nogil=True, cache=True)
def _find(data, offsets, classes, counts):
    table, known = np.empty((0, WIDTH), np.int64), 0
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        before, done, emails, ips = known, begin, 0, 0
        for at in range(begin, end):
            if data[at] != AT or at <= done or not _LOCAL[data[at - 1]]:
                continue
            stop = _domain_end(data, at + 1, end)
            start = _local_start(data, begin, done, at, end, classes) if stop >= 0 else -1
            if start < 0:
                continue
            table, known, ips = _add_ips(data, begin, done, start, ips, table, known)
            table = add_span(table, known, start - begin, stop - begin, emails % len(EMAILS), EMAIL)
            known += 1
            emails += 1
            done = stop
        table, known, ips = _add_ips(data, begin, done, end, ips, table, known)
        counts[document] = known - before
    return table[:known]
