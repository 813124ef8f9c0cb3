"""Telling somebody that a scheduled run failed: a command, a webhook. A secret is never printed or kept."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import asdict, dataclass

import httpx

from flows.pipeline import OnFailure

PATIENCE = 60.0  # seconds for either


@dataclass(frozen=True)
class Failure:
    """What is told: the pipeline, its workspace, what happened (failed, crashed), the error in a line or more."""

    pipeline: str
    workspace: str
    status: str
    error: str

    def text(self) -> str:
        return f"mixwright: {self.pipeline} {self.status} in {self.workspace}: {self.error}"


def tell(to: OnFailure, failure: Failure) -> list[str]:
    """Run the command, post to the webhook; what went wrong with either, without the webhook's address."""
    return [problem for problem in (_run(to.command, failure), _post(to.webhook, failure)) if problem]


def _run(command: str | None, failure: Failure) -> str | None:
    """The command gets MIXWRIGHT_PIPELINE, _WORKSPACE, _STATUS and _ERROR in its environment."""
    if command is None:
        return None
    told = {f"MIXWRIGHT_{name.upper()}": value for name, value in asdict(failure).items()}
    try:
        subprocess.run(shlex.split(command), env=os.environ | told, timeout=PATIENCE, check=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"on_failure.command: {error}"
    return None


def _post(variable: str | None, failure: Failure) -> str | None:
    """The webhook gets JSON: `text`, as chat services take it, and the parts that it is made of."""
    if variable is None:
        return None
    address = os.environ.get(variable)
    if not address:
        return f"on_failure.webhook: the environment variable {variable} is not set"
    try:
        answer = httpx.post(address, json={"text": failure.text(), **asdict(failure)}, timeout=PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"on_failure.webhook: {type(error).__name__} at the address in {variable}"
    return (
        None if answer.is_success else f"on_failure.webhook: {answer.status_code} from the address in {variable}"
    )
