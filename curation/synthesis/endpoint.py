"""A generator behind the OpenAI protocol: one address, a key from the environment, retries, nothing else.

Redirects are not followed and neither proxies nor .netrc of the environment are used: what is sent goes to the
address that the pipeline file names. The key is in no message: it is cut out of everything that comes back.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx

from curation.config import ConfigError
from curation.synthesis.config import Endpoint, Sampling
from curation.synthesis.generation import Answer, Completion, Failure, Request

LARGEST = 32 << 20  # bytes of a response
LONGEST_WAIT = 60.0  # seconds that a Retry-After header can ask for
WORTH_A_RETRY = (408, 409, 425, 429)  # and every status of 500 and above
EXCERPT = 200  # characters of an error's text


class _RetryableError(Exception):
    """A request failed in a way that may pass. `wait`: seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class EndpointGenerator:
    """Posts each request, `concurrency` at a time. A context manager."""

    def __init__(self, config: Endpoint, sampling: Sampling):
        """Raises ConfigError if the variable of the key is not set."""
        self._config, self._sampling = config, sampling
        self._key = ""
        if config.api_key_env is not None:
            self._key = os.environ.get(config.api_key_env, "").strip()
            if not self._key:
                raise ConfigError(f"{config.url}: the environment variable {config.api_key_env} is not set")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=config.concurrency)
        self._client = httpx.Client(
            headers=headers, timeout=config.timeout, limits=limits, follow_redirects=False, trust_env=False
        )
        self.identity = endpoint_identity(config)

    def __enter__(self) -> EndpointGenerator:
        return self

    def __exit__(self, *exception) -> None:
        self._client.close()

    def beginning(self, text: str, tokens: int) -> str:
        raise ValueError("an endpoint's tokens are not known here; cut by characters")

    def answer(self, requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        # No more is asked than is under way: what comes back is kept before the next is sent.
        waiting = iter(enumerate(requests))
        pending: dict[Future, int] = {}
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            while True:
                for place, request in itertools.islice(waiting, self._config.concurrency - len(pending)):
                    pending[pool.submit(self._ask, request)] = place
                if not pending:
                    return
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()

    def _ask(self, request: Request) -> Answer:
        """One request with its retries."""
        attempts = self._config.retries + 1
        for attempt in range(attempts):
            try:
                return self._post(request)
            except _RetryableError as error:
                reason, pause = str(error), error.wait
            if attempt + 1 < attempts:
                time.sleep(max(pause, self._config.backoff * 2**attempt))
        return Failure(f"no answer in {attempts} attempts; the last: {reason}")

    def _post(self, request: Request) -> Answer:
        try:
            with self._client.stream("POST", self._config.url, json=self._body(request)) as response:
                data = self._read(response)
                status, retry_after = response.status_code, response.headers.get("retry-after", "")
        except httpx.TimeoutException:
            raise _RetryableError(f"nothing came within {self._config.timeout:g} seconds") from None
        except httpx.HTTPError as error:
            raise _RetryableError(self._clean(f"{type(error).__name__}: {error}")) from None
        if status in WORTH_A_RETRY or status >= 500:
            wait = float(retry_after) if retry_after.isdecimal() else 0.0
            raise _RetryableError(f"HTTP {status}: {data[:EXCERPT]}", min(wait, LONGEST_WAIT))
        if status != 200:
            return Failure(f"HTTP {status}: {data[:EXCERPT]}")
        return self._completion(data)

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = self._sampling
        body = {
            "model": self._config.model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        if request.seed is not None:
            body |= {"top_p": sampling.top_p, "seed": request.seed}
        if self._config.chat:
            return body | {"messages": [{"role": "user", "content": request.prompt}]}
        return body | {"prompt": request.prompt}

    def _read(self, response: httpx.Response) -> str:
        parts, size = [], 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > LARGEST:
                raise _RetryableError(f"a response of over {LARGEST} bytes")
            parts.append(chunk)
        return self._clean(b"".join(parts).decode("utf-8", "replace"))

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _completion(self, data: str) -> Answer:
        """The first choice. What is not of the protocol may come from something in between: worth a retry."""
        try:
            body = json.loads(data)
            choice = body["choices"][0]
            text = choice["message"]["content"] if self._config.chat else choice["text"]
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            found = f"{type(error).__name__} in {data[:EXCERPT]!r}"
            raise _RetryableError(f"not a completion of the OpenAI protocol: {found}") from None
        if text is not None and not isinstance(text, str):
            raise _RetryableError(f"not a completion of the OpenAI protocol: the text is {type(text).__name__}")
        fields = [choice.get("finish_reason"), body.get("model"), body.get("system_fingerprint")]
        said = [self._clean(value) if isinstance(value, str) else None for value in (text or "", *fields)]
        if any(_lone_surrogate(value) for value in said if value is not None):
            return Failure("the response is not Unicode text: it holds a lone surrogate")
        return Completion(*said)


def endpoint_identity(config: Endpoint) -> dict[str, Any]:
    """What names an endpoint's model before it is asked. Its fingerprint comes with each answer."""
    return {"kind": "endpoint", "url": config.url, "model": config.model}


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
