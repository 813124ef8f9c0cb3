"""How programming languages mark comments and strings: enough to tell comments from code, no parser.

Where nothing else is said a comment mark counts wherever it stands outside strings and comments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIDEST = 4  # bytes of the longest mark


@dataclass(frozen=True)
class Syntax:
    """The marks of a family of languages, as ASCII."""

    line: tuple[str, ...] = ()  # to the end of the line; at most two
    block: tuple[tuple[str, str], ...] = ()  # from mark to mark, not nested; at most two
    quotes: str = ""  # of strings that end with the line at the latest
    long_quotes: str = ""  # of strings that may hold line ends
    spaced: bool = False  # a line mark counts only at the start of a line or after white space
    docstrings: bool = False  # a triple-quoted string that begins a statement is a comment


_C = Syntax(("//",), (("/*", "*/"),), "\"'")
_HASH = Syntax(("#",), (), "\"'")
_SHELL = Syntax(("#",), (), "", "\"'", spaced=True)
_XML = Syntax((), (("<!--", "-->"),))
_LISP = Syntax((";",), (("#|", "|#"),), "", '"')

# GitHub Linguist's names of languages.
SYNTAXES: dict[str, Syntax] = {
    **dict.fromkeys(("C", "C++", "CUDA", "C#", "Java", "Objective-C", "Dart", "Swift", "Solidity", "GLSL"), _C),
    **dict.fromkeys(("JavaScript", "TypeScript", "Go"), Syntax(("//",), (("/*", "*/"),), "\"'", "`")),
    **dict.fromkeys(("Rust", "Kotlin", "Scala", "Groovy"), Syntax(("//",), (("/*", "*/"),), "", '"')),
    "PHP": Syntax(("//", "#"), (("/*", "*/"),), "", "\"'"),
    "CSS": Syntax((), (("/*", "*/"),), "\"'"),
    "SCSS": Syntax(("//",), (("/*", "*/"),), "\"'"),
    "Python": Syntax(("#",), (), "\"'", docstrings=True),
    "Cython": Syntax(("#",), (), "\"'", docstrings=True),
    **dict.fromkeys(("R", "Julia", "TOML", "Elixir", "Nim", "CMake"), _HASH),
    **dict.fromkeys(("Shell", "Makefile", "Dockerfile", "YAML", "Tcl", "PowerShell"), _SHELL),
    "Ruby": Syntax(("#",), (("\n=be", "\n=en"),), "", "\"'", spaced=True),  # =begin ... =end
    "Perl": Syntax(("#",), (("\n=", "\n=cu"),), '"', spaced=True),  # =pod, =head1, ... =cut
    "Lua": Syntax(("--",), (("--[[", "]]"),), "\"'"),
    "SQL": Syntax(("--",), (("/*", "*/"),), "", "'"),
    "Haskell": Syntax(("--",), (("{-", "-}"),), "", '"'),
    **dict.fromkeys(("Octave", "MATLAB"), Syntax(("%", "#"), (("%{", "%}"), ("#{", "#}")), '"')),
    **dict.fromkeys(("Erlang", "Prolog"), Syntax(("%",), (), '"')),
    "TeX": Syntax(("%",)),
    **dict.fromkeys(("Lisp", "Common Lisp", "Emacs Lisp", "Scheme", "Racket", "Clojure"), _LISP),
    **dict.fromkeys(("HTML", "XML", "SVG", "Markdown", "XSLT"), _XML),
}
NAMES = tuple(SYNTAXES)

# The columns of TABLE: two line marks, the two pairs of block marks, four quotes, four long quotes, two flags.
LINE, BLOCK, QUOTES, LONG_QUOTES, SPACED, DOCSTRINGS = 0, 2, 6, 7, 8, 9
COLUMNS = 10


def _table() -> np.ndarray:
    """The marks as bytes: uint8, shape (languages, COLUMNS, WIDEST), zero where there is none."""
    table = np.zeros((len(SYNTAXES), COLUMNS, WIDEST), np.uint8)

    def put(row: int, column: int, mark: str) -> None:
        table[row, column, : len(mark)] = np.frombuffer(mark.encode("ascii"), np.uint8)

    for row, syntax in enumerate(SYNTAXES.values()):
        for place, mark in enumerate(syntax.line):
            put(row, LINE + place, mark)
        for place, (start, end) in enumerate(syntax.block):
            put(row, BLOCK + 2 * place, start)
            put(row, BLOCK + 2 * place + 1, end)
        put(row, QUOTES, syntax.quotes)
        put(row, LONG_QUOTES, syntax.long_quotes)
        table[row, SPACED, 0] = syntax.spaced
        table[row, DOCSTRINGS, 0] = syntax.docstrings
    table.flags.writeable = False
    return table


TABLE = _table()
