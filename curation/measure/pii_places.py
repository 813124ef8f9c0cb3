"""Ways to reach a person or a machine: e-mail addresses, public IP addresses, telephone numbers.

Every function takes the bytes of a document from `at` to `end` and returns where what it looks for ends, or -1.
Nothing at or past `end` is read.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.pii_numbers import digit_run, is_digit, is_word, number_stops

LONGEST_LOCAL = 64  # characters before the @: RFC 5321, section 4.5.3.1
FEWEST_DIGITS, MOST_DIGITS = 8, 15  # of an international telephone number: ITU-T E.164 allows 15


@njit(nogil=True)
def _is_local(byte):
    """What may stand before the @ of an address: letters, digits and . _ % + - (those in common use)."""
    return is_word(byte) or byte == 0x2E or byte == 0x25 or byte == 0x2B or byte == 0x2D


@njit(nogil=True)
def email_start(data, low, at):
    """Where the address with its @ at byte `at` begins, not before `low`; -1 if nothing usable stands there.

    It begins with a letter or digit and has no full stop before the @ or beside another one.
    """
    place = at
    while place > low and at - place < LONGEST_LOCAL and _is_local(data[place - 1]):
        if data[place - 1] == 0x2E and (place == at or data[place] == 0x2E):
            break
        place -= 1
    while place < at and (not is_word(data[place]) or data[place] == 0x5F):
        place += 1
    return place if place < at else -1


@njit(nogil=True)
def email_end(data, at, end):
    """The domain after an @: two or more names of letters, digits and hyphens, the last of letters alone."""
    place, best, names = at, -1, 0
    while True:
        start, letters = place, 0
        while place < end and (is_word(data[place]) or data[place] == 0x2D) and data[place] != 0x5F:
            letters += np.uint8((data[place] | 0x20) - 0x61) < 26
            place += 1
        size = place - start
        if size == 0 or data[start] == 0x2D or data[place - 1] == 0x2D:
            return best
        names += 1
        if names > 1 and letters == size and size > 1 and (place == end or not is_word(data[place])):
            best = place
        if place >= end or data[place] != 0x2E:
            return best
        place += 1


@njit(nogil=True)
def ipv4_end(data, at, end):
    """A public IPv4 address: four numbers up to 255 without zeros before them.

    Public is what one machine can have on the internet (IANA, IPv4 special-purpose address registry): not private,
    loopback, link-local, documentation, benchmark, multicast or reserved. Where fewer than two of the numbers have
    more than one digit, they are taken for those of a section or a version: 7.18.2.1, but also 8.8.8.8.
    """
    place, high, long = at, np.int64(0), 0
    for number in range(4):
        size = digit_run(data, place, end)
        if size == 0 or size > 3 or (size > 1 and data[place] == 0x30):
            return -1
        value = np.int64(0)
        for byte in data[place : place + size]:
            value = value * 10 + byte - 0x30
        if value > 255:
            return -1
        high = high << 8 | value
        long += size > 1
        place += size
        if number < 3:
            if place >= end or data[place] != 0x2E:
                return -1
            place += 1
    hyphen = place + 1 < end and data[place] == 0x2D and is_word(data[place + 1])  # 1.20.3.14-beta
    return place if long > 1 and is_public(high) and number_stops(data, place, end) and not hyphen else -1


@njit(nogil=True)
def is_public(address):
    """Whether an IPv4 address, as a number, is one of the public internet."""
    first, second, top = address >> 24, address >> 16, address >> 8
    if first == 0 or first == 10 or first == 127 or first >= 224:
        return False
    if second == 0xA9FE or second == 0xC0A8 or 0xAC10 <= second <= 0xAC1F or 0x6440 <= second <= 0x647F:
        return False  # 169.254, 192.168, 172.16/12, 100.64/10
    if 0xC612 <= second <= 0xC613:  # 198.18/15
        return False
    return top not in (0xC00000, 0xC00002, 0xC63364, 0xCB0071)  # 192.0.0, 192.0.2, 198.51.100, 203.0.113


@njit(nogil=True)
def _hex(byte):
    if is_digit(byte):
        return np.int64(byte) - 0x30
    letter = np.int64(byte | 0x20) - 0x61
    return letter + 10 if 0 <= letter < 6 else -1


@njit(nogil=True)
def ipv6_end(data, at, end):
    """A global unicast IPv6 address (2000::/3), in full or with one `::`; none of documentation or tunnels."""
    place, groups, gaps, first, second = at, 0, 0, np.int64(-1), np.int64(0)
    while groups < 8:
        value, size = np.int64(0), 0
        while place < end and size < 5 and _hex(data[place]) >= 0:
            value = value << 4 | _hex(data[place])
            size += 1
            place += 1
        if size > 4:
            return -1
        if size == 0:
            break  # after "::"
        if first < 0:
            first = value
        elif groups == 1 and gaps == 0:
            second = value
        groups += 1
        if place + 1 < end and data[place] == 0x3A and data[place + 1] == 0x3A and gaps == 0:
            gaps = 1
            place += 2
        elif groups < 8 and place + 1 < end and data[place] == 0x3A and _hex(data[place + 1]) >= 0:
            place += 1
        else:
            break
    if (groups != 8) == (gaps == 0) or first < 0x2000 or first > 0x3FFE or not number_stops(data, place, end):
        return -1
    special = (first == 0x2001 and (second < 0x200 or second == 0xDB8)) or first == 0x2002
    return -1 if special or (place < end and data[place] == 0x3A and gaps) else place


@njit(nogil=True)
def phone_end(data, at, end):
    """An international number from its plus sign on: 8 to 15 digits, with spaces, hyphens, stops, brackets."""
    if at + 1 >= end or data[at] != 0x2B or not np.uint8(data[at + 1] - 0x31) < 9:
        return -1
    place, last, digits, groups, stops, between = at + 1, at, 0, 1, 0, 0
    while place < end and between <= 2:
        byte = data[place]
        if is_digit(byte):
            groups += between > 0
            digits += 1
            between = 0
            last = place
        elif byte == 0x20 or byte == 0x2D or byte == 0x2E or byte == 0x28 or byte == 0x29:
            stops += byte == 0x2E
            between += 1
        else:
            break
        place += 1
    if (
        digits < FEWEST_DIGITS
        or digits > MOST_DIGITS
        or 2 * groups > digits
        or not number_stops(data, last + 1, end)
    ):
        return -1
    decimal = stops == 1 and groups == 2  # +1.23456789
    return -1 if decimal else last + 1


@njit(nogil=True)
def local_phone_end(data, at, end):
    """A North American number: (212) 555-0123, 212-555-0123 or 212.555.0123, with 1 and a separator before or not.

    Area code and exchange begin with 2 to 9 (the North American Numbering Plan).
    """
    place = at
    if place + 1 < end and data[place] == 0x31:
        separator = data[place + 1]
        place += 2 if separator == 0x20 or separator == 0x2D or separator == 0x2E else 0
    bracket = place < end and data[place] == 0x28
    place += bracket
    if digit_run(data, place, end) != 3 or data[place] < 0x32:
        return -1
    place += 3
    if bracket:
        if place >= end or data[place] != 0x29:
            return -1
        place += 1
        place += place < end and data[place] == 0x20
    else:
        if place >= end or (data[place] != 0x2D and data[place] != 0x2E):
            return -1
        place += 1
    if digit_run(data, place, end) != 3 or data[place] < 0x32:
        return -1
    at = place + 3
    if at >= end or (data[at] != 0x2D and data[at] != 0x2E) or (not bracket and data[at] != data[place - 1]):
        return -1
    place = at + 1
    return place + 4 if digit_run(data, place, end) == 4 and number_stops(data, place + 4, end) else -1
