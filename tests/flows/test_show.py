"""What a mix holds: the first documents of training, decoded back to their text, the mask as it was written."""

from __future__ import annotations

import io
import json

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from curation.mix.manifest import ManifestError
from flows.run import Run, load_run
from flows.show import print_show, show


def printed(shown) -> str:
    out = io.StringIO()
    print_show(shown, Console(file=out, width=160, color_system=None))
    return out.getvalue()


def test_documents_are_those_that_training_sees_first(whole_run, fabricator):
    folder = fabricator.folder("mix/midtrain")
    rows = pq.read_table(folder / "part-00000.parquet").sort_by("order").to_pylist()
    shown = show(folder, whole_run, n=4)
    assert [one["id"] for one in shown["documents"]] == [row["id"] for row in rows[:4]]
    for document, row in zip(shown["documents"], rows, strict=False):
        text = fabricator.tables[row["source"]]["text"][row["row"]].as_py()
        view = document["views"]["text"]
        masked, in_loss = view["runs"]
        assert (masked["in_loss"], in_loss["in_loss"]) == (False, True)
        first, *others = text.split()
        assert masked["text"] == first
        assert in_loss["text"].split()[: len(others)] == others[: len(in_loss["text"].split())]
        assert (view["tokens"], view["in_loss"]) == (row["tokens"], row["tokens"] - 1)
    assert shown["totals"]["tokens"] == 3 * sum(row["tokens"] for row in rows)


def test_the_last_turn_alone_is_shown_where_all_stages_train_on_it(whole_run, fabricator):
    folder, data = fabricator.folder("mix/midtrain"), whole_run.step("data/midtrain").folder
    index, mask = pq.read_table(data / "index.parquet").to_pylist(), bytearray((data / "mask.bin").read_bytes())
    for line in index:
        mask[line["start"] + 3] = 0  # two turns: tokens 1 and 2, and what follows token 3
    (data / "mask.bin").write_bytes(mask)

    def in_loss(*settings: str) -> list[int]:
        stages = {str(n): {"mix": "midtrain", "config": {"loss_on": name}} for n, name in enumerate(settings)}
        told = {**whole_run.data, "config": {"train": stages | {"other": {"mix": "pretrain", "config": {}}}}}
        shown = show(folder, Run(whole_run.folder, told), n=4)
        assert shown["loss_on"] == ("last" if set(settings) == {"last"} else "all")
        return [one["views"]["text"]["in_loss"] for one in shown["documents"]]

    tokens = [row["tokens"] for row in show(folder, whole_run, n=4)["documents"]]
    assert in_loss("last") == in_loss("last", "last") == [count - 4 for count in tokens]
    assert in_loss("last", "all") == in_loss() == [count - 2 for count in tokens]


def test_without_token_data_the_text_is_shown(mixed_run, fabricator):
    shown = show(fabricator.folder("mix/pretrain"), mixed_run, n=2)
    for document in shown["documents"]:
        text = fabricator.tables[document["source"]]["text"][document["row"]].as_py()
        assert text[:30].startswith(document["excerpt"][:30])
        assert document["origin"] == f"raw/{document['row']}.jsonl#{document['row']}"


def test_without_a_run_the_rows_are_shown(mixed_run, fabricator):
    shown = show(fabricator.folder("mix/pretrain"), None, n=3)
    assert len(shown["documents"]) == 3
    assert "excerpt" not in shown["documents"][0]


def test_data_of_another_manifest_is_not_taken(whole_run, fabricator):
    """The token data of the run must be of this very manifest, not of one with its name."""
    steps = [entry for entry in whole_run.data["steps"] if entry["name"] != "data/pretrain"]
    without = Run(whole_run.folder, {**whole_run.data, "steps": steps})
    assert "views" in show(fabricator.folder("mix/pretrain"), whole_run)["documents"][0]
    assert "excerpt" in show(fabricator.folder("mix/pretrain"), without)["documents"][0]


def test_a_source_can_be_chosen(mixed_run, fabricator):
    folder = fabricator.folder("mix/pretrain")
    source = fabricator.hostile_source
    assert {one["source"] for one in show(folder, mixed_run, source=source)["documents"]} == {source}
    with pytest.raises(ValueError, match="holds no source 'nothing'"):
        show(folder, mixed_run, source="nothing")


def test_what_is_shown_is_json_and_prints_no_control_code(whole_run, fabricator):
    for name in ("pretrain", "midtrain"):
        shown = show(fabricator.folder(f"mix/{name}"), whole_run, n=99)
        assert json.loads(json.dumps(shown, allow_nan=False)) == shown
        lines = printed(shown)
        assert "\x1b" not in lines
        assert "total" in lines


def test_no_manifest_is_an_error(tmp_path):
    with pytest.raises(ManifestError):
        show(tmp_path)


@pytest.mark.parametrize("mix", ["pretrain", "instruction", "preference"])
def test_before_token_data_is_written_a_document_is_shown_as_it_will_be(mix, project):
    """`data/<mix>` was written by the run itself; without it the same tokens are shown, masked the same."""
    run = load_run(project[1])
    folder = run.step(f"mix/{mix}").folder
    written = show(folder, run, n=5)["documents"]
    steps = [entry for entry in run.data["steps"] if not entry["name"].startswith("data/")]
    assert all(
        set(one["views"]) == ({"text"} if mix != "preference" else {"chosen", "rejected"}) for one in written
    )
    assert show(folder, Run(run.folder, {**run.data, "steps": steps}), n=5)["documents"] == written
    assert show(folder, None, n=5, workspace=project[1])["documents"] == written
    assert "views" not in show(folder, None, n=1)["documents"][0]
    assert show(folder, None, n=0, workspace=project[1])["documents"] == []
