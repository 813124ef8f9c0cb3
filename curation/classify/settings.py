"""What a pipeline says of a classifier: what it learns from and how, or its model file; where it is applied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from curation.config import Count, Share, Strict

POSITIVE, NEGATIVE = "positive", "negative"
QUALITY, TOPIC = "quality", "topic"  # the classifiers that the catalog takes its columns from
LABELS_OF_CLASSES = "positives with negatives, classes, labels, model"


class ExampleFile(Strict):
    """Examples from outside the pools: a text file, plain, gz or zst, one document a line."""

    file: str


class Labels(Strict):
    """Classes that the documents of some sources carry themselves, in their metadata."""

    sources: Annotated[list[str], Field(min_length=1)]
    key: Annotated[str, Field(pattern=r"^metadata\.[^.]+(\.[^.]+)*$")]  # dotted: metadata.label
    names: dict[str, str] = Field(default_factory=dict)  # value -> class; a value without a name is left out


Examples = list[str | ExampleFile]


class Classifier(Strict):
    """A classifier: trained on one of positives and negatives, classes, or labels; or a model that is given.

    `positives`, `negatives` and the `classes` name sources or files. `model` is a fastText file (.bin, .ftz) or
    the folder of a `transformers` sequence classification model. With `positive` (a label) a score is the
    probability of that label; without it, that of its likeliest label, which is a column too.
    """

    positives: Examples = Field(default_factory=list)
    negatives: Examples = Field(default_factory=list)
    classes: dict[str, Examples] = Field(default_factory=dict)
    labels: Labels | None = None
    # A path says nothing about results: the hash of what it leads to is an input of the step instead.
    model: Annotated[Path | None, Field(exclude=True)] = None

    sources: list[str] = Field(default_factory=list)  # that it is applied to; none: all
    positive: str | None = None
    prefix: Annotated[Count, Field(gt=0)] = 2000  # characters of a document that it reads
    # Both by default for a model that is trained here, not for a fastText file:
    lowercase: bool | None = None
    split_punctuation: bool | None = None  # each mark of ASCII is a word of its own
    max_tokens: Annotated[int, Field(gt=0)] = 512  # of a transformers model, at most what it has positions for

    sample: Count = 20_000  # documents of each class at most
    balanced: bool = True  # all classes are cut to the smallest one, and take of their sources evenly
    holdout: Annotated[Share, Field(ge=0, lt=1)] = 0.1  # of each class, for the report
    epochs: Annotated[int, Field(gt=0)] = 5
    dim: Annotated[int, Field(gt=0)] = 16
    lr: Annotated[float, Field(gt=0)] = 0.5
    word_ngrams: Annotated[int, Field(ge=1)] = 2
    subwords: tuple[int, int] = (0, 0)  # shortest and longest character n-gram; (0, 0) for none
    buckets: Annotated[Count, Field(ge=1)] = 100_000  # of n-grams; 4 * dim bytes each in the model file
    seed: int = 0
    threads: Annotated[int, Field(ge=1)] = 1  # above 1 training is faster and its file differs from run to run

    @model_validator(mode="after")
    def _one_origin(self) -> Classifier:
        given = [bool(self.positives or self.negatives), bool(self.classes), bool(self.labels), bool(self.model)]
        if sum(given) != 1 or bool(self.positives) != bool(self.negatives):
            raise ValueError(f"give exactly one of: {LABELS_OF_CLASSES}")
        names = self.class_names()
        if self.classes and len(names) < 2:
            raise ValueError("classes: a classifier needs two at least")
        if self.positive is not None and names and self.positive not in names:
            raise ValueError(f"positive '{self.positive}' is none of the classes {', '.join(names)}")
        if bad := [name for name in names if not name or any(mark.isspace() for mark in name)]:
            raise ValueError(f"the name of a class has no white space; found {bad[0]!r}")
        return self

    def normalised(self) -> tuple[bool, bool]:
        """Whether texts are lower-cased, and whether their punctuation is split off."""
        trained = self.model is None
        asked = (self.lowercase, self.split_punctuation)
        return tuple(trained if one is None else one for one in asked)

    def class_names(self) -> list[str]:
        """The classes that are known without reading documents, sorted; of labels, those that are renamed to."""
        if self.positives:
            return [NEGATIVE, POSITIVE]
        return sorted(self.classes or (set(self.labels.names.values()) if self.labels else ()))

    def examples(self) -> dict[str, Examples]:
        """Sources and files by class, for the two forms that name them."""
        return self.classes or {POSITIVE: self.positives, NEGATIVE: self.negatives}

    def score_label(self) -> str | None:
        """The label whose probability is the score; None where the score is the likeliest label's."""
        return self.positive or (POSITIVE if self.positives else None)

    def training_sources(self) -> list[str]:
        """The sources that it learns from, sorted."""
        if self.labels:
            return sorted(set(self.labels.sources))
        return sorted({one for entries in self.examples().values() for one in entries if isinstance(one, str)})
