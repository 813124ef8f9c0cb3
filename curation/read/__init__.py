"""Readers: from raw files to records, one module a family of formats."""
