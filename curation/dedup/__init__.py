"""Deduplication: exact by content hash, fuzzy by MinHash with pairs verified by true Jaccard similarity.

Within and across documents: repeated lines, paragraphs and substrings, cut as spans.
"""
