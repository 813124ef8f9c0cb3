"""Readers of the Python environment: real text that is on every machine, parsed and never imported or run.

Source files are code documents, docstrings and package descriptions prose, functions the matter of constructed
conversations and preferences. What is chosen or made of a function depends on its own text and, for "another
function's docstring", on those of its module: never on paths or order.
"""

from __future__ import annotations

import ast
import inspect
import io
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash
from pydantic import Field

from curation.config import Strict
from curation.read.record import (
    BrokenFileError,
    Document,
    Item,
    Limits,
    Problem,
    RawFile,
    Skipped,
    assistant,
    user,
    whole_file,
)
from curation.read.streams import chunks
from curation.read.text import whole_text

ROOTS = {"python:stdlib": "stdlib", "python:site-packages": "purelib"}
# What is not the environment's: this project, however it is installed, and other roots in the standard library.
OWN = ("mixwright*", "mixwright*/**", "__editable__*", "__editable__*/**", "site-packages/**", "dist-packages/**")
_BODIES = ("body", "handlers", "orelse", "finalbody", "cases")  # where statements hold statements
METADATA_KEYS = {"name": "package", "version": "version", "license": "license", "license-expression": "license"}


def environment_root(token: str) -> Path:
    """The folder behind "python:stdlib" or "python:site-packages" of the interpreter that runs."""
    return Path(sysconfig.get_paths()[ROOTS[token]])


class EnvironmentOptions(Strict):
    """Options of the readers of the Python environment."""

    min_words: int = Field(8, ge=1)  # of a docstring
    max_characters: int = Field(6000, ge=1)  # of a function or docstring in conversations and pairs
    long_words: int = Field(150, ge=1)  # from which a docstring is a document of its own


class Function(NamedTuple):
    """A documented function of a module."""

    signature: str  # "def name(arguments) -> result:"
    docstring: str
    code: str  # dedented source without the docstring; "" if nothing else is in it
    offset: int  # number of its first line, from 1


def python_code(file: RawFile, limits: Limits, options: EnvironmentOptions) -> Iterator[Item]:
    """A Python source file a document, in the encoding that it declares."""
    text = _source(file, limits)
    if isinstance(text, Problem):
        yield text
        return
    yield Document("0", 0, text, metadata={"language": "Python", "package": _package(file)})


def python_docstrings(file: RawFile, limits: Limits, options: EnvironmentOptions) -> Iterator[Item]:
    """Docstrings as prose: a long one is a document, the short ones of a module are one together."""
    tree = _parse(file, limits)
    if isinstance(tree, Problem):
        yield tree
        return
    found = [
        text for node in ast.walk(tree[0]) if (text := _docstring(node)) and _words(text) >= options.min_words
    ]
    long = [text for text in found if _words(text) >= options.long_words]
    short = "\n\n".join(text for text in found if _words(text) < options.long_words)
    made = [*long, *([short] if _words(short) >= 3 * options.min_words else [])]
    for part, text in enumerate(made):
        yield Document(f"0/{part}", 0, text, metadata={"package": _package(file)})
    if not made:
        yield Skipped("no docstrings")


def package_texts(file: RawFile, limits: Limits, options: EnvironmentOptions) -> Iterator[Item]:
    """The description in a distribution's METADATA; a licence file as it is."""
    text = whole_text(file, limits)
    if isinstance(text, Problem):
        yield text
        return
    metadata = {"package": _package(file)}
    if file.path.name == "METADATA":
        head, _, text = text.replace("\r\n", "\n").partition("\n\n")
        for line in head.split("\n"):
            key, _, value = line.partition(": ")
            if name := METADATA_KEYS.get(key.lower()):
                metadata[name] = value.strip()[:200]
        if _words(text) < options.min_words:
            yield Skipped("no description")
            return
    yield Document("0", 0, text, metadata=metadata)


def docstring_chat(file: RawFile, limits: Limits, options: EnvironmentOptions) -> Iterator[Item]:
    """Conversations made of functions: signature to docstring or docstring to code, as its hash says."""
    functions = _functions(file, limits, options)
    if isinstance(functions, Problem):
        yield functions
        return
    for part, function in enumerate(functions):
        if function.code and _hash(function) % 2:
            asked = f"Write this Python function.\n\n{_fenced(function.signature)}\n\n{function.docstring}"
            messages, made = [user(asked), assistant(_fenced(function.code))], "docstring to code"
        else:
            messages = [user(_asked_docstring(function)), assistant(function.docstring)]
            made = "signature to docstring"
        metadata = {"made": made, "package": _package(file)}
        yield Document(f"{function.offset}/{part}", -1, messages=messages, metadata=metadata)
    if not functions:
        yield Skipped("no documented functions")


def docstring_pairs(file: RawFile, limits: Limits, options: EnvironmentOptions) -> Iterator[Item]:
    """Constructed preferences: the docstring of a function against another's, a truncated or a repeated one."""
    functions = _functions(file, limits, options)
    if isinstance(functions, Problem):
        yield functions
        return
    docstrings = sorted({function.docstring for function in functions})
    for part, function in enumerate(functions):
        made, worse = _worse(function, docstrings)
        yield Document(
            f"{function.offset}/{part}",
            -1,
            messages=[user(_asked_docstring(function))],
            chosen=[assistant(function.docstring)],
            rejected=[assistant(worse)],
            metadata={"made": made, "package": _package(file)},
        )
    if not functions:
        yield Skipped("no documented functions")


def _worse(function: Function, docstrings: list[str]) -> tuple[str, str]:
    """How the rejected docstring is made, and the docstring."""
    choice = _hash(function) // 2
    others = [text for text in docstrings if text != function.docstring]
    if choice % 3 == 0 and others:
        key = function.signature.encode()
        return "another function's", min(others, key=lambda text: xxhash.xxh3_128_digest(key + text.encode()))
    if choice % 3 == 1:
        return "repeated", "\n\n".join([function.docstring] * (2 + choice // 3 % 2))
    words = function.docstring.split(" ")
    return "truncated", " ".join(words[: max(1, len(words) * 2 // 5)]).rstrip()


def _asked_docstring(function: Function) -> str:
    return f"Write the docstring of this Python function.\n\n{_fenced(function.signature)}"


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def _hash(function: Function) -> int:
    return xxhash.xxh3_64_intdigest(f"{function.signature}\0{function.docstring}".encode())


def _words(text: str) -> int:
    return len(text.split())


def _package(file: RawFile) -> str:
    """The top-level package or distribution that a file belongs to."""
    return file.relative.split("/")[0].removesuffix(".py").removesuffix(".dist-info")


def _source(file: RawFile, limits: Limits) -> str | Problem:
    """A Python file as text (PEP 263), line ends as newlines."""
    raw = b""
    try:
        raw = whole_file(file, chunks(file.path, limits), limits.document_bytes)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        return raw.decode(encoding).replace("\r\n", "\n")
    except BrokenFileError as error:
        return Problem("0", error.offset, str(error))
    except UnicodeDecodeError as error:
        return Problem(
            "0", error.start, f"invalid {error.encoding}: {error.reason} at byte {error.start}", raw[:1000]
        )
    except SyntaxError as error:  # an encoding declaration that is wrong
        return Problem("0", 0, str(error), raw[:1000])


def _parse(file: RawFile, limits: Limits) -> tuple[ast.Module, list[str]] | Problem:
    """The syntax tree of a file and its lines."""
    text = _source(file, limits)
    if isinstance(text, Problem):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in other people's strings
            return ast.parse(text), text.split("\n")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Problem("0", 0, f"not Python: {type(error).__name__}: {error}", text[:1000].encode())


def _functions(file: RawFile, limits: Limits, options: EnvironmentOptions) -> list[Function] | Problem:
    """The documented functions and methods of a file that are neither trivial nor too long, in source order."""
    parsed = _parse(file, limits)
    if isinstance(parsed, Problem):
        return parsed
    tree, lines = parsed
    found = []
    for node in _nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = _docstring(node)
        if docstring and _words(docstring) >= options.min_words and len(docstring) <= options.max_characters:
            code = _code(node, lines)
            code = code if len(code) <= options.max_characters else ""
            found.append(Function(_signature(node), docstring, code, node.lineno))
    return found


def _nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and every class and function in it, in source order. Expressions are not searched."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        children = [child for part in _BODIES for child in getattr(node, part, ())]
        todo.extend(reversed(children))


def _docstring(node: ast.AST) -> str:
    """A node's docstring, dedented; "" for none or one that is not valid Unicode."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
    return "" if any("\ud800" <= character <= "\udfff" for character in text) else text


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{word} {node.name}({ast.unparse(node.args)}){result}:"


def _code(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """A function's source without decorators and docstring; "" if nothing else is in its body."""
    docstring = node.body[0]
    if len(node.body) < 2 or docstring.lineno == node.lineno or node.body[1].lineno <= docstring.end_lineno:
        return ""
    kept = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    indent = " " * node.col_offset
    return "\n".join(line.removeprefix(indent).rstrip() for line in kept).strip("\n")
