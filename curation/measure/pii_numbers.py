"""Numbers that name a person or a place to pay to: bank accounts and payment cards by their checksums.

`iban_end` and `card_end` take the bytes of a document from `at`, where the number would begin, to `end`, and
return where it ends, or -1 if there is none. Nothing at or past `end` is read.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit

# Characters of an IBAN by country: SWIFT, IBAN registry (ISO 13616).
IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 "
    "EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 "
    "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 "
    "NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 "
    "SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30 "
)


def _iban_table() -> np.ndarray:
    lengths = np.zeros((26, 26), np.int64)
    for entry in IBAN_LENGTHS.split():
        lengths[ord(entry[0]) - 65, ord(entry[1]) - 65] = int(entry[2:])
    return lengths


IBANS = _iban_table()


@njit(nogil=True)
def is_digit(byte):
    return np.uint8(byte - 0x30) < 10


@njit(nogil=True)
def is_word(byte):
    """ASCII letters, digits and the underscore."""
    return np.uint8(byte - 0x30) < 10 or np.uint8((byte | 0x20) - 0x61) < 26 or byte == 0x5F


@njit(nogil=True)
def iban_end(data, at, end, lengths):
    """ISO 13616: country, two check digits, the account; as one word or in groups of four with spaces between.

    The length must be the country's and the number, with its first four characters at its end and letters as 10 to
    35, must be 1 modulo 97.
    """
    if at + 5 > end:
        return -1
    first, second = np.uint8(data[at] - 0x41), np.uint8(data[at + 1] - 0x41)
    if first >= 26 or second >= 26 or not is_digit(data[at + 2]) or not is_digit(data[at + 3]):
        return -1
    length = lengths[first, second]
    grouped = data[at + 4] == 0x20
    remainder, head = np.int64(0), np.int64(0)
    place = at
    for number in range(length):
        if grouped and number and number % 4 == 0:
            if place >= end or data[place] != 0x20:
                return -1
            place += 1
        if place >= end:
            return -1
        byte = data[place]
        if is_digit(byte):
            value, shift = np.int64(byte - 0x30), 10
        elif np.uint8(byte - 0x41) < 26:
            value, shift = np.int64(byte - 0x41) + 10, 100
        else:
            return -1
        if number < 4:
            head = head * shift + value
        else:
            remainder = (remainder * shift + value) % 97
        place += 1
    # The head is six digits: the country's letters give two each.
    if length == 0 or (remainder * 1000000 + head) % 97 != 1 or (place < end and is_word(data[place])):
        return -1
    return place


@njit(nogil=True)
def digit_run(data, at, end):
    """How many digits stand at byte `at`."""
    place = at
    while place < end and is_digit(data[place]):
        place += 1
    return place - at


@njit(nogil=True)
def number_stops(data, place, end):
    """Whether a number may end before byte `place`: no word goes on, and no hyphen or stop leads to a digit."""
    if place >= end:
        return True
    if is_word(data[place]):
        return False
    joins = data[place] == 0x2D or data[place] == 0x2E
    return not (joins and place + 1 < end and is_digit(data[place + 1]))


@njit(nogil=True)
def card_end(data, at, end):
    """A payment card number: 13 to 19 digits of a known network that pass Luhn's check (ISO/IEC 7812-1).

    As one run of digits, or as cards are embossed, with the same hyphen or space between groups: 4-4-4-4, with
    three more or not, 4-6-5 or 4-6-4. Groups that go on with the same space are a table of numbers, not a card.
    """
    place = at + digit_run(data, at, end)
    if place - at == 4 and place < end and (data[place] == 0x20 or data[place] == 0x2D):
        separator = data[place]
        second = digit_run(data, place + 1, end)
        place += 1 + second
        groups = 2 if second == 4 else 1 if second == 6 else 0
        for _ in range(groups):
            if place >= end or data[place] != separator:
                return -1
            last = digit_run(data, place + 1, end)
            if last != 4 and (last != 5 or second != 6):
                return -1
            place += 1 + last
        if groups == 0:
            return -1
        if second == 4 and place < end and data[place] == separator and digit_run(data, place + 1, end) == 3:
            place += 4
        if place + 1 < end and data[place] == separator and is_digit(data[place + 1]):
            return -1
    if not number_stops(data, place, end):
        return -1
    digits, prefix, total, doubled = 0, 0, 0, 0
    for byte in data[at:place]:
        if is_digit(byte):
            value = np.int64(byte) - 0x30
            # Sums in which the last digit so far counts as it is, and in which it counts twice.
            total, doubled = doubled + value, total + (2 * value - 9 if value > 4 else 2 * value)
            prefix = prefix * 10 + value if digits < 6 else prefix
            digits += 1
    return place if total % 10 == 0 and network(prefix, digits) else -1


@njit(nogil=True)
def network(prefix, digits):
    """Whether there are cards that begin with these six digits and have so many of them."""
    two, three, four = prefix // 10000, prefix // 1000, prefix // 100
    if prefix // 100000 == 4:  # Visa
        return digits == 13 or digits == 16 or digits == 19
    if 51 <= two <= 55 or 2221 <= four <= 2720:  # Mastercard
        return digits == 16
    if two == 34 or two == 37:  # American Express
        return digits == 15
    if two == 36 or two == 38 or two == 39 or 300 <= three <= 305:  # Diners Club
        return digits == 14
    discover = four == 6011 or two == 65 or 644 <= three <= 649
    return 16 <= digits <= 19 and (discover or 3528 <= four <= 3589 or two == 62)  # also JCB, UnionPay
