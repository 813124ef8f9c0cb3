"""Measurements of source code: the group `code`."""
