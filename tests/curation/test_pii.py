"""Personal data: vectors worked out by hand, libraries that know the same rules, and lines of real text."""

from __future__ import annotations

import ipaddress
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.edits import apply_edits
from curation.measure.editors import EDITORS
from curation.measure.pii import COLUMNS, GROUP, MASKS, RULES, pii_spans


def found(text: str) -> list[tuple[str, str]]:
    """(rule, what it found) of each span, in order."""
    (spans,) = pii_spans(pa.array([text], pa.large_string())).to_pylist()
    data = text.encode()
    return [(span["rule"].removeprefix("pii_"), data[span["start"] : span["end"]].decode()) for span in spans]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "ada.lovelace+math@mail.example.org"),
        ("email", "x_1@a-b.co"),
        ("ip", "89.1.1.42"),
        ("ip", "212.126.215.106"),
        ("ip", "2607:f8b0:400a:801::1001"),
        ("ip", "2a00:1450:4001:0830:0000:0000:0000:200e"),
        ("phone", "+46 708 32 16 08"),
        ("phone", "+1 (206) 377-9035"),
        ("phone", "+358405344455"),
        ("phone", "(801) 596-1887"),
        ("phone", "213-484-0499"),
        ("phone", "1-800-555-0199"),
        # ISO 13616: 3704 0044 0532 0130 00 and DE89 -> 370400440532013000131489 = 1 modulo 97
        ("iban", "DE89370400440532013000"),
        ("iban", "GB82 WEST 1234 5698 7654 32"),
        ("iban", "NO93 8601 1117 947"),
        # Luhn: 4+1 1 1 1 ... doubled at even places from the end: 8+1+2+1+2+1+2+1+2+1+2+1+2+1+2+1 = 30
        ("card", "4111111111111111"),
        ("card", "5555-5555-5555-4444"),
        ("card", "3782 822463 10005"),
        ("card", "6011000990139424"),
    ],
)
def test_each_kind_is_found_and_only_whole(kind, text):
    for before, after in (("", ""), ("Ask: ", ", please."), ("(", ")"), ("é ", "é"), ("“", "”")):
        assert found(before + text + after) == [(kind, text)], (before, after)
    assert found(f"a{text}") != [(kind, text)]
    if kind != "email":
        assert found(f"{text}a") == []
    if kind != "email" and text[0] != "+":  # those have no fixed length
        assert found(f"{text}1") == []


@pytest.mark.parametrize(
    "text",
    [
        "DE88370400440532013000",  # a check digit that is wrong
        "DE8937040044053201300",  # one character short
        "XX89370400440532013000",  # no such country
        "4111111111111112",  # fails Luhn
        "4357 4449 4358 4449 4359 4449 4361 4449 4363 4449",  # a table; groups of it pass Luhn
        "9999999999999995",  # passes Luhn, of no network
        "10.0.0.12 127.0.0.11 192.168.10.20 172.16.10.20 169.254.10.20 100.64.10.20",
        "198.51.100.12 203.0.113.12 224.0.10.12 255.255.255.255 0.12.34.56",
        "256.100.100.100 1.2.3 12.34.56.78.90 v12.34.56.78 v 12.34.56.78 012.34.56.78 12.34.56.78-beta",
        "// 7.18.2.1 Limits, section 19.6.1.1",
        "fe80::1 ::1 2001:db8::1 std::vector 12:34:56 2000::1::2 20010:1::2",
        "name@localhost @handle a@b a@.com foo@bar..com user@-x.com",
        "+1.23456789 +12345 +0 123 456 789 C+12345678901 1+12345678901",
        "2024-10-12 123-456-7890 223-156-7890 223.456-7890 1234-223-456-7890 ISBN 978-3-16-148410-0",
        "https://example.com/223-456-7890 id=223-456-7890",
    ],
)
def test_what_is_none_is_left_alone(text):
    assert found(text) == []


@settings(deadline=None, max_examples=300)
@given(st.ip_addresses(v=4))
def test_public_ipv4_is_what_the_library_calls_global(address):
    special = ipaddress.ip_network("192.0.0.0/24")  # versions of Python differ on single addresses of this one
    several = sum(len(number) > 1 for number in str(address).split(".")) > 1
    if several and address not in special:
        public = address.is_global and not address.is_multicast
        assert found(f"at {address}.") == ([("ip", str(address))] if public else [])


@settings(deadline=None, max_examples=300)
@given(st.integers(0x2003 << 112, (0x3FFE << 112) - 1).map(ipaddress.IPv6Address), st.booleans())
def test_global_ipv6_in_all_its_forms(address, whole):
    text = address.exploded if whole else str(address)
    assert found(f"[{text}]:80") == [("ip", text)]
    assert found(f"{text}:") in ([], [("ip", text)])
    assert found("1" + text) == []


def luhn(digits: str) -> bool:
    doubled = [int(c) * (1 + place % 2) for place, c in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["4", "51", "34", "36", "6011", "3528", "2221"]),
    st.text("0123456789", min_size=9, max_size=17),
)
def test_cards_are_those_of_a_network_that_pass_luhn(prefix, rest):
    digits = prefix + rest
    lengths = {"4": (13, 16, 19), "51": (16,), "34": (15,), "36": (14,), "2221": (16,)}
    wanted = luhn(digits) and len(digits) in lengths.get(prefix, (16, 17, 18, 19))
    assert found(digits) == ([("card", digits)] if wanted else [])


@settings(deadline=None, max_examples=300)
@given(st.text("0123456789ABZ", min_size=18, max_size=18), st.integers(0, 99))
def test_ibans_are_those_with_the_remainder_1(account, check):
    """German and with letters: the kernel takes the checksum for what it is, not the form of a bank."""
    text = f"GB{check:02}{account}"
    turned = "".join(str(int(character, 36)) for character in text[4:] + text[:4])
    assert found(text) == ([("iban", text)] if int(turned) % 97 == 1 else [])


EMAIL = re.compile(r"[A-Za-z0-9][\w.%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}", re.ASCII)


@settings(deadline=None, max_examples=200)
@given(st.text("aZ1._@- é", max_size=20))
def test_what_is_found_as_an_address_looks_like_one(text):
    for kind, part in found(text):
        assert kind == "email"
        assert EMAIL.fullmatch(part)
        assert ".." not in part


def test_masks_and_counts():
    text = "Mail ada@example.org or bob@example.org, call +46 708 32 16 08; host 89.1.1.42."
    texts = pa.array([text, "nothing"], pa.large_string())
    masked = apply_edits(texts, EDITORS["pii"](texts)).to_pylist()
    assert masked == [f"Mail {MASKS[0]} or {MASKS[0]}, call {MASKS[2]}; host {MASKS[1]}.", "nothing"]
    columns = GROUP.measure(pa.table({"text": texts}), texts)
    assert {name: column.to_pylist() for name, column in columns.items()} == dict(
        zip(COLUMNS, ([2, 0], [1, 0], [1, 0], [0, 0], [0, 0]), strict=True)
    )
    assert len(RULES) == len(MASKS) == len(COLUMNS)
    again = pa.array(masked, pa.large_string())
    assert apply_edits(again, EDITORS["pii"](again)).to_pylist() == masked  # nothing is left to mask
