"""The measuring pass: every number that later decisions look at, computed in one reading of the text."""
