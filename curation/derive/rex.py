"""Rewriting expressions (REX, Olmo 3): a partition's telling phrases, their places, and a text made of them.

Phrases of two to five words are ranked by TF-IDF over the sections of the document; of the best twenty ten are
drawn, and of each the sentences that hold it. A vignette puts them together: flash cards, a dialogue, an exercise.
Finding, ranking and drawing are deterministic. In our own words a vignette quotes and nothing else; a model's is
kept where it holds enough of the phrases.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass

from curation.derive.draws import Draws
from curation.derive.sections import FEWEST, any_size, partitions, sections
from curation.derive.words import WORD, is_common

SHORTEST, LONGEST = 2, 5  # words of a phrase
LETTERS = 4  # of each of its words at least
BEST = 20
SENTENCE = 400  # characters of a sentence that is shown, at most
HELD = 0.5  # share of the phrases that a model's vignette must hold

_GAP = re.compile(r"[ \t]*\r?\n?[ \t]*")  # between the words of a phrase: blanks, one line break
_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Dr|St)\.)(?<!\bMrs\.)[\"'”’)\]]*\s+|(?:\r?\n[^\S\r\n]*){2,}"
)


@dataclass(frozen=True)
class Snippet:
    """A phrase and the sentences of its partition that hold it."""

    phrase: str  # in lower case, one blank between the words
    sentences: tuple[str, ...]
    times: int  # in the partition


@dataclass(frozen=True)
class Found:
    """A partition and what was drawn of it."""

    start: int
    end: int
    snippets: tuple[Snippet, ...]


def phrases(text: str) -> Counter[str]:
    """How often each phrase stands in a text. Its words are at least four letters long and no stop words."""
    counts: Counter[str] = Counter()
    run: list[str] = []
    end = 0
    for match in WORD.finditer(text):
        if run and not _GAP.fullmatch(text, end, match.start()):
            run = []
        whole = match[0].lower()
        word = whole.removesuffix("'s").removesuffix("’s")
        end = match.end()
        if len(word) < LETTERS or is_common(whole):
            run = []
            continue
        run = [*run[-(LONGEST - 1) :], word]
        for size in range(SHORTEST, len(run) + 1):
            counts[" ".join(run[-size:])] += 1
        if word != whole:  # nothing goes on after a genitive
            run = []
    return counts


def found(text: str, draws: Draws, snippets: int, excerpts: int) -> list[Found]:
    """The partitions of a text with their phrases and sentences; none for a text of too few sections."""
    spans = sections(text)
    if len(spans) < FEWEST:
        return []
    by_section = [phrases(text[start:end]) for start, end in spans]
    frequency: Counter[str] = Counter()
    for counts in by_section:
        frequency.update(counts.keys())
    least = max(1, math.ceil(math.log10(len(spans))))
    starts = [start for start, _ in spans]
    made = []
    for start, end in partitions(spans, any_size(len(text), draws)):
        counts = Counter()
        for section in by_section[bisect_left(starts, start) : bisect_right(starts, end - 1)]:
            counts.update(section)
        best = _best(counts, frequency, len(spans), least)
        chosen = [
            _snippet(text[start:end], phrase, counts[phrase], excerpts) for phrase in draws.some(best, snippets)
        ]
        if kept := tuple(snippet for snippet in chosen if snippet.sentences):
            made.append(Found(start, end, kept))
    return made


def _best(counts: Counter[str], frequency: Counter[str], n: int, least: int) -> list[str]:
    """The phrases of highest TF-IDF, none of them part of a better one or the other way round."""
    scored = (
        (-count * (math.log((1 + n) / (1 + frequency[phrase])) + 1), phrase)
        for phrase, count in counts.items()
        if frequency[phrase] >= least
    )
    best: list[str] = []
    for _, phrase in sorted(scored):
        if not any(f" {phrase} " in f" {other} " or f" {other} " in f" {phrase} " for other in best):
            best.append(phrase)
            if len(best) == BEST:
                break
    return best


def _pattern(phrase: str) -> re.Pattern:
    words = r"[ \t]*\r?\n?[ \t]*".join(re.escape(word) for word in phrase.split())
    return re.compile(rf"(?<![^\W\d_]){words}(?![^\W\d_])", re.IGNORECASE)


def _snippet(text: str, phrase: str, times: int, excerpts: int) -> Snippet:
    """The first sentences that hold the phrase, each once, on one line."""
    pattern, sentences = _pattern(phrase), []
    for match in pattern.finditer(text):
        before = [end.end() for end in _END.finditer(text, max(0, match.start() - SENTENCE), match.start())]
        after = _END.search(text, match.end(), min(len(text), match.end() + SENTENCE))
        start = before[-1] if before else max(0, match.start() - SENTENCE)
        end = after.start() if after else min(len(text), match.end() + SENTENCE)
        sentence = " ".join(text[start:end].split())
        if len(sentence) <= SENTENCE and sentence not in sentences:
            sentences.append(sentence)
        if len(sentences) == excerpts:
            break
    return Snippet(phrase, tuple(sentences), times)


# Vignettes in our own words: what stands in them is the text's.


def _flashcards(found: Found, draws: Draws) -> str:
    cards = [f"Front: {one.phrase}\nBack: {draws.one(one.sentences)}" for one in found.snippets]
    return "Flash cards for the text above.\n\n" + "\n\n".join(cards)


def _exercise(found: Found, draws: Draws) -> str:
    tasks, answers = [], []
    for number, one in enumerate(found.snippets, 1):
        sentence = draws.one(one.sentences)
        held = _pattern(one.phrase).search(sentence)
        gap = _pattern(one.phrase).sub("_____", sentence)
        tasks.append(f"{number}. {gap}")
        answers.append(f"{number}. {held[0] if held else one.phrase}")
    return "Fill the gaps from the text above.\n\n" + "\n".join(tasks) + "\n\nAnswers:\n" + "\n".join(answers)


def _dialogue(found: Found, draws: Draws) -> str:
    asked = ("What does the text say about {}?", "Where does {} come up?", "And {}?", "What do we read of {}?")
    turns = [
        f"Reader: {draws.one(asked).format(one.phrase)}\nFriend: It says: {draws.one(one.sentences)}"
        for one in found.snippets
    ]
    return "Two people who have read this far talk about it.\n\n" + "\n".join(turns)


def _claims(found: Found, draws: Draws) -> str:
    lines = [f"- On {one.phrase}: {sentence}" for one in found.snippets for sentence in one.sentences[:2]]
    return "What the text above claims, in its own words:\n" + "\n".join(lines)


def _register(found: Found, draws: Draws) -> str:
    lines = [f"{one.phrase}: {one.times} time{'s' if one.times > 1 else ''}" for one in found.snippets]
    return "Register of phrases in the text above, with how often each occurs:\n" + "\n".join(sorted(lines))


def _quiz(found: Found, draws: Draws) -> str:
    rounds = []
    for one in found.snippets:
        gap = _pattern(one.phrase).sub("…", draws.one(one.sentences))
        rounds.append(f"Host: Complete the sentence: {gap}\nPlayer: {one.phrase}!\nHost: Right.")
    return "A quiz on the text above.\n\n" + "\n\n".join(rounds)


VIGNETTES = {
    "claims": _claims,
    "dialogue": _dialogue,
    "exercise": _exercise,
    "flashcards": _flashcards,
    "quiz": _quiz,
    "register": _register,
}

# What a model is asked to write, for the twelve vignettes of Olmo 3.
REQUESTS = {
    "summary": "a summary that gathers what these passages say of each phrase",
    "dialogue": "a conversation between two people who have read them",
    "simplified": "a version in simple words for a reader who learns the language",
    "flashcards": "a set of flash cards, a question and an answer each",
    "exercise": "an exercise for a class, with its solutions at the end",
    "game_show": "a round of a game show, with a host, two players and right answers",
    "lay_conversation": "a conversation in which somebody explains them to a friend who knows nothing of it",
    "online_debate": "a thread of an online forum in which people disagree about them",
    "claims": "a list of the claims that they make, each with the words that support it",
    "movie_scene": "a scene of a film in which they are talked about",
    "wikipedia": "an encyclopedia article on what they are about",
    "eli5": "an explanation for a child of five",
}


def prompt(found: Found, vignette: str) -> str:
    """What a model is asked for: the sentences of each phrase, the phrase in bold."""
    passages = []
    for one in found.snippets:
        bold = [_pattern(one.phrase).sub(lambda match: f"**{match[0]}**", sentence) for sentence in one.sentences]
        passages.append(f"{one.phrase}:\n" + "\n".join(f"- {sentence}" for sentence in bold))
    return (
        "These passages are from one long text. Each stands below a phrase that it holds.\n\n"
        + "\n\n".join(passages)
        + f"\n\nFrom these passages, and from nothing else, write {REQUESTS[vignette]}. Use the phrases as they "
        "are written. Give the text alone."
    )


def checked(found: Found, response: str) -> str | None:
    """Why a model's vignette is not taken; None if it is."""
    held = sum(bool(_pattern(one.phrase).search(response)) for one in found.snippets)
    if held < math.ceil(HELD * len(found.snippets)):
        return f"it holds {held} of {len(found.snippets)} phrases"
    return None
