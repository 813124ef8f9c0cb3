"""Deduplication: exact by content hash, fuzzy by MinHash with pairs verified by true Jaccard similarity."""
