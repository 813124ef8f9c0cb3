"""What tests of decontamination share: the scoring in plain Python, and ways to hide an item in a document."""

from __future__ import annotations

import math
import random
from pydoc_data.topics import topics

from curation.decontaminate.benchmarks import Item
from curation.decontaminate.index import WEIGHTS
from curation.decontaminate.settings import Decon, NgramShare
from curation.dedup.shingles import words


def grams(found: list[bytes], n: int) -> list[tuple]:
    return [tuple(found[at : at + n]) for at in range(len(found) - n + 1)]


class ReferenceDecon:
    """Method "decon" over lists and sets of words, as its settings describe it."""

    def __init__(self, items: list[Item], settings: Decon):
        self.settings = settings
        self.items = [tuple(map(words, (item.question, item.answer, item.passage))) for item in items]
        s = settings
        self.question = self._weights([set(grams(q, s.ngram)) for q, _, _ in self.items])
        long = [set(grams(a, s.answer_ngram)) if len(a) > s.short_answer else set() for _, a, _ in self.items]
        self.answer = self._weights(long)
        self.passage = self._weights([set(grams(p, s.passage_ngram)) for _, _, p in self.items])

    @staticmethod
    def _weights(sets: list[set]) -> list[dict]:
        holders: dict[tuple, int] = {}
        for one in sets:
            for gram in one:
                holders[gram] = holders.get(gram, 0) + 1
        return [{gram: math.log((1 + len(sets)) / holders[gram]) for gram in one} for one in sets]

    def threshold(self, number: int) -> float:
        s, length = self.settings, sum(map(len, self.items[number]))
        share = (length - s.perfect_words) / (s.full_words - s.perfect_words)
        return 1 - (1 - s.threshold) * min(1, max(0, share))

    def scan(self, text: str) -> dict[int, tuple]:
        """item -> (start, end, score, question, answer, passage), the best match of each that is contaminated."""
        s, found = self.settings, words(text)
        own = grams(found, s.ngram)
        best: dict[int, tuple] = {}
        covered: dict[int, int] = {}
        for at in range(0, len(own), s.sample_every):
            for number, weights in enumerate(self.question):
                if own[at] not in weights or at <= covered.get(number, -1):
                    continue
                low, high = self._reach(own, weights, at, -1), self._reach(own, weights, at, 1)
                covered[number] = high
                match = self._score(found, number, low, high)
                if match[2] >= self.threshold(number) - 1e-9 and (
                    number not in best or match[2] > best[number][2] + 1e-9
                ):
                    best[number] = match
        return best

    def _reach(self, own, weights, at, step) -> int:
        last, missed = at, 0
        while missed < self.settings.max_misses and 0 <= at + step < len(own):
            at += step
            if own[at] in weights:
                last, missed = at, 0
            else:
                missed += 1
        return last

    def _score(self, found, number, low, high) -> tuple:
        s = self.settings
        end = high + s.ngram
        weights = self.question[number]
        seen = set(grams(found[low:end], s.ngram))
        question = sum(w for g, w in weights.items() if g in seen) / sum(weights.values())
        answer = self._answer(found, number, low, end)
        passage = self._passage(found, number, low, end)
        shares = list(WEIGHTS[answer is not None, passage is not None])
        confidence = min(1.0, 0.5 + 0.5 * len(weights) / s.confident_ngrams)
        others = shares[1] + shares[2]
        if others:
            taken = shares[0] * (1 - confidence)
            shares = [shares[0] - taken, *(share * (1 + taken / others) for share in shares[1:])]
        score = shares[0] * question + shares[1] * (answer or 0) + shares[2] * (passage or 0)
        return low, end, score, question, answer, passage

    def _answer(self, found, number, low, end) -> float | None:
        s, answer = self.settings, self.items[number][1]
        if not answer:
            return None
        short = len(answer) <= s.short_answer
        window = s.short_window if short else max(s.answer_window, 2 * len(answer))
        first = max(0, low - window)
        if short:
            surplus = max(0, end - low - len(self.items[number][0]))
            sides = found[first : low + surplus], found[end - surplus : end + window]
            return float(any(tuple(answer) in grams(side, len(answer)) for side in sides))
        weights = self.answer[number]
        seen = set(grams(found[first : end + window], s.answer_ngram))
        return sum(w for g, w in weights.items() if g in seen) / sum(weights.values())

    def _passage(self, found, number, low, end) -> float | None:
        s, weights = self.settings, self.passage[number]
        if not weights:
            return None
        own = grams(found, s.passage_ngram)
        seen: set[tuple] = set()
        for first, step in ((end, 1), (low - s.passage_ngram, -1)):
            places = [first + step * offset for offset in range(s.passage_window + 1)]
            places = [at for at in places if 0 <= at < len(own)]
            at = next((at for at in places if own[at] in weights), None)
            missed = 0
            while at is not None and 0 <= at < len(own) and missed < s.passage_misses:
                missed = 0 if own[at] in weights else missed + 1
                seen.add(own[at])
                at += step
        return sum(w for g, w in weights.items() if g in seen) / sum(weights.values())


class ReferenceShare:
    """Method "ngram_share" over sets of words."""

    def __init__(self, items: list[Item], settings: NgramShare):
        self.settings = settings
        self.targets = []
        for number, item in enumerate(items):
            question, answer, passage = (words(part) for part in (item.question, item.answer, item.passage))
            self.targets.append((number, self._telling(question) | self._telling(passage)))
            if len(answer) >= settings.answer_words and len(set(answer)) >= settings.min_unique_words:
                self.targets.append((number, self._telling(answer)))
        holders: dict[tuple, int] = {}
        for _, target in self.targets:
            for gram in target:
                holders[gram] = holders.get(gram, 0) + 1
        kept = [(n, {gram for gram in one if holders[gram] <= settings.max_items}) for n, one in self.targets]
        self.targets = [(number, one) for number, one in kept if len(one) >= settings.min_ngrams]

    def _telling(self, found: list[bytes]) -> set[tuple]:
        every = grams(found, self.settings.ngram)
        return {gram for gram in every if 2 * sum(len(word) == 1 for word in gram) <= self.settings.ngram}

    def scan(self, text: str) -> dict[int, float]:
        """item -> share, of those at or over the threshold."""
        own = set(grams(words(text), self.settings.ngram))
        best: dict[int, float] = {}
        for number, target in self.targets:
            share = len(own & target) / len(target)
            if share >= self.settings.threshold:
                best[number] = max(best.get(number, 0), share)
        return best


def manual() -> list[str]:
    """Real English: the paragraphs of Python's reference manual, as its help holds them."""
    texts = "\n\n".join(text for _, text in sorted(topics.items()))
    paragraphs = [part.strip() for part in texts.split("\n\n")]
    return sorted({part for part in paragraphs if len(words(part)) >= 30})


def recased(text: str, chance: random.Random) -> str:
    return "".join(one.upper() if chance.random() < 0.5 else one.lower() for one in text)


def repunctuated(text: str, chance: random.Random) -> str:
    """Every sign between words replaced by another, line ends by blanks."""
    kept = "".join(one if one.isalnum() or one == "_" else " " for one in text).split()
    return "".join(word + chance.choice([" ", ", ", " - ", ".\n", "; "]) for word in kept)


def inserted(text: str, chance: random.Random, every: int = 15) -> str:
    """A word put in after each `every` words or so."""
    out = []
    for word in text.split():
        out.append(word)
        if chance.random() < 1 / every:
            out.append(chance.choice(["really", "indeed", "perhaps", "quite"]))
    return " ".join(out)
