"""A quality classifier: fastText trained on sources that the recipe calls good and bad, then applied to others."""

from __future__ import annotations

from curation.config import Count, Share, Strict


class QualityFile(Strict):
    """Examples from outside the pools: a text file, plain, gz or zst, one document a line."""

    file: str


class Quality(Strict):
    """What the quality classifier learns from and how. An example class is sources by name, or files."""

    positives: list[str | QualityFile]
    negatives: list[str | QualityFile]
    sample: Count = 20_000  # documents of each class at most; both classes are cut to the smaller one
    holdout: Share = 0.1  # of each class, for the report
    epochs: int = 5
    dim: int = 16
    lr: float = 0.5
    word_ngrams: int = 2
    buckets: Count = 100_000  # hash buckets of word n-grams; 4 * dim bytes each in the model file
    seed: int = 0
