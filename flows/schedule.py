"""The flow `nightly`, as the scheduler starts it: typed parameters, artifacts, hooks for failures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, create_model

from curation import remote
from curation.read.stores import is_remote
from flows.artifacts import show
from flows.execute import Options
from flows.nightly import run_night
from flows.notify import Failure, tell
from flows.orchestrate import as_task
from flows.pipeline import Pipeline, as_settings, load_pipeline

# What of a pipeline file can be changed for a run in the form of Prefect's UI.
EDITABLE = ("seed", "measure", "dedup", "decontaminate", "tokenizer", "heldout", "evaluate", "retrain")


class _Changes(BaseModel):
    model_config = ConfigDict(extra="forbid")


Changes = create_model(
    "Changes",
    __base__=_Changes,
    __doc__="Values laid over the pipeline file for one run; what is not given stays as the file has it.",
    **{name: (Pipeline.model_fields[name].annotation | None, None) for name in EDITABLE},
)


def _crashed(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect's hook for a run whose process died. One that failed has told so itself."""
    parameters = flow_run.parameters
    _tell(parameters["pipeline"], parameters.get("workspace", "workspace"), "crashed", state.message or "")


@flow(name="nightly", persist_result=False, on_crashed=[_crashed])
def nightly(
    pipeline: Annotated[str, Field(description="The pipeline file (YAML).")],
    workspace: Annotated[str, Field(description="Folder or URL that holds all results.")] = "workspace",
    until: Annotated[
        Literal["ingest", "curate", "mix", "train"], Field(description="The last job to do.")
    ] = "train",
    workers: Annotated[int | None, Field(ge=1, description="Units at once. Default: one for each core.")] = None,
    engine: Annotated[
        Literal["local", "inline", "dask", "ray"], Field(description="Where units of work run.")
    ] = "local",
    address: Annotated[str | None, Field(description="The cluster of dask or ray.")] = None,
    strict: Annotated[bool, Field(description="Fail on what is otherwise counted and reported.")] = False,
    changes: Changes = Changes(),  # noqa: B008
    settings: Annotated[list[str], Field(description="More values, as dotted.key=value.")] = [],  # noqa: B006
) -> str:
    """Take in what is new, build the mixes anew, train where enough has changed; returns the name of the run."""
    given = [*as_settings(changes.model_dump(mode="json", exclude_unset=True, exclude_none=True)), *settings]
    try:
        place = remote.open_workspace(workspace)
        options = Options(Path(pipeline), place, until, workers, engine, address, strict, given)
        run = run_night(options, stage=as_task)
    except Exception as error:
        _tell(pipeline, workspace, "failed", f"{type(error).__name__}: {error}")
        raise
    show(run)
    return run.name


def _tell(pipeline: str, workspace: str, status: str, error: str) -> None:
    try:
        loaded = load_pipeline(Path(pipeline))[0]
    except Exception as broken:
        print(f"nobody can be told that {pipeline} {status}: {broken}")
        return
    for problem in tell(loaded.on_failure, Failure(loaded.name, _place(workspace), status, error)):
        print(problem)


def _place(workspace: str) -> str:
    return workspace if is_remote(workspace) else str(Path(workspace).resolve())
