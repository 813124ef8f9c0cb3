"""Readers of preferences: a prompt and two continuations, the first preferred. Ties are skipped and counted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from curation.read.chat import instruction_text, turn, turns_of
from curation.read.record import (
    BadRecordError,
    Document,
    Item,
    Limits,
    Message,
    RawFile,
    SkipRecord,
    assistant,
    kind_of,
    list_at,
    optional_string,
    scalars,
    string_at,
    user,
    value_at,
)
from curation.read.shapes import RowOptions, shaped
from curation.read.streams import plain_name


def pair(
    prompt: list[Message], chosen: list[Message], rejected: list[Message], metadata: dict[str, Any]
) -> Document:
    """A preference. Raises SkipRecord where there is nothing to prefer."""
    if chosen == rejected:
        raise SkipRecord("chosen equals rejected")
    if not all(message["content"].strip() for message in (*chosen, *rejected)):
        raise SkipRecord("empty response")
    return Document(messages=prompt, chosen=chosen, rejected=rejected, metadata=metadata)


def prompt_chosen_rejected(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """prompt, chosen, rejected: strings, or lists of {role, content}. Where chosen and rejected are lists that
    hold the prompt themselves, the turns that they share are it.
    """

    def shape(row, options):
        metadata = scalars(row, ("prompt", "chosen", "rejected"))
        chosen, rejected = (turns_of(row, key) for key in ("chosen", "rejected"))
        if chosen is None or rejected is None:
            chosen, rejected = ([assistant(string_at(row, key))] for key in ("chosen", "rejected"))
            return pair(turns_of(row, "prompt") or [user(string_at(row, "prompt"))], chosen, rejected, metadata)
        prompt, chosen, rejected = parted(chosen, rejected)
        if not prompt:
            prompt = turns_of(row, "prompt") or [user(string_at(row, "prompt"))]
        return pair(prompt, chosen, rejected, metadata)

    return shaped(file, limits, options, shape)


def parted(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    """The turns that two conversations share at their beginning, and what each has after them.

    Raises SkipRecord where they are equal, or go on with anything but an answer each.
    """
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise SkipRecord("chosen equals rejected")
    after = chosen[shared:], rejected[shared:]
    if not all(messages and messages[0]["role"] == "assistant" for messages in after):
        raise SkipRecord("the transcripts part at a human turn")
    return chosen[:shared], *after


_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def transcript(text: str) -> list[Message]:
    """The turns of "\\n\\nHuman: …\\n\\nAssistant: …" (HH-RLHF)."""
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise BadRecordError(f"expected a transcript that begins with '\\n\\nHuman: ', found {text[:60]!r}")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def transcripts(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """chosen and rejected: two whole transcripts; the turns that they share are the prompt."""

    def shape(row, options):
        chosen, rejected = transcript(string_at(row, "chosen")), transcript(string_at(row, "rejected"))
        prompt, chosen, rejected = parted(chosen, rejected)
        if not prompt:
            raise SkipRecord("the transcripts part at a human turn")
        return pair(prompt, chosen, rejected, scalars(row, ("chosen", "rejected")))

    return shaped(file, limits, options, shape)


def sharegpt_pairs(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """conversations: a list of {from, value}; chosen and rejected: one {from, value} each."""

    def shape(row, options):
        prompt = [turn(value, "from", "value") for value in list_at(row, "conversations")]
        system = optional_string(row, "system")
        if system.strip():
            prompt.insert(0, {"role": "system", "content": system})
        chosen, rejected = ([turn(row.get(key), "from", "value")] for key in ("chosen", "rejected"))
        return pair(prompt, chosen, rejected, scalars(row, ("system",)))

    return shaped(file, limits, options, shape)


def judged_outputs(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """AlpacaEval annotations: output_1, output_2 and a preference of 1 or 2; anything between is a tie."""

    def shape(row, options):
        outputs = [[assistant(string_at(row, key))] for key in ("output_1", "output_2")]
        preference = row.get("preference")
        if preference is None:
            raise SkipRecord("no preference")
        if isinstance(preference, bool) or not isinstance(preference, int | float):
            raise BadRecordError(f"'preference' is {kind_of(preference)}, expected a number")
        if preference not in (1, 2):
            raise SkipRecord("tie")
        metadata = scalars(row, ("instruction", "input", "output_1", "output_2"))
        best = int(preference) - 1
        return pair([user(instruction_text(row))], outputs[best], outputs[1 - best], metadata)

    return shaped(file, limits, options, shape)


def annotated_responses(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """PandaLM's test set: response1, response2 and three annotators who say 0 (tie), 1 or 2; most votes win, and
    stand in the metadata as `votes`.
    """

    def shape(row, options):
        responses = [[assistant(string_at(row, key))] for key in ("response1", "response2")]
        votes = [row.get(key) for key in ("annotator1", "annotator2", "annotator3")]
        wrong = [vote for vote in votes if isinstance(vote, bool) or vote not in (0, 1, 2)]
        if wrong:
            raise BadRecordError(f"an annotator says {wrong[0]!r}, expected 0, 1 or 2")
        (best, count), *_ = Counter(votes).most_common(1)
        if best == 0 or count < 2:
            raise SkipRecord("tie")
        metadata = scalars(row, ("instruction", "input", "response1", "response2")) | {"votes": count}
        return pair([user(instruction_text(row))], responses[best - 1], responses[2 - best], metadata)

    return shaped(file, limits, options, shape)


class RatedOptions(RowOptions):
    prompt_key: str = "prompt"
    responses_key: str = "responses"  # a list of objects
    text_key: str = "response"
    rating_key: str = "rating"
    take: Literal["best_worst", "best_others", "all"] = "best_worst"
    lowest_best: bool = False  # ratings are ranks


def rated_responses(file: RawFile, limits: Limits, options: RatedOptions) -> Iterator[Item]:
    """A prompt with several rated answers (UltraFeedback: completions with an overall_score), as pairs.

    best_worst: one pair, the best and the worst; best_others: the best and each that is rated lower; all: every
    two of unequal rating, as InstructGPT. Of equal ratings the first in the list counts as the better, and no pair
    is made of two that are equal. Both ratings stand in the metadata, for a margin. Answers without a rating are
    passed over.
    """

    def shape(row, options):
        rated = []
        for place, value in enumerate(list_at(row, options.responses_key)):
            text, rating = string_at(value, options.text_key), value_at(value, options.rating_key)
            if rating is None:
                continue
            if isinstance(rating, bool) or not isinstance(rating, int | float) or not math.isfinite(rating):
                raise BadRecordError(f"'{options.rating_key}' is {rating!r}, expected a number")
            rated.append((rating if options.lowest_best else -rating, place, text, rating))
        rated.sort()
        both = [(one, other) for at, one in enumerate(rated) for other in rated[at + 1 :] if one[0] < other[0]]
        if not both:
            raise SkipRecord("tie" if len(rated) > 1 else "fewer than two ratings")
        if options.take == "best_worst":
            both = [(rated[0], rated[-1])]
        elif options.take == "best_others":
            both = [(one, other) for one, other in both if one is rated[0]]
        prompt = turns_of(row, options.prompt_key) or [user(string_at(row, options.prompt_key))]
        metadata = scalars(row, (options.prompt_key,))
        return [
            pair(
                prompt,
                [assistant(one[2])],
                [assistant(other[2])],
                metadata | {"rating_chosen": one[3], "rating_rejected": other[3]},
            )
            for one, other in both
        ]

    return shaped(file, limits, options, shape)


def arguments(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """UKPConvArg: TSV of two arguments and which of them is more convincing.

    The debate and the position are known from the file's name alone ("debate_position.csv"), so that for this
    reader the name is content: the prompt is made of it. "<br/>" in an argument is a line break.
    """
    debate, _, position = plain_name(file.path.name).removesuffix(".csv").partition("_")
    debate, position = (part.strip("-_").replace("-", " ") for part in (debate, position))
    prompt = f"Debate: {debate}\nPosition: {position}\n\nGive a convincing argument for this position."

    def shape(row, options):
        first, second = (
            [assistant(re.sub(r" *<br/> *", "\n", string_at(row, key)).strip())] for key in ("a1", "a2")
        )
        label = string_at(row, "label")
        if label not in ("a1", "a2"):
            raise BadRecordError(f"'label' is {label!r}, expected a1 or a2")
        best, other = (first, second) if label == "a1" else (second, first)
        return pair([user(prompt)], best, other, {"pair": string_at(row, "id"), "debate": debate})

    return shaped(file, limits, options.model_copy(update={"container": "tsv"}), shape)
