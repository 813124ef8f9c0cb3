"""What a pipeline says about a source that a model makes from documents of other sources."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, model_validator

from curation.config import Bytes, Count, Share, Strict
from curation.rules.profile import Profile, Rule


class Bound(Strict):
    """What a measurement of a parent must be. A missing measurement is out of bounds."""

    min: float | None = None
    max: float | None = None
    keep_in: Annotated[tuple[str, ...] | None, Field(min_length=1)] = None

    @model_validator(mode="after")
    def _says_something(self) -> Bound:
        if self.min is None and self.max is None and self.keep_in is None:
            raise ValueError("a bound needs min, max or keep_in")
        return self


class Cut(Strict):
    """How much of a parent's text a prompt may hold: its beginning. Tokens are those of a local model."""

    characters: Annotated[Count, Field(gt=0)] | None = None
    tokens: Annotated[Count, Field(gt=0)] | None = None


class Parse(Strict):
    """How a response becomes a document.

    whole: as it is; for chat, the prompt is the user's turn and the response the assistant's.
    turns (chat): split at `separator`, or where the regular expression `pattern` matches, into turns of user and
    assistant in alternation; what stands before a match at the very start must be blank.
    cards (chat): a JSON object a line with a question and an answer, each pair two turns; code fences around
    the lines are passed over.
    """

    how: Literal["whole", "turns", "cards"] = "whole"
    separator: Annotated[str, Field(min_length=1)] | None = None
    pattern: Annotated[str, Field(min_length=1)] | None = None
    question: str = "question"
    answer: str = "answer"

    @model_validator(mode="after")
    def _splits_by_one_thing(self) -> Parse:
        given = (self.separator is not None) + (self.pattern is not None)
        if given != (self.how == "turns"):
            raise ValueError("'turns' needs one of separator and pattern; the others need neither")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        return self


class Sampling(Strict):
    """How tokens are drawn. At temperature 0 the likeliest is taken, and no seed enters.

    Above 0 each document has a seed of its own, from `seed` and the document's id.
    """

    max_tokens: Annotated[Count, Field(gt=0)] = 512
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0


class LocalModel(Strict):
    """A causal model in a Hugging Face folder, its weights in safetensors."""

    kind: Literal["transformers"]
    model: str  # the folder
    mode: Literal["text", "chat"] = "text"  # chat: the prompt is a user's turn in the model's own template
    batch_size: Annotated[int, Field(gt=0)] = 8
    threads: Annotated[int, Field(gt=0)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Endpoint(Strict):
    """A server that speaks the OpenAI protocol. `url` is the whole address that requests are posted to."""

    kind: Literal["endpoint"]
    url: str  # ends in /chat/completions, or in /completions for plain continuation
    model: str
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None  # the variable's name, no key
    timeout: Annotated[float, Field(gt=0)] = 120.0  # seconds without an answer, a request
    retries: Annotated[int, Field(ge=0)] = 5
    backoff: Annotated[float, Field(ge=0)] = 1.0  # seconds before the first retry, twice as long before each next
    concurrency: Annotated[int, Field(gt=0)] = 4  # requests at once

    @model_validator(mode="after")
    def _url_is_plain(self) -> Endpoint:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url: expected http:// or https:// and a host")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise ValueError("url: no user, password or fragment; a key belongs in the variable of api_key_env")
        if parts.query and not re.fullmatch(r"api-version=[\w.-]+", parts.query):
            raise ValueError("url: no query but api-version; a key belongs in the variable of api_key_env")
        if not parts.path.endswith("/completions"):
            raise ValueError("url: expected an address that ends in /chat/completions or /completions")
        return self

    @property
    def chat(self) -> bool:
        return urlsplit(self.url).path.endswith("/chat/completions")


class Parents(Strict):
    """A source that is made of documents of other sources, its parents.

    `name`, `kind`, `type`, `profile`, `holdout` and `quality` are those of `curation.ingest.Source`. `documents`:
    so many parents, the first ones by keyed hash, so that a larger number keeps the smaller one's; all where it is
    not given. Held-out parents are never used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    kind: Literal["text", "chat"] = "text"
    type: str = ""
    profile: str = "plain"
    holdout: Annotated[Share, Field(ge=0, le=1)] = 0.0
    quality: bool = False
    parents: Annotated[tuple[str, ...], Field(alias="from", min_length=1)]
    documents: Annotated[Count, Field(gt=0)] | None = None
    filter: dict[str, Bound] = Field(default_factory=dict)  # by measurement
    shard_bytes: Bytes = 256 << 20  # of text

    @model_validator(mode="after")
    def _parents_differ(self) -> Parents:
        if len(set(self.parents)) < len(self.parents):
            raise ValueError(f"'{self.name}': 'from' names a source twice")
        return self

    def profile_of_filter(self) -> Profile:
        """The filter as rules over measurements."""
        rules = []
        for measurement, bound in self.filter.items():
            given = {"drop_below": bound.min, "drop_above": bound.max, "keep_in": bound.keep_in}
            for comparison, value in given.items():
                if value is not None:
                    rule = {"name": f"filter_{len(rules)}", "measurement": measurement, comparison: value}
                    rules.append(Rule(**rule, missing="drop", source="the pipeline file"))
        return Profile(name=f"filter of {self.name}", version=1, rules=tuple(rules))


class Synthesis(Parents):
    """A source that a model makes: parents chosen, a template filled for each, the responses parsed.

    The template is Jinja2, with the variables text, id, source and metadata (the parent's, as in
    `metadata.title`); it is run in Jinja's sandbox.
    """

    template: str | None = None
    template_file: str | None = None  # beside the pipeline file
    cut: Cut = Cut()
    generator: Annotated[LocalModel | Endpoint, Field(discriminator="kind")]
    sampling: Sampling = Sampling()
    parse: Parse = Parse()
    keep_unfinished: bool = True  # responses that max_tokens ended; false: to the quarantine

    @model_validator(mode="after")
    def _settings_fit(self) -> Synthesis:
        if (self.template is None) == (self.template_file is None):
            raise ValueError(f"synthesis '{self.name}': expected one of template and template_file")
        if self.parse.how != "whole" and self.kind != "chat":
            raise ValueError(
                f"synthesis '{self.name}': parse '{self.parse.how}' gives chat, but kind is {self.kind}"
            )
        if self.cut.tokens is not None and self.generator.kind != "transformers":
            raise ValueError(f"synthesis '{self.name}': cut.tokens needs a local model; use cut.characters")
        return self
