"""What is asked of a model and what comes back, and the cache in which every answer is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from curation.files import json_hash, read_json, write_json


@dataclass(frozen=True)
class Request:
    """A prompt to be answered. `seed` is the document's own; None where nothing is drawn."""

    prompt: str
    seed: int | None


@dataclass(frozen=True)
class Completion:
    """An answer. `model` and `fingerprint` are what an endpoint says about itself, null otherwise."""

    text: str
    finish: str | None  # "stop", "length", or what the endpoint says
    model: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    reason: str


Answer = Completion | Failure


class Generator(Protocol):
    """A model that answers. A context manager."""

    identity: dict[str, Any]  # JSON literals: all that decides an answer besides the request and the sampling

    def beginning(self, text: str, tokens: int) -> str:
        """The first `tokens` tokens of a text."""

    def answer(self, requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        """(position in `requests`, its answer), in any order, each as soon as it is there."""


class Generations:
    """Answers by content: a file each, complete or absent, named by model, prompt, sampling and seed.

    Failures are not kept: they are tried again.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], sampling: dict[str, Any]):
        self.folder = folder
        self._common = {"generator": identity, "sampling": sampling}

    def key(self, request: Request) -> str:
        return json_hash({**self._common, "prompt": request.prompt, "seed": request.seed})

    def get(self, key: str) -> Completion | None:
        path = self._path(key)
        try:
            return Completion(**read_json(path))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not a generation ({error}); remove the file and run again") from None

    def put(self, key: str, completion: Completion) -> None:
        write_json(self._path(key), asdict(completion))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def answer_all(generator: Generator, cache: Generations, requests: list[Request]) -> Iterator[tuple[int, Answer]]:
    """An answer for each request, by position: from the cache, else from the generator and into the cache.

    Equal requests are asked once. What has been answered when an exception ends the work is in the cache.
    """
    places: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        places.setdefault(cache.key(request), []).append(place)
    missing = []
    for key, same in places.items():
        known = cache.get(key)
        if known is None:
            missing.append(key)
        else:
            yield from ((place, known) for place in same)
    with contextlib.closing(generator.answer([requests[places[key][0]] for key in missing])) as answers:
        for number, answer in answers:
            key = missing[number]
            if isinstance(answer, Completion):
                cache.put(key, answer)
            yield from ((place, answer) for place in places[key])
