"""The measurements of code against what others find: `re`, `tokenize`, `ast`, Pygments and `html.parser`."""

from __future__ import annotations

import ast
import io
import os
import random
import re
import sysconfig
import tokenize
import zlib
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, String

from curation.measure.code import encoded, secrets
from curation.measure.code.comments import comment_chars
from curation.measure.code.encoded import encoded_counts
from curation.measure.code.group import COLUMNS, GROUP
from curation.measure.code.marks import FIRST_LINES, MARKS, generated_marks
from curation.measure.code.markup import markup_counts
from curation.measure.code.secrets import BASE62, secret_counts
from curation.measure.code.syntax import NAMES
from curation.measure.utf8 import text_buffers
from tests.conftest import documents_table


def buffers(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return text_buffers(pa.array(texts, pa.large_string()))


def comments(texts: list[str], language: str) -> list[int]:
    return comment_chars(*buffers(texts), np.full(len(texts), NAMES.index(language), np.int64)).tolist()


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("Python", "x = 1  # one\ny = '# no'\n", ["# one"]),
        ("Python", 'def f():\n    """Doc\n    more"""\n    return """no"""\n', ['"""Doc\n    more"""']),
        ("Python", 'r"""Raw."""\nf(\n"""an argument"""\n)\n# é', ['r"""Raw."""'[1:], "# é"]),
        ("C", 'int a; /* one\n two */ char *s = "/* no */"; // three\n', ["/* one\n two */", "// three"]),
        ("C", "char c = '\"'; // one", ["// one"]),
        ("Go", "s := `// no\n` // yes\n", ["// yes"]),
        ("Rust", "fn f<'a>(x: &'a str) {} // yes\n", ["// yes"]),
        ("Shell", "echo ${#x} $# 'a # b' # yes\n", ["# yes"]),
        ("Ruby", "=begin\na\n=end\nx # y\n", ["=begin\na\n=end", "# y"]),
        ("Perl", "my $n = $#a;\n\n=pod\n\ntext\n\n=cut\n\n1; # y\n", ["=pod\n\ntext\n\n=cut", "# y"]),
        ("Lua", "--[[ a\nb ]] x = 1 -- c\n", ["--[[ a\nb ]]", "-- c"]),
        ("SQL", "SELECT 'it''s -- no' -- yes\n", ["-- yes"]),
        ("HTML", "<p>a<!-- b --></p>", ["<!-- b -->"]),
        ("C", "/* never closed", ["/* never closed"]),
        ("C", "", []),
    ],
)
def test_comments_are_told_from_code_by_the_marks_of_the_language(language, text, found):
    assert comments([text], language) == [sum(map(len, found))]


def python_comments(text: str) -> int:
    """Characters of comments by the tokenizer, and of triple-quoted docstrings by the parser."""
    found = sum(
        len(token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    )
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if (
            not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            or not node.body
        ):
            continue
        first = node.body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            source = "\n".join(lines[first.lineno - 1 : first.end_lineno])
            source = source[len(lines[first.lineno - 1].encode()[: first.col_offset].decode()) :]
            source = source.lstrip("rRuU")
            quotes = source[:3] if source[:3] in ('"""', "'''") else ""
            found += source.rfind(quotes) + 3 if quotes else 0
    return found


def test_python_comments_and_docstrings_are_those_of_its_own_tokenizer():
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in random.Random(3).sample(paths, 60)]
    shares = [
        abs(found - python_comments(text)) / len(text)
        for text, found in zip(texts, comments(texts, "Python"), strict=True)
    ]
    assert np.mean(shares) < 0.002  # strings that stand alone without being docstrings
    assert np.mean(np.array(shares) < 0.01) > 0.9


@pytest.mark.skipif(not os.environ.get("MIXWRIGHT_DATA"), reason="needs MIXWRIGHT_DATA: real code of 14 languages")
def test_comments_of_real_code_are_those_of_pygments():
    zstandard = pytest.importorskip("zstandard")
    orjson = pytest.importorskip("orjson")
    raw = (Path(os.environ["MIXWRIGHT_DATA"]) / "code" / "code.jsonl.zst").read_bytes()
    by_language = defaultdict(list)
    for line in zstandard.ZstdDecompressor().stream_reader(raw).read().splitlines():
        record = orjson.loads(line)
        if len(by_language[record["language"]]) < 12:
            by_language[record["language"]].append(record["text"])
    differences = {}
    for language, texts in by_language.items():
        lexer = get_lexer_by_name({"C++": "cpp"}.get(language, language.lower()), stripnl=False, ensurenl=False)
        shares = []
        for text, found in zip(texts, comments(texts, language), strict=True):
            theirs = sum(
                len(value.rstrip("\n"))
                for kind, value in lexer.get_tokens(text)
                if (kind in Comment and kind not in (Comment.Preproc, Comment.PreprocFile)) or kind in String.Doc
            )
            shares.append(abs(found - theirs) / max(1, len(text)))
        differences[language] = np.mean(shares)
    assert len(differences) >= 12
    assert max(differences.values()) < 0.01, differences


EXPRESSIONS = (
    re.compile(r"[a-zA-Z0-9+/\n=]{64,}"),
    re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}"),
    re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}"),
)
PIECES = ["0x12", "12", "ab", ",", " ", "\n", "\\x12", "\\u12ab", "A" * 60, "a_", "é", "=", "+/", "fe,", "\u2028"]
PIECES += ["12 ", "0x1f,", "\\x0a\\x0b", "x", "日", "\\u00e9" * 8, "12,34 56\n", "_"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=60).map("".join)), max_size=4))
@example(["\\u12ab" * 9 + "A" * 70, "12 " * 8, "12,34," * 4, "a\\x12" + "\\x12" * 8, "0x12, " * 9, "A" * 64])
def test_encoded_data_are_the_matches_of_the_published_expressions(texts):
    counts = encoded_counts(*buffers(texts))
    for row, text in enumerate(texts):
        matches = [len(match[0]) for expression in EXPRESSIONS for match in expression.finditer(text)]
        found = counts["encoded_chars"][row], counts["longest_encoded"][row]
        assert found == (sum(matches), max(matches, default=0)), text


def test_the_comparison_with_the_expressions_can_fail(monkeypatch):
    """The planted twin: one of the hexadecimal digits is none."""
    assert encoded_counts(*buffers(["12 " * 8]))["encoded_chars"].tolist() == [24]
    digits = encoded.IS_HEX.copy()
    digits[ord("2")] = False
    digits.flags.writeable = False
    monkeypatch.setattr(encoded, "IS_HEX", digits)
    with pytest.raises(AssertionError):
        assert encoded_counts(*buffers(["12 " * 8]))["encoded_chars"].tolist() == [24]


class Visible(HTMLParser):
    """Characters of text outside scripts and styles, references as written."""

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.chars, self.hidden = 0, False

    def handle_starttag(self, tag, attributes):
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        self.chars += 0 if self.hidden else len(data)

    def handle_entityref(self, name):
        self.chars += len(name) + 2

    def handle_charref(self, name):
        self.chars += len(name) + 3


HTML = [
    "<p>",
    "</p>",
    "<a href='x>y'>",
    '<img alt="a > b">',
    "<!-- a <b> -->",
    "text & more",
    "&amp;",
    "&#233;",
    "é",
]
HTML += [
    "<script>if (a < b) { s = '<p>'; }</script>",
    "<style>p > a { }</style>",
    "<!DOCTYPE html>",
    "\n",
    "1 < 2",
]
HTML += ["<br/>", "<?php echo 1; ?>", "<SCRIPT>x</SCRIPT>"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(HTML), max_size=30))
def test_visible_text_is_that_of_the_html_parser(pieces):
    text = " ".join(pieces)
    parser = Visible()
    parser.feed(text)
    parser.close()
    assert markup_counts(*buffers([text]))["visible_chars"].tolist() == [parser.chars], text


def test_an_xml_header_counts_within_the_first_hundred_characters():
    header = '<?xml version="1.0"?><a/>'
    texts = [header, "é" * 99 + header, "é" * 100 + header, "<?XML VERSION=", "<?xml", ""]
    assert markup_counts(*buffers(texts))["xml_header"].tolist() == [1, 1, 0, 1, 0, 0]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*MARKS, "Code Generated By", "\n", "hand-written", "é"]), max_size=12))
def test_marks_of_generated_files_count_in_the_first_lines(pieces):
    text = " ".join(pieces)
    head = "\n".join(text.split("\n")[:FIRST_LINES]).lower()
    expected = sum(len(re.findall(f"(?={re.escape(mark)})", head)) for mark in MARKS)
    assert generated_marks(*buffers([text])).tolist() == [expected]


def github_token(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return "gh" + "p_" + body + digits


BODY = "aB3" * 10
FAKE = {  # put together here, so that this file holds no string of the form of a key
    "aws": "AK" + "IA" + "QYLPMN5HFIQR7XYA",
    "github": github_token(BODY),
    "google": "AI" + "za" + "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
    "slack": "xo" + "xb-" + "123456789012-abcdefABCDEF12345678",
    "stripe": "sk_" + "live_" + "0123456789abcdefABCDEF0123",
    "gitlab": "gl" + "pat-" + "abcdefghij0123456789",
    "jwt": "ey"
    + "JhbGciOiJIUzI1NiJ9.ey"
    + "JzdWIiOiIxMjM0NTY3ODkwIn0."
    + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "pem": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn" * 2,
}
NO_SECRETS = {
    "an example of a manual": "AK" + "IA" + "IOSFODNN7EXAMPLE",
    "a token with a wrong checksum": "gh" + "p_" + BODY + "000000",
    "part of a word": "X" + FAKE["aws"],
    "a header that is no JSON": "ey" + "Jxxxxxxxxxxxxx.ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0." + "a" * 20,
    "a public key": "-----BEGIN PUBLIC KEY-----\n" + "MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn" * 2,
    "the words alone": "-----BEGIN " + "PRIVATE KEY----- is what it begins with",
}


def test_secrets_are_counted():
    texts = [f'key = "{secret}"\n' for secret in FAKE.values()]
    assert secret_counts(*buffers([*texts, "".join(texts), ""])).tolist() == [1] * len(FAKE) + [len(FAKE), 0]


@pytest.mark.parametrize("what", NO_SECRETS)
def test_what_only_looks_like_a_secret_is_none(what):
    assert secret_counts(*buffers([f"{NO_SECRETS[what]} "])).tolist() == [0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=40), st.sampled_from(list(FAKE.values()))), max_size=8))
def test_the_search_for_beginnings_misses_no_secret(pieces):
    text = "\n".join(pieces)
    assert secret_counts(*buffers(["", text])).tolist() == [0, secrets.secrets_in(text.encode())]


def test_the_group_gives_its_columns_and_takes_the_language_from_the_metadata():
    documents = documents_table(
        "code",
        [
            {"text": "x = 1 # one", "metadata": '{"language": "python"}'},
            {"text": "x = 1 # one", "metadata": '{"language": "en"}'},
            {"text": "x", "metadata": '{"language": "Brainfuck"}'},
            {"text": "// é", "metadata": '{"language": "C++", "path": "a.cc"}'},
            {"text": "", "metadata": "{}"},
        ],
    )
    columns = GROUP.measure(documents, documents["text"].combine_chunks())
    assert {name: column.type for name, column in columns.items()} == COLUMNS
    assert columns["code_language"].to_pylist() == ["Python", None, "Brainfuck", "C++", None]
    assert columns["comment_share"].to_pylist() == [5 / 11, None, None, 1.0, None]
    assert columns["visible_char_share"].to_pylist() == [1.0, 1.0, 1.0, 1.0, None]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([-1, *range(len(NAMES))]))
def test_no_bytes_break_the_kernels(raw, language):
    """A file can hold bytes that are no UTF-8; what is counted lies within the document."""
    data = np.frombuffer(b"ab" + raw + b'/*"', np.uint8)
    offsets = np.array([2, 2 + len(raw)], np.int64)
    assert 0 <= comment_chars(data, offsets, np.array([language], np.int64))[0] <= len(raw)
    assert encoded_counts(data, offsets)["longest_encoded"][0] <= len(raw)
    assert markup_counts(data, offsets)["visible_chars"][0] <= len(raw)
    assert generated_marks(data, offsets)[0] <= len(raw)
    assert secret_counts(data, offsets)[0] <= len(raw)
