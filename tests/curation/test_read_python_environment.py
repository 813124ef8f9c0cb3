"""The Python environment as input: parsed, never imported; what is made of a function depends on its text."""

from __future__ import annotations

import ast
import sys

import pytest

from curation.ingest import Source, ingest
from curation.read.inventory import find_files
from curation.read.record import Document, Limits, Problem, RawFile, Skipped
from curation.read.registry import READERS

MODULE = '''"""The module's docstring, which has more than eight words in it for sure."""
raise SystemExit("this must never run")

def first(a, b=1, *, c: int = 2) -> str:
    """Return the first thing that anyone ever asked of this function, made of {a}."""
    value = a + b
    return str(value)

class Thing:
    """A thing is a class whose docstring is long enough to be kept by the reader."""

    async def second(self):
        """Wait for the second thing, which comes after the first and before the third.

        It has a second paragraph.
        """
        if True:
            return None

def undocumented():
    return 1

def trivial():
    """Too short."""
'''


def read(tmp_path, text: str, reader: str, name: str = "package/module.py"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    entry = READERS[reader]
    return list(entry.read(RawFile(path, name, ""), Limits(), entry.options()))


def test_code_is_the_file(tmp_path):
    (item,) = read(tmp_path, MODULE, "python_code")
    assert item.text == MODULE
    assert item.metadata == {"language": "Python", "package": "package"}


def test_code_in_the_encoding_that_it_declares(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nname = 'Größe'\n".encode("latin-1"))
    entry = READERS["python_code"]
    (item,) = entry.read(RawFile(path, "a.py", ""), Limits(), entry.options())
    assert "Größe" in item.text
    path.write_bytes(b"# -*- coding: no-such -*-\n")
    (problem,) = entry.read(RawFile(path, "a.py", ""), Limits(), entry.options())
    assert "no-such" in problem.error


def test_short_docstrings_of_a_module_are_one_document_and_long_ones_their_own(tmp_path):
    long = "word " * 200
    items = read(tmp_path, MODULE + f'\ndef long():\n    """{long}"""\n', "python_docstrings")
    assert [item.text.split()[0] for item in items] == ["word", "The"]
    assert "Wait for the second thing" in items[1].text
    assert "Too short" not in items[1].text
    assert "value = a + b" not in items[1].text


def test_conversations_and_pairs_are_made_of_functions(tmp_path):
    for place in range(12):  # other texts, other choices
        module = MODULE.replace("{a}", f"{{a{place}}}")
        chats = read(tmp_path, module, "docstring_chat")
        assert len(chats) == 2
        for item in chats:
            asked, answer = (turn["content"] for turn in item.messages)
            if item.metadata["made"] == "signature to docstring":
                assert "def " in asked
                assert answer.startswith(("Return the first", "Wait for the second"))
            else:
                code = answer.removeprefix("```python\n").removesuffix("\n```")
                (function,) = ast.parse(code).body
                assert ast.get_docstring(function) is None
                assert asked.startswith("Write this Python function.")
        for item in read(tmp_path, module, "docstring_pairs"):
            chosen, worse = item.chosen[0]["content"], item.rejected[0]["content"]
            made = item.metadata["made"]
            assert chosen != worse
            assert made in ("another function's", "repeated", "truncated")
            assert {"repeated": worse.startswith(chosen), "truncated": chosen.startswith(worse)}.get(made, True)
    assert "def first(a, b=1, *, c: int=2) -> str:" in chats[0].messages[0]["content"]


def test_every_construction_occurs_and_the_order_of_functions_does_not_matter(tmp_path):
    functions = [
        f'def f{n}(x):\n    """Docstring number {n} says what function {n} does with its x."""\n    return {n}\n'
        for n in range(60)
    ]
    sides = []
    for order in (functions, functions[::-1]):
        items = read(tmp_path, "\n".join(order), "docstring_pairs")
        sides.append(sorted((i.metadata["made"], i.chosen[0]["content"], i.rejected[0]["content"]) for i in items))
    assert sides[0] == sides[1]
    assert {made for made, _, _ in sides[0]} == {"another function's", "repeated", "truncated"}


@pytest.mark.parametrize("reader", ["python_docstrings", "docstring_chat", "docstring_pairs"])
def test_what_is_not_python_is_a_problem_and_what_has_nothing_is_skipped(tmp_path, reader):
    for text in ("def broken(:\n", "x = '\0'\n", "(" * 5000):
        (item,) = read(tmp_path, text, reader)
        assert isinstance(item, Problem)
        assert "not Python" in item.error
    (item,) = read(tmp_path, "x = 1\n", reader)
    assert isinstance(item, Skipped)


def test_a_docstring_with_a_lone_surrogate_is_no_document(tmp_path):
    text = (
        'def f():\n    """A lone surrogate \\ud800 within a docstring of more than eight words."""\n    return 1\n'
    )
    (item,) = read(tmp_path, text, "docstring_chat")
    assert item == Skipped("no documented functions")


def test_descriptions_and_licences(tmp_path):
    head = "Metadata-Version: 2.1\nName: thing\nLicense: MIT\n"
    text = head + "\nA description of the thing in more than eight words.\n"
    (item,) = read(tmp_path, text, "package_texts", "thing-1.0.dist-info/METADATA")
    assert item.text == "A description of the thing in more than eight words.\n"
    assert item.metadata == {"package": "thing", "license": "MIT"}
    (item,) = read(
        tmp_path, "Metadata-Version: 2.1\nName: thing\n", "package_texts", "thing-1.0.dist-info/METADATA"
    )
    assert item == Skipped("no description")
    (item,) = read(tmp_path, "The licence.", "package_texts", "thing-1.0.dist-info/licenses/LICENSE")
    assert (item.text, item.metadata) == ("The licence.", {"package": "thing-1.0"})


def test_the_standard_library_is_found_without_site_packages():
    folder, files = find_files("python:stdlib", ("*.py", "json/*.py"), ())
    names = {path.relative_to(folder).as_posix() for path in files}
    assert {"json/decoder.py", "ast.py"} <= names
    assert not any("-packages" in name for name in names)


def test_reading_a_package_does_not_import_it(context):
    source = Source(
        name="s", kind="pairs", reader="docstring_pairs", root="python:stdlib", include=["turtle.py", "json/*.py"]
    )
    sys.modules.pop("turtle", None)
    output = ingest(context, source)
    assert output.counts["documents_out"] > 20
    assert output.counts["quarantined"] == 0
    assert "turtle" not in sys.modules


def test_documents_are_documents(tmp_path):
    assert all(isinstance(item, Document) for item in read(tmp_path, MODULE, "python_docstrings"))
