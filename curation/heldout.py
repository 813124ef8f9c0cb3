"""Held-out sets: documents kept out of every mix, less those whose text a mix holds under another id."""

from __future__ import annotations

from curation.config import Count, Share, Strict


class Heldout(Strict):
    """How held-out documents are chosen and cleared of training text."""

    ngram: int = 8  # words
    max_share: Share = 0.5  # of a document's n-grams found in training documents: from here on it is dropped
    max_documents: Count = 1000  # of each source
    seed: int = 0
