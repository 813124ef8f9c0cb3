"""From a response to a document's content. A response is data: it is split and compared, never run."""

from __future__ import annotations

import json
import re

from curation.read.record import BadRecordError, Document, assistant, string_at, user
from curation.synthesis.config import Synthesis

FENCE = "```"


def parse_response(config: Synthesis, prompt: str, response: str) -> Document:
    """The document in a response. Raises BadRecordError saying what was found and what was expected."""
    if not response.strip():
        raise BadRecordError("the response is empty")
    parse = config.parse
    if config.kind == "text":
        return Document(text=response.strip())
    if parse.how == "whole":
        return Document(messages=[user(prompt), assistant(response.strip())])
    if parse.how == "cards":
        return Document(messages=_cards(response, parse.question, parse.answer))
    parts = response.split(parse.separator) if parse.separator is not None else re.split(parse.pattern, response)
    return Document(messages=_turns(parts))


def _turns(parts: list[str | None]) -> list[dict[str, str]]:
    """Turns of user and assistant in alternation. A blank part before the first separator is no turn."""
    contents = [(part or "").strip() for part in parts]
    if contents and not contents[0]:
        contents = contents[1:]
    if not contents or len(contents) % 2:
        raise BadRecordError(f"{len(contents)} turns, expected pairs of a user's and an assistant's")
    for place, content in enumerate(contents):
        if not content:
            raise BadRecordError(f"turn {place + 1} of {len(contents)} is empty")
    return [(user, assistant)[place % 2](content) for place, content in enumerate(contents)]


def _cards(response: str, question: str, answer: str) -> list[dict[str, str]]:
    messages = []
    for number, line in enumerate(response.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(FENCE):
            continue
        try:
            card = json.loads(line)
            turns = user(string_at(card, question).strip()), assistant(string_at(card, answer).strip())
        except (json.JSONDecodeError, RecursionError, BadRecordError) as error:
            raise BadRecordError(f"line {number} is no card: {error}") from None
        if not all(turn["content"] for turn in turns):
            raise BadRecordError(f"line {number}: the question or the answer is empty")
        messages += turns
    if not messages:
        raise BadRecordError("no cards in the response")
    return messages
