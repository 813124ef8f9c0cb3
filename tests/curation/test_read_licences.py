"""Licences of source files, by the texts and declarations of the packages that are installed here."""

from __future__ import annotations

import importlib.metadata
import json

import pyarrow.parquet as pq
import pytest

from curation.ingest import Source, ingest
from curation.read.licences import declared, identified, vendored
from curation.steps import Context

MIT = """The MIT License (MIT)
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including [...]
The above copyright notice and this permission notice shall be included in all copies or substantial portions.
"""


def test_what_packages_declare_is_what_their_texts_are():
    """Every installed distribution that declares one plain SPDX identifier and ships one licence file."""
    compared, wrong = 0, []
    for package in importlib.metadata.distributions():
        expression = package.metadata.get("License-Expression", "")
        texts = [file for file in package.files or () if "dist-info" in str(file) and "licen" in file.name.lower()]
        if len(texts) != 1 or not expression or " " in expression:
            continue
        found = identified(texts[0].read_text() or "")
        compared += 1
        if found != expression.removesuffix("-only").removesuffix("-or-later"):
            wrong.append((package.name, expression, found))
    if compared < 10:
        pytest.skip(f"only {compared} installed packages declare a licence")
    assert len(wrong) <= compared // 20, wrong  # some ship a text that is not what they declare


def test_texts_that_are_not_known_are_not_guessed():
    assert identified("") is None
    assert identified("All rights reserved. See the Apache License for what we do not grant.") is None
    assert identified(MIT) == "MIT"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# SPDX-License-Identifier: GPL-2.0-or-later\n", "GPL-2.0-or-later"),
        ("/* SPDX-License-Identifier: (MIT OR Apache-2.0) */", "(MIT OR Apache-2.0)"),
        ("\n" * 5000 + "SPDX-License-Identifier: MIT", None),
        ("no licence", None),
    ],
)
def test_what_a_file_says_of_itself(text, expected):
    assert declared(text) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("src/vendor/a.go", True),
        ("third_party/x/y.c", True),
        ("a/node_modules/b/c.js", True),
        ("static/jquery.min.js", True),
        ("src/vendors.py", False),
        ("src/depsolve/a.py", False),
    ],
)
def test_vendored_paths(path, expected):
    assert vendored(path) == expected


def test_a_source_tree_marks_licence_language_and_vendored_files(tmp_path):
    root = tmp_path / "in"
    files = {
        "LICENSE": MIT,
        "a.py": "print(1)\n",
        "b.c": "// SPDX-License-Identifier: Zlib\nint x;\n",
        "sub/deep/c.rs": "fn main() {}\n",
        "vendor/lib/LICENSE.txt": "Apache License\nVersion 2.0, January 2004\n",
        "vendor/lib/d.go": "package d\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    patterns = ["**/*.py", "**/*.c", "**/*.rs", "**/*.go"]

    def read(**options) -> tuple[dict[str, dict], str]:
        source = Source(name="s", reader="source_tree", root=str(root), include=patterns, options=options)
        output = ingest(Context(tmp_path / "ws"), source)
        rows = [row for path in output.shards() for row in pq.read_table(path).to_pylist()]
        return {row["origin"].split("#")[0]: json.loads(row["metadata"]) for row in rows}, output.record[
            "fingerprint"
        ]

    found, before = read()
    assert found == {
        "a.py": {"language": "Python", "license": "MIT"},
        "b.c": {"language": "C", "license": "Zlib"},
        "sub/deep/c.rs": {"language": "Rust", "license": "MIT"},
        "vendor/lib/d.go": {"language": "Go", "license": "Apache-2.0", "vendored": True},
    }
    assert "vendor/lib/d.go" not in read(vendored=False)[0]
    (root / "LICENSE").write_text("Mozilla Public License Version 2.0")  # a file that is itself not read
    found, after = read()
    assert found["a.py"]["license"] == "MPL-2.0"
    assert before != after
