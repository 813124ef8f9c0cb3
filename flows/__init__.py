"""The orchestration: the only package that imports Prefect, and the command line."""
