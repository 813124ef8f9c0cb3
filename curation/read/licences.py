"""Licences of source files: what a file says of itself, or the nearest licence file above it; vendored folders.

Texts are known by phrases of their own (SPDX's list has the texts; the identifiers are SPDX's). What is not known
is not guessed. Folders of other people's code are those that GitHub's linguist takes for vendored (vendor.yml).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from curation.read.record import RawFile
from curation.read.stores import RemotePath

FILES = tuple(
    f"**/{name}*" for name in ("LICENSE", "LICENCE", "COPYING", "UNLICENSE", "License", "license", "licence")
)
HEAD = 4096  # characters in which a file names its licence
LONGEST = 1 << 18  # bytes of a licence file that are read
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+\-() ]{2,100})")
_VENDORED = re.compile(
    r"(?:^|/)(?:vendors?|vendored|_vendor|third[-_]?party|3rd[-_]?party|node_modules|bower_components|deps|"
    r"dependencies|extern|external|Godeps|jspm_packages|site-packages|dist-packages)/|[.-]min\.(?:js|css)$",
    re.IGNORECASE,
)
# In the order in which they are tried: a text that quotes another comes first. All phrases must be there.
_TITLE = 400  # characters of a text in which its title stands
_TITLES = {
    "AGPL-3.0": "gnu affero general public license version 3",
    "LGPL-3.0": "gnu lesser general public license version 3",
    "LGPL-2.1": "gnu lesser general public license version 2 1",
    "LGPL-2.0": "gnu library general public license version 2",
    "GPL-3.0": "gnu general public license version 3",
    "GPL-2.0": "gnu general public license version 2",
    "Apache-2.0": "apache license version 2 0",
    "MPL-2.0": "mozilla public license version 2 0",
    "EPL-2.0": "eclipse public license v 2 0",
    "Artistic-2.0": "the artistic license 2 0",
    "BSL-1.0": "boost software license version 1 0",
    "CC0-1.0": "cc0 1 0 universal",
    "CC-BY-SA-4.0": "attribution sharealike 4 0 international",
    "CC-BY-4.0": "attribution 4 0 international",
}
_BSD = "redistribution and use in source and binary forms"
_PHRASES = {
    "PSF-2.0": ("python software foundation license version 2", "psf is making python available"),
    "Unlicense": ("this is free and unencumbered software released into the public domain",),
    "BSD-4-Clause": (_BSD, "all advertising materials mentioning features"),
    "BSD-3-Clause": (_BSD, "specific prior written permission"),
    "BSD-2-Clause": (_BSD,),
    "Zlib": ("in no event will the authors be held liable", "altered source versions must be plainly marked"),
    "MIT-0": (
        "to deal in the software without restriction",
        "to whom the software is furnished to do so the software",
    ),
    "MIT": (
        "to deal in the software without restriction",
        "shall be included in all copies or substantial portions",
    ),
    "ISC": (
        "distribute this software for any purpose with or without fee",
        "copyright notice and this permission",
    ),
    "0BSD": ("distribute this software for any purpose with or without fee",),
}


def identified(text: str) -> str | None:
    """The SPDX identifier of a licence text, None if it is not known."""
    plain = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    for name, phrase in _TITLES.items():
        if phrase in plain[:_TITLE]:
            return name
    return next((name for name, phrases in _PHRASES.items() if all(one in plain for one in phrases)), None)


def declared(text: str) -> str | None:
    """The licence that a source file names in its head, an SPDX expression."""
    match = _SPDX.search(text[:HEAD])
    return match[1].strip() if match else None


def vendored(relative: str) -> bool:
    """Whether a path is in a folder of other people's code, or a minified file."""
    return bool(_VENDORED.search(relative))


def with_licences(files: list[RawFile], texts: Mapping[str, Path | RemotePath]) -> list[RawFile]:
    """The files, each with the licence of the nearest folder above it that has one. `texts`: the licence files
    below the root, by their relative paths. Several of one folder are joined by commas: whether they hold together
    or are a choice is not known.
    """
    found: dict[str, set[str]] = {}
    for relative in sorted(texts):
        with texts[relative].open("rb") as file:
            name = identified(file.read(LONGEST).decode("utf-8", "replace"))
        if name:
            found.setdefault(relative.rpartition("/")[0], set()).add(name)

    def nearest(folder: str) -> str | None:
        while folder and folder not in found:
            folder = folder.rpartition("/")[0]
        return ", ".join(sorted(found[folder])) if folder in found else None

    return [file._replace(licence=nearest(file.relative.rpartition("/")[0])) for file in files]
