"""The station `mix/<name>`: a recipe over catalogs becomes a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from curation.files import remove
from curation.mix.manifest import HEAD, Manifest, load_manifest, require_verified, write_sorted
from curation.mix.plan import plan
from curation.mix.recipe import Recipe
from curation.mix.rows import RecipeError
from curation.steps import Build, Context, StepOutput, step

VERSION = 1
CATALOG_FILE = "catalog.parquet"
SCRATCH = "sorting"


def mix(
    ctx: Context,
    recipe: Recipe,
    catalogs: Mapping[str, StepOutput],
    pools: Mapping[str, StepOutput],
    tokenizer: StepOutput,
    parents: Mapping[str, StepOutput] | None = None,
    types: Mapping[str, str] | None = None,
    transformed: Mapping[str, StepOutput] | None = None,
    measured: Mapping[str, StepOutput] | None = None,
) -> StepOutput:
    """Build the manifest of a recipe; the arguments are as for `plan`. Step `mix/<recipe.name>`.

    `transformed`: by source, the catalog with the counts of the recipe's transforms (`curation.transforms.count`).
    `measured`: by source, the step that holds its measurements; only a line that says `where` looks at it.

    Only the sources that the recipe or its parents name are inputs, so that a new night of another source leaves
    the mix as it is. Raises InfeasibleError with every line that cannot be met, RecipeError where the recipe does
    not fit its inputs, ManifestError for a parent that does not verify.
    """
    manifests = {name: load_manifest(parent.file(HEAD).parent) for name, parent in sorted((parents or {}).items())}
    manifests = {name: manifests[name] for name in recipe.parents() if name in manifests}
    sources = sorted(
        {*recipe.sources(), *(name for parent in manifests.values() for name in parent.head["pools"])}
    )
    for name in sources:
        if name not in catalogs or name not in pools:
            raise RecipeError(f"mix '{recipe.name}': no source '{name}'; there are {', '.join(sorted(catalogs))}")
    head = {
        "kind": recipe.kind,
        "name": recipe.name,
        "recipe": recipe.text(),
        "seed": recipe.seed,
        "tokenizer_hash": tokenizer.content,
        "pools": {name: pools[name].content for name in sources},
        "catalogs": {name: catalogs[name].content for name in sources},
        "parents": {name: parent.hash for name, parent in manifests.items()},
        "sequence_length": recipe.sequence_length,
    }
    looked_at = {name: one for name, one in sorted((measured or {}).items()) if name in _filtered(recipe)}
    labels = {name: types[name] for name in sources if types and name in types}
    for parent in manifests.values():
        _require_same_inputs(recipe, head, parent)

    def work(build: Build) -> None:
        ctx.progress.begin(build.name, 1)
        for name in manifests:
            require_verified(parents[name].folder)
        counted = {**catalogs, **(transformed or {})}
        paths: dict[str, Path] = {name: counted[name].folder / CATALOG_FILE for name in sources}
        planned = plan(recipe, paths, manifests, labels, {name: one.folder for name, one in looked_at.items()})
        planned.require_feasible()
        # The rows must come to what was planned; but a catalog may hold one document twice, and the rows tell
        # that.
        account = [{key: line[key] for key in line if key != "documents"} for line in planned.account]
        scratch = build.folder / SCRATCH
        remove(scratch)
        written = write_sorted(build.folder, planned.tables(scratch), {**head, "account": account})
        by_source: dict[str, dict[str, int]] = {name: {"documents_in": 0, "documents_out": 0} for name in sources}
        for line in written["account"]:
            entry = by_source.setdefault(line["source"], {"documents_in": 0, "documents_out": 0})
            entry["documents_in"] += line["pool_documents"]
            entry["documents_out"] += line["documents"]
        build.counts = {
            "documents_in": sum(entry["documents_in"] for entry in by_source.values()),
            "documents_out": written["totals"]["unique_documents"],
            **{key: written["totals"][key] for key in ("occurrences", "fragments", "tokens")},
            "by_source": by_source,
        }
        ctx.progress.advance(build.name)

    inputs = {
        f"{role}/{name}": content
        for role in ("pools", "catalogs", "parents")
        for name, content in head[role].items()
    }
    inputs |= {f"transformed/{name}": output.content for name, output in sorted((transformed or {}).items())}
    inputs |= {f"measured/{name}": output.content for name, output in looked_at.items()}
    config = {"recipe": recipe.text(), "types": labels}
    return step(ctx, f"mix/{recipe.name}", VERSION, config, {"tokenizer": tokenizer.content, **inputs}, work)


def _filtered(recipe: Recipe) -> set[str]:
    """The sources that some line filters by measurements."""
    return {source for line in recipe.leaves().values() if line.where for source in line.source}


def _require_same_inputs(recipe: Recipe, head: dict, parent: Manifest) -> None:
    """A parent's rows point into pools, and its tokens are a tokenizer's: both must be the ones used here."""
    found = parent.head
    where = f"mix '{recipe.name}': mix '{found['name']}' was made"
    if found["tokenizer_hash"] != head["tokenizer_hash"]:
        raise RecipeError(f"{where} with another tokenizer; rebuild it")
    for role in ("pools", "catalogs"):
        for source, content in found[role].items():
            if head[role][source] != content:
                raise RecipeError(f"{where} of another version of '{source}'; rebuild it")
