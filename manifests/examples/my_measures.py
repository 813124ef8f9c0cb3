"""Measurements of one's own: a function for each column, named in the pipeline file as FILE.py:FUNCTION."""


def vowel_share(text: str) -> float | None:
    """Vowels among the letters; no value without letters."""
    letters = [character for character in text.lower() if character.isalpha()]
    return sum(letter in "aeiou" for letter in letters) / len(letters) if letters else None


def licence(text: str, metadata: dict) -> str | None:
    """What the record says of its licence."""
    return metadata.get("license")
