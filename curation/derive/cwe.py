"""Counting the common words of a section (CWE, Olmo 3): questions whose answers are exact by construction.

Of each partition of a long document the ten commonest nouns are counted, and a few questions about them are put
after it. Counting and choosing are deterministic; only the wording can be a model's, and what a model says is kept
only where its question names one of the nouns and its answer is that noun's count.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from curation.derive.draws import Draws
from curation.derive.sections import FEWEST, partitions, power_of_two, sections
from curation.derive.words import noun_counts

COMMONEST = 10
EXCERPT = 500  # characters of the partition that a model is shown

QUESTIONS = (
    'How many times does "{noun}" occur in the text above?',
    'How often is "{noun}" written in the passage above?',
    'Count the occurrences of "{noun}" above. How many are there?',
    'In the part just read, how many times is "{noun}" used?',
    'What is the number of times that "{noun}" appears in the preceding passage?',
    '"{noun}": how many times in the passage?',
    'Go through the text above again. How many times does it say "{noun}"?',
    'How frequent is "{noun}" above? Give the number.',
)
ANSWERS = ("{count}", "{count}", "{count}", "{count} times.", "It occurs {count} times.", "There are {count}.")
ONCE = {
    "{count} times.": "Once.",
    "It occurs {count} times.": "It occurs once.",
    "There are {count}.": "There is one.",
}
LAYOUTS = (("Question: ", "\nAnswer: ", "\n\n"), ("Q: ", "\nA: ", "\n\n"), ("", "\n", "\n\n"), ("- ", " ", "\n"))


@dataclass(frozen=True)
class Counted:
    """A partition of a document and the commonest nouns in it, by count, then by word."""

    start: int
    end: int
    counts: dict[str, int]


@dataclass(frozen=True)
class Card:
    """A question, its answer, and what they are about."""

    noun: str
    count: int
    question: str
    answer: str


def counted(text: str, draws: Draws, nouns: frozenset[str] | None) -> list[Counted]:
    """The partitions of a text and their commonest nouns; none for a text of too few sections."""
    spans = sections(text)
    if len(spans) < FEWEST:
        return []
    found = []
    for start, end in partitions(spans, power_of_two(len(text), draws)):
        counts = noun_counts(text[start:end], nouns)
        best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COMMONEST]
        if best:
            found.append(Counted(start, end, dict(best)))
    return found


def written(part: Counted, questions: int, draws: Draws) -> list[Card]:
    """Questions in our own words, about nouns that are drawn."""
    cards = []
    for noun in draws.some(list(part.counts), questions):
        count = part.counts[noun]
        answer = draws.one(ANSWERS)
        said = ONCE.get(answer, answer) if count == 1 else answer
        cards.append(Card(noun, count, draws.one(QUESTIONS).format(noun=noun), said.format(count=count)))
    return cards


def prompt(part: Counted, text: str, questions: int) -> str:
    """What a model is asked: questions about the counts that it is given."""
    counts = "\n".join(f"{noun}: {count}" for noun, count in part.counts.items())
    number = min(questions, len(part.counts))
    return (
        f"A long text begins like this:\n\n{text[part.start : part.end][:EXCERPT]}\n\n"
        f"In the whole text these nouns occur so many times:\n{counts}\n\n"
        f"Write {number} different questions about how many times one of these nouns occurs, each with its "
        'answer, a number. Put the noun into the question as it is written above. Do not use "word" or "count". '
        'Give a JSON object a line, with "question" and "answer".'
    )


def checked(part: Counted, response: str) -> tuple[list[Card], list[str]]:
    """The cards of a model's response that are right, and why each of the others is not."""
    cards, wrong = [], []
    for line in response.splitlines():
        if not line.strip() or line.lstrip().startswith("```"):
            continue
        try:
            card = json.loads(line)
            question, answer = str(card["question"]).strip(), str(card["answer"]).strip()
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            wrong.append(f"no card: {type(error).__name__}")
            continue
        named = [noun for noun in part.counts if noun in question]
        numbers = re.findall(r"\d+", answer)
        if re.search(r"\b(?:words?|counts?)\b", question, re.IGNORECASE):
            wrong.append("the question says word or count")
        elif not named:
            wrong.append("the question names none of the nouns")
        elif len(numbers) != 1 or not (right := [noun for noun in named if part.counts[noun] == int(numbers[0])]):
            wrong.append("the answer is not the count")
        else:
            noun = max(right, key=len)  # of two, one inside the other, the one that was meant
            cards.append(Card(noun, part.counts[noun], question, numbers[0]))
    return cards, wrong


def block(cards: list[Card], draws: Draws) -> str:
    """Cards as text."""
    before, between, after = draws.one(LAYOUTS)
    return after.join(f"{before}{card.question}{between}{card.answer}" for card in cards)
