"""Sources derived from others after deduplication: long documents with questions woven in, examples as
instructions.

A derived document holds its parent's text, so that before deduplication the two would be duplicates of each other.
Hence it is made of what every stage has kept, counted like any other, and dropped by none.
"""
