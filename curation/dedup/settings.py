"""What a recipe says about deduplication."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from curation.config import Bytes, Share, Strict
from curation.dedup.scheme import Scheme, SchemeField, Shingling
from curation.dedup.trimming import Lines, Substring

Wish = Literal["best", "longest", "newest", "oldest"]


class Keep(Strict):
    """Which of several duplicates is kept: the first by these, in this order.

    `sources`: the place of the document's source in this list; a source that is not listed comes last.
    `then`: the best (the highest `score`), the longest (bytes of its text), the newest or the oldest (`created`),
    in the order given; an unknown score or time comes last. `score` names a measured column, or a field of the
    documents' metadata (dotted where nested).
    What is still equal is decided by the smallest id, then origin, then source name, shard and row.
    """

    sources: tuple[str, ...] = ()
    then: tuple[Wish, ...] = ("longest", "newest")
    score: str | None = None

    @model_validator(mode="after")
    def _no_repeats(self) -> Keep:
        for name, values in (("sources", self.sources), ("then", self.then)):
            if len(set(values)) < len(values):
                raise ValueError(f"'{name}' lists something twice: {', '.join(values)}")
        if ("best" in self.then) != (self.score is not None):
            raise ValueError(
                "'then: [best]' and 'score: NAME' go together: the highest of that number is the best"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_score(self, handler: Any) -> dict[str, Any]:
        values = handler(self)
        return values if self.score else {name: value for name, value in values.items() if name != "score"}


class Exact(Strict):
    """What exact duplicates share: their text, or a field of their metadata such as `url` (dotted where nested).

    It is compared as it is, or made alike first, in this order: `unicode` (NFC), `case` (`str.casefold`),
    `punctuation` (categories P* left out), `white_space` (a run is one blank, none at the ends). A document
    without the field is nobody's duplicate.
    """

    by: str = "text"
    unicode: bool = False
    case: bool = False
    punctuation: bool = False
    white_space: bool = False

    @property
    def measured(self) -> bool:
        """Whether the measured content hash tells duplicates."""
        return self == Exact()


def _usual_ngram(found: dict[str, Any]) -> int:
    """3 words; of characters and tokens, of which unrelated texts share most 3-grams, those of the signature."""
    scheme = found.get("scheme", Scheme())
    return min(3, scheme.ngram) if scheme.unit in ("words", "datatrove") else scheme.ngram


class Dedup(Strict):
    """Settings of exact and fuzzy deduplication.

    `scheme` is that of the measuring pass: "fineweb", "dolma3" or a mapping. Two documents that share a band are
    near-duplicates if the Jaccard similarity of their sets of shingles of `verify_ngram` units reaches `threshold`
    (Olmo 3: 3-grams of words, 0.8; of characters and tokens the scheme's own n-grams if nothing is said).
    `max_bucket` bounds the work on a bucket of many documents: each is compared with the `max_bucket` most
    preferred ones of the bucket. A source that loses more than `alarm_share` of its documents to one stage raises
    an alarm. `memory` bounds what deciding may hold (`curation.dedup.plan`).
    `index` is the folder of an index that fuzzy deduplication compares with and extends
    (`curation.dedup.incremental`).
    """

    exact: Exact = Exact()
    scheme: SchemeField = Scheme()
    verify_ngram: Annotated[int, Field(ge=1, default_factory=_usual_ngram)]
    threshold: Annotated[Share, Field(gt=0, le=1)] = 0.8
    keep: Keep = Keep()
    max_bucket: Annotated[int, Field(ge=1)] = 100
    alarm_share: Annotated[Share, Field(ge=0, le=1)] = 0.5
    # Stations of their own, off without settings; the steps of the others do not depend on them.
    lines: Annotated[Lines | None, Field(exclude=True)] = None
    substring: Annotated[Substring | None, Field(exclude=True)] = None
    # Says nothing about results. Deciding stops with an error where the candidates need more.
    memory: Annotated[Bytes | None, Field(exclude=True)] = None
    # A path says nothing about results: the version found there is an input of the step instead.
    index: Annotated[Path | None, Field(exclude=True)] = None

    @property
    def verification(self) -> Shingling:
        """The shingles whose sets are compared: those of the scheme, of `verify_ngram` units."""
        return self.scheme.model_copy(update={"ngram": self.verify_ngram})

    @model_validator(mode="after")
    def _every_signed_document_has_an_ngram(self) -> Dedup:
        if self.verify_ngram > self.scheme.ngram:
            raise ValueError(
                f"verify_ngram is {self.verify_ngram}, more than the scheme's ngram of {self.scheme.ngram}: "
                "a document could have a signature and nothing to verify it with"
            )
        return self

    @model_validator(mode="after")
    def _an_index_compares_texts(self) -> Dedup:
        if self.index is not None and not self.exact.measured:
            raise ValueError("an index holds texts as they are: leave out 'exact' or 'index'")
        return self


def index_config(config: Dedup) -> dict[str, Any]:
    """The settings that decide who is a duplicate and who is kept: an index has one value of each."""
    return config.model_dump(mode="json", include={"scheme", "verify_ngram", "threshold", "keep", "max_bucket"})
