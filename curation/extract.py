"""The main text of a web page, its title and its date, through resiliparse or trafilatura.

Pure functions of a page's bytes. `curation.extractor` runs them where a page may hang or crash them.
"""

from __future__ import annotations

import contextlib
import re
from typing import Literal, NamedTuple

Engine = Literal["resiliparse", "trafilatura"]

# Where pages say when they were published, the most reliable first.
_DATE_TAGS = (
    "article:published_time",
    "datepublished",
    "date",
    "dc.date",
    "dcterms.created",
    "dc.date.issued",
    "pubdate",
    "parsely-pub-date",
)
_DATE_ATTRIBUTES = ("property", "name", "itemprop")
# One query for these alone: listing every meta tag of a page takes longer than extracting its text.
_DATE_TESTS = ", ".join(f'[{key}="{tag}" i]' for tag in _DATE_TAGS for key in _DATE_ATTRIBUTES)
_DATE_QUERY = f"meta[content]:is({_DATE_TESTS})"
_ISO_DATE = re.compile(
    r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?:T\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:?\d\d)?)?"
)

# Extraction walks up from each node, so its time goes by the sum of the depths of all nodes. Elements that need no
# closing tag do not nest in each other and are not counted.
DEEPEST = 50_000_000  # sum of the depths of a page's tags: some seconds; real pages stay below 1 % of it
_FEW_TAGS = 8_000  # however they nest, the sum of their depths is below DEEPEST
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_FLAT = {
    *(
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    ),
    *("p", "li", "dd", "dt", "tr", "td", "th", "thead", "tbody", "tfoot", "caption", "colgroup", "option"),
    *("optgroup", "rt", "rp", "html", "head", "body"),
}


class ExtractionError(Exception):
    """A page cannot be extracted."""


class Page(NamedTuple):
    """What is kept of a web page."""

    text: str  # main content, block formatting kept as line breaks
    title: str
    created: str | None  # ISO 8601, from the page's own meta tags


def decode(data: bytes, declared: str | None) -> str:
    """A page's bytes as text: UTF-8 where they are valid UTF-8, whatever is declared (text in another encoding
    hardly ever is); else by the encoding that the HTTP header declares, if they are valid in it; else by the
    page's meta tag; else as uchardet guesses. Never fails: what is invalid in the end is replaced.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    if b"\x1b" not in data:  # ISO-2022 switches character sets by escapes and is valid UTF-8 all the same
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-8").removeprefix("\ufeff")
    if declared and (encoding := map_encoding_to_html5(declared, fallback_utf8=False)):
        with contextlib.suppress(UnicodeDecodeError, LookupError):  # a wrong header is common: look at the page
            return data.decode(encoding).removeprefix("\ufeff")
    encoding = detect_encoding(data, html5_compatible=True, from_html_meta=True)
    return bytes_to_str(data, encoding, errors="replace")


def extract_html(data: bytes, charset: str | None = None, engine: Engine = "resiliparse") -> Page:
    """The main content of a page, without navigation, links' targets, scripts and forms; "" if there is none.

    `charset` is what the HTTP header declares. Raises ExtractionError for a page nested beyond DEEPEST.
    """
    from resiliparse.parse.html import HTMLTree

    html = decode(data, charset)
    if (nesting := nested(html)) > DEEPEST:
        raise ExtractionError(f"tags are nested too deep: their depths sum to {nesting}, at most {DEEPEST}")
    tree = HTMLTree.parse(html)
    text = _trafilatura(html) if engine == "trafilatura" else _resiliparse(tree)
    return Page(text.strip(), " ".join((tree.title or "").split()), _published(tree))


def _resiliparse(tree) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(
        tree, main_content=True, links=False, alt_texts=False, form_fields=False, noscript=False
    )


def _trafilatura(html: str) -> str:
    """trafilatura's own defaults, but for readers' comments, which are left out."""
    import trafilatura

    return trafilatura.extract(html, include_comments=False, include_links=False, include_images=False) or ""


def nested(html: str) -> int:
    """An estimate of the sum of the depths of a page's tags, from the text alone; 0 where there are few.

    It decides, before any time is spent, which pages are too deep, so that the same pages are refused on a fast
    and on a slow machine.
    """
    if html.count("<") <= _FEW_TAGS:
        return 0
    depth = total = 0
    for closing, name in _TAG.findall(html):
        if name.lower() not in _FLAT:
            depth = max(0, depth - 1) if closing else depth + 1
        total += depth
    return total


def _published(tree) -> str | None:
    found: dict[str, str] = {}
    for tag in tree.document.query_selector_all(_DATE_QUERY):
        name = next(filter(None, map(tag.getattr, _DATE_ATTRIBUTES)), "").lower()
        found.setdefault(name, tag.getattr("content"))
    for name in _DATE_TAGS:
        if match := _ISO_DATE.match(found.get(name, "").strip()):
            return match[0]
    return None
