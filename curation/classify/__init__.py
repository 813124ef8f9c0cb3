"""Classifiers: fastText models trained from a recipe, or given model files, applied to pools as measurements."""
