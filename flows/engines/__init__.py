"""The engines: where the units of every stage run. One switch, the same bytes out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from curation.executor import ENGINES as LOCAL
from curation.executor import Executor, LocalExecutor

CLUSTERS = {"dask": "distributed", "ray": "ray"}  # engine -> the package that it needs
ENGINES = (*LOCAL, *CLUSTERS)
MODULES = ("flows.line",)  # what worker processes of this machine need: all stations


class EngineError(ValueError):
    """An engine that is not known or not installed, or an address for one that has none."""


def open_executor(
    engine: str = "local", workers: int | None = None, address: str | None = None, workspace: Path = Path()
) -> Executor:
    """The executor of an engine; for dask and ray the cluster at `address`, or one of its own on this machine.

    `workers`: how many units run at once; by default one a core, or as many as the cluster at the address has.
    Raises EngineError, and curation.cluster.ClusterError for a cluster that does not answer or does not see
    `workspace`.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine '{engine}' is not known; choose one of {', '.join(ENGINES)}")
    if engine in LOCAL:
        if address:
            raise EngineError(f"engine '{engine}' has no address; --address is for {' and '.join(CLUSTERS)}")
        return LocalExecutor(workers, engine, MODULES)
    if find_spec(CLUSTERS[engine]) is None:
        raise EngineError(f"engine '{engine}' is not installed: pip install 'mixwright[{engine}]'")
    if engine == "dask":
        from flows.engines.dask import DaskExecutor

        return DaskExecutor(workers, address, workspace)
    from flows.engines.ray import RayExecutor

    return RayExecutor(workers, address, workspace)
