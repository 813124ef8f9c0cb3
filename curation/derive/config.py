"""What a pipeline says about a source that is derived from others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from curation.config import Count
from curation.derive.tasks import TaskSettings
from curation.synthesis.config import Endpoint, LocalModel, Parents, Sampling

Writer = Annotated[LocalModel | Endpoint, Field(discriminator="kind")]


class Woven(Parents):
    """Long documents with something put in after each of a few partitions; a text of few sections gives none."""

    kind: Literal["text"] = "text"
    generator: Writer | None = None  # whose words; none: our own
    sampling: Sampling = Sampling(max_tokens=2000)


class Cwe(Woven):
    """Questions about how often the commonest nouns of a partition occur."""

    how: Literal["cwe"]
    questions: Annotated[int, Field(gt=0)] = 5  # of a partition
    nouns: str | None = None  # a file of nouns, one a line, beside the pipeline file; none: told by their articles


class Rex(Woven):
    """Vignettes made of a partition's telling phrases and the sentences that hold them."""

    how: Literal["rex"]
    snippets: Annotated[int, Field(gt=0)] = 10  # phrases of a vignette
    excerpts: Annotated[int, Field(gt=0)] = 10  # sentences of a phrase, at most
    vignettes: tuple[Count, Count] = (4, 8)  # of a document, at least (if it has so many partitions) and at most
    sampling: Sampling = Sampling(max_tokens=4096)

    @model_validator(mode="after")
    def _ordered(self) -> Rex:
        if not 0 < self.vignettes[0] <= self.vignettes[1]:
            raise ValueError(f"vignettes: expected [least, most], found {list(self.vignettes)}")
        return self


class Tasks(Parents, TaskSettings):
    """Examples of tasks as instructions, by templates."""

    how: Literal["templates"]
    kind: Literal["chat"] = "chat"

    @model_validator(mode="after")
    def _parents_are_tasks(self) -> Tasks:
        if sorted(self.parents) != sorted(task.source for task in self.tasks):
            raise ValueError(f"'{self.name}': 'from' and the sources of its tasks differ; name each once in both")
        return self


Derived = Annotated[Cwe | Rex | Tasks, Field(discriminator="how")]
