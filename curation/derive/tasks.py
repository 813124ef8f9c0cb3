"""Labelled examples as instructions, in the manner of FLAN and T0: many templates a task, with and without
exemplars, with and without options, inverted ones; tasks in proportion to their examples up to a cap; whole
clusters held out.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from curation.config import Count, Share, Strict

PER_DOCUMENT = "metadata."  # how a task or cluster begins that each document names itself


class Task(Strict):
    """Examples of one task, or of as many as its documents name (`task: metadata.task`)."""

    source: str
    task: str = Field(min_length=1)
    cluster: str = Field(min_length=1)  # what it is held out with: sentiment, or metadata.category
    templates: str  # a promptsource file, relative to the pipeline's


class Exemplars(Strict):
    """Solved examples before the one that is asked, of the same task, under the same template."""

    rate: Share = Field(0.5, ge=0, le=1)  # of the documents
    most: Annotated[int, Field(ge=1, le=64)] = 5  # a document has 1 to so many, each number as likely
    characters: Count = Field(4000, gt=0)  # of all of them; those that would go beyond are left out


class TaskSettings(Strict):
    """How examples become instructions.

    each: one (FLAN) renders an example once, under a template that is drawn; all (T0) under every template. cap:
    most examples of a task, so that a task m of e_m examples has a share of min(e_m, cap) / sum min(e_n, cap).
    With `each: all` it is T0's: of a task of more than `cap` examples each template takes cap / templates.
    """

    tasks: tuple[Task, ...] = Field(min_length=1)
    each: Literal["one", "all"] = "one"
    cap: Count | None = Field(None, gt=0)
    exemplars: Exemplars | None = None
    options: Share | None = Field(None, ge=0, le=1)  # of the documents whose answers are choices: those shown
    inverted: Share | None = Field(None, ge=0, le=1)  # of the documents; none: every template is as likely
    held_out: tuple[str, ...] = ()  # clusters: their documents are in no mix, for evaluation

    @model_validator(mode="after")
    def _fits(self) -> TaskSettings:
        sources = [task.source for task in self.tasks]
        if twice := sorted({source for source in sources if sources.count(source) > 1}):
            raise ValueError(f"tasks: source '{twice[0]}' is given twice; one entry a source")
        known = {task.cluster for task in self.tasks}
        unknown = [cluster for cluster in self.held_out if cluster not in known]
        if unknown and not any(cluster.startswith(PER_DOCUMENT) for cluster in known):
            there = ", ".join(sorted(known))
            raise ValueError(f"held_out: no task is of cluster '{unknown[0]}'; there are {there}")
        if self.each == "all" and self.inverted is not None:
            raise ValueError("inverted: with `each: all` every template is used; leave it out")
        return self
