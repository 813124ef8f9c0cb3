"""What decontamination is told: the evaluation sets, the method and its numbers, and what happens to a match."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curation.config import Share, Strict
from curation.decontaminate.benchmarks import Benchmark

Method = Literal["decon", "ngram_share", "none"]
Kind = Literal["text", "chat", "pairs"]


class Decon(Strict):
    """The numbers of method "decon": those of AI2's tool as Olmo 3's report gives them (A.5), over words.

    That tool counts cl100k tokens of lower-cased text without punctuation; here every length is in normalised
    words (`curation.dedup.shingles`). English has about 1.3 such tokens a word, so a limit of 20 or 50 asks for an
    item that much longer, and an n-gram spans that much more text.
    """

    ngram: int = Field(5, ge=1, le=64)  # words of a question's n-gram
    sample_every: int = Field(10, ge=1)  # every so many words a document's n-gram is looked up
    max_misses: int = Field(11, ge=1)  # consecutive n-grams that are not the item's end the expansion
    threshold: Share = 0.8
    perfect_words: int = Field(20, ge=0)  # items up to this length need a score of 1, ...
    full_words: int = Field(50, ge=0)  # ... from this length on `threshold`, and in between what lies between
    min_words: int = Field(20, ge=1)  # shorter items are ignored
    min_unique_words: int = Field(4, ge=1)  # and those whose question and passage have fewer distinct ones
    confident_ngrams: int = Field(20, ge=1)  # a question with fewer n-grams weighs less
    answer_ngram: int = Field(3, ge=1, le=64)
    short_answer: int = Field(3, ge=0)  # words up to which an answer must be there word for word
    short_window: int = Field(50, ge=0)  # words on either side of the question where that may be
    answer_window: int = Field(100, ge=0)  # at least, for longer answers: twice the answer if that is more
    passage_ngram: int = Field(4, ge=1, le=64)
    passage_window: int = Field(100, ge=0)  # words between question and passage
    passage_misses: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _lengths_fit(self) -> Decon:
        if self.perfect_words >= self.full_words:
            raise ValueError(f"perfect_words {self.perfect_words} must be below full_words {self.full_words}")
        if self.answer_ngram > self.short_answer + 1:
            raise ValueError(
                f"answer_ngram {self.answer_ngram} with short_answer {self.short_answer}: answers in between "
                "would have no n-gram; expected at most short_answer + 1"
            )
        return self


class NgramShare(Strict):
    """The numbers of method "ngram_share": 8-grams and one half, as for Olmo 3's post-training data (§4.2.1).

    The report names two exceptions without their numbers: boilerplate, and n-grams of mostly one-character tokens.
    Here boilerplate is an n-gram of more than `max_items` items; one-character words are ASCII letters and digits
    (an ideograph is a word too, and says more).
    """

    ngram: int = Field(8, ge=1, le=64)
    threshold: Share = Field(0.5, gt=0)
    max_items: int = Field(10, ge=1)
    min_ngrams: int = Field(5, ge=1)  # an item of which fewer are left after the exceptions is ignored
    min_words: int = Field(12, ge=1)  # shorter items are ignored
    answer_words: int = Field(20, ge=1)  # an answer from this length on is looked for by itself too
    min_unique_words: int = Field(4, ge=1)


class Decontaminate(Strict):
    """Which evaluation sets to look for, where, how, and what to do with a document that holds an item."""

    benchmarks: list[Benchmark] = Field(min_length=1)
    method: Method = "decon"
    by_kind: dict[Kind, Method] = Field(default_factory=dict)  # another method for sources of a kind
    by_source: dict[str, Method] = Field(default_factory=dict)  # or for one source, before all else
    action: Literal["drop", "mark"] = "drop"
    decon: Decon = Field(default_factory=Decon)
    ngram_share: NgramShare = Field(default_factory=NgramShare)

    @model_validator(mode="after")
    def _names_differ(self) -> Decontaminate:
        names = [benchmark.name for benchmark in self.benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"benchmark names must be unique; given twice: {', '.join(twice)}")
        return self

    def method_for(self, source: str, kind: str) -> Method:
        """The method for a source of a kind."""
        return self.by_source.get(source, self.by_kind.get(kind, self.method))
