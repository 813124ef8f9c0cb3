"""Commands on pools and single documents: why, decide, whatif, dedup."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.shared import (
    WORKSPACE,
    AsJson,
    DryRun,
    RunName,
    StrictMode,
    Workers,
    Workspace,
    errors,
    escape,
    local_folder,
    out,
    print_json,
    results,
    terminate,
)


def why(
    document: Annotated[
        str, typer.Argument(metavar="DOCUMENT-ID", help="An id, or its first six digits or more.")
    ],
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    as_json: AsJson = False,
) -> None:
    """Tell a document's whole story: raw file, measurements, decisions, twin, mixes, checkpoints."""
    from flows.run import load_run
    from flows.why import print_story
    from flows.why import why as story

    told = story(load_run(workspace, run), document)
    print_json(told) if as_json else print_story(told, out)


Pools = Annotated[list[str], typer.Argument(metavar="POOL...", help="Sources of the run, or `all`.")]
ProfileName = Annotated[str, typer.Option("--profile", "-p", help="A profile's name, or its YAML file.")]


def decide(
    pools: Pools,
    profile: ProfileName,
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Decide over measured pools under a profile: write the ledger anew; show what each rule drops. Reads no text.

    Name the profile in the pipeline file to go on from there: measuring is not done again.

    Example: mixwright decide web --profile manifests/mine.yaml
    """
    from curation.executor import LocalExecutor
    from curation.rules.profile import load_profile
    from curation.steps import Context
    from flows.decide import decide_pools, print_decided
    from flows.pools import measured_pools
    from flows.run import load_run

    chosen = load_profile(profile)
    found = measured_pools(load_run(workspace, run), pools)
    with LocalExecutor(workers) as executor:
        decided = decide_pools(Context(workspace.resolve(), executor), found, chosen)
    if as_json:
        told = [one.as_json() for one in decided]
        print_json({"profile": chosen.name, "version": chosen.version, "pools": told})
    else:
        print_decided(decided, chosen, out)


def whatif(
    pools: Pools,
    profile: ProfileName,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="RULE=VALUE", help="Another threshold, values with commas, or off."),
    ],
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    examples: Annotated[int, typer.Option(min=0, help="Documents to show for each rule.")] = 5,
    output: Annotated[Path | None, typer.Option(help="The page (HTML). Default: in the workspace.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what other thresholds would change: documents and tokens by source, the distribution, examples.

    Nothing is decided: the answer comes from stored measurements.

    Example: mixwright whatif web papers --profile dolma3 --set few_words=30 --set symbols=off
    """
    from curation.remote import of
    from curation.rules.profile import load_profile
    from flows.pools import measured_pools
    from flows.report.whatif import print_what_if, write_page
    from flows.run import load_run
    from flows.whatif import default_page, what_if

    chosen = load_profile(profile)
    found = measured_pools(load_run(workspace, run), pools)
    answer = what_if(found, chosen, settings, examples)
    page = write_page(answer, output or default_page(workspace, found, chosen))
    if output is None and (store := of(page)) is not None:
        store.send(page)
    if as_json:
        print_json({**answer.as_json(), "page": str(page)})
    else:
        print_what_if(answer, out)
        out.print(f"\ndrawing: {escape(page)}")


def dedup(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUTS...", help="Files, folders or globs, each as [SOURCE=]PATH.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=results,
            metavar="FOLDER|URL",
            help="Folder for the results; of a URL (s3://...) OUT/work stays in MIXWRIGHT_CACHE.",
        ),
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field that holds the text; dotted where nested.")] = "text",
    id_field: Annotated[str | None, typer.Option(help="Field that holds the record's own id.")] = None,
    date_field: Annotated[str | None, typer.Option(help="Field that holds an ISO 8601 date.")] = None,
    score_field: Annotated[
        str | None, typer.Option(help="Field that holds a number; the highest is best.")
    ] = None,
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            "--preset",
            help="fineweb, dolma3, bands x rows as 14x8, or a mapping: '{similarity: 0.8, permutations: 256}', "
            "'{unit: characters, ngram: 24, bands: 20, rows: 13}'.",
        ),
    ] = "fineweb",
    threshold: Annotated[float, typer.Option(help="True Jaccard similarity that makes duplicates.")] = 0.8,
    verify_ngram: Annotated[
        int | None,
        typer.Option(min=1, help="Units in the n-grams that are compared. Default: 3 words, else the scheme's."),
    ] = None,
    exact_only: Annotated[bool, typer.Option("--exact-only", help="Remove equal texts alone.")] = False,
    exact_by: Annotated[
        str | None, typer.Option(help="A field, such as url, that exact duplicates share instead of the text.")
    ] = None,
    alike: Annotated[
        str | None,
        typer.Option(help="What exact duplicates may differ in: unicode, case, punctuation, white_space."),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Which is kept, in this order: best, longest, newest, oldest.")
    ] = "longest",
    prefer: Annotated[
        list[str] | None, typer.Option(help="A source whose records are kept before others'; first comes first.")
    ] = None,
    write_records: Annotated[
        bool, typer.Option("--write-records", help="Copy the kept records, unchanged, to OUT/records.")
    ] = False,
    alarm_share: Annotated[float, typer.Option(help="A source that loses more raises an alarm.")] = 0.5,
    memory: Annotated[str, typer.Option(help="What may be used; it decides how many workers run.")] = "4GiB",
    index: Annotated[
        Path | None,
        typer.Option(
            parser=local_folder,
            metavar="FOLDER",
            help="Of an index, on a disk: compare with it too, and add to it.",
        ),
    ] = None,
    explain: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Compare two records and do nothing else.")
    ] = None,
    workers: Workers = None,
    strict: StrictMode = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove exact and near-duplicate records from any JSON lines or Parquet, plain or compressed.

    A record is removed only if a kept one has the same text, or a true Jaccard similarity of the threshold or
    more. Records stay where they are: OUT gets tables of what is kept and removed for what, and of clusters.

    Examples:

    mixwright dedup crawl/*.jsonl.gz --out deduped --write-records

    mixwright dedup web=crawl/ books=gutenberg.parquet --prefer books --keep longest -o deduped

    mixwright dedup crawl/ --id-field url --explain https://a.example/1 https://b.example/2
    """
    from flows import dedup as command

    options = {"text": text_field, "key": id_field, "created": date_field, "score": score_field}
    wishes = [wish for wish in keep.split(",") if wish]
    request = command.request(
        inputs=inputs,
        fields={name: value for name, value in options.items() if value is not None},
        dedup={
            "scheme": command.scheme(scheme),
            "exact": command.exact(exact_by, alike),
            "threshold": threshold,
            **({} if verify_ngram is None else {"verify_ngram": verify_ngram}),
            "keep": {"sources": prefer or [], "then": wishes, "score": "score" if "best" in wishes else None},
            "alarm_share": alarm_share,
            "index": index,
        },
        exact_only=exact_only,
        write_records=write_records,
        alarm_share=alarm_share,
        memory=memory,
    )
    if explain:
        found = command.compared(request, explain)
        print_json(command.explanation_json(found)) if as_json else command.print_explanation(found, out)
    elif dry_run:
        planned = command.planned(request, workers)
        print_json(command.plan_json(planned)) if as_json else command.print_plan(planned, out)
    elif to is None:
        raise typer.BadParameter("a folder for the results is needed: --out FOLDER", param_hint="--out")
    else:
        signal.signal(signal.SIGTERM, terminate)
        done = command.deduplicate(request, to, workers, strict, errors if as_json else out)
        print_json(command.summary_json(done)) if as_json else command.print_summary(done, out)
