"""Workspaces on a store, as moto's server speaks S3, on good days and bad ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from curation import remote
from curation.config import ConfigError
from curation.files import file_hash
from curation.objects import BLOCK, CorruptError, Found, Objects
from curation.read.stores import StoreError
from curation.steps import RECORD, Build, Context, DamagedError, StepOutput, find, load, step, verify_files
from tests.faulty import SECRET, s3_bucket


@pytest.fixture
def s3(tmp_path):
    with s3_bucket(tmp_path / "machines") as bucket:
        yield bucket


class Killed(BaseException):
    """The end of a process, as far as the code in it can tell."""


def numbers(workspace: Path, size: int = 1000, note: str = "") -> StepOutput:
    """A step of a few files, one empty, one in a folder, and one that no record lists."""

    def work(build: Build) -> None:
        build.write_json("a.json", list(range(size)))
        (build.folder / "deep").mkdir(exist_ok=True)
        (build.folder / "deep" / "b é.bin").write_bytes(bytes(range(256)) * 40)
        (build.folder / "empty").touch()
        build.write_json("note.json", note)
        build.scratch("log.txt").write_text("at noon")
        build.counts = {"documents_out": size}

    return step(Context(workspace), "numbers/s", 1, {"size": size}, {}, work)


def total(workspace: Path) -> StepOutput:
    """A step that reads `numbers`."""
    read = numbers(workspace)

    def work(build: Build) -> None:
        build.write_json("total.json", sum(json.loads((read.folder / "a.json").read_bytes())))

    context = Context(workspace)
    context.outputs.append(read)
    return step(context, "total", 1, {}, {"numbers": read.content}, work)


def half_visible(objects: dict[str, bytes]) -> list[str]:
    """What a reader would miss: the files that a record in the store names, and that are not there as it says."""
    wrong = []
    for key, data in objects.items():
        if key.endswith(f"/{RECORD}"):
            folder = key.removesuffix(RECORD)
            for name, entry in json.loads(data)["files"].items():
                if len(objects.get(folder + name, b"no")) != entry["bytes"]:
                    wrong.append(folder + name)
    return wrong


def watched(s3) -> list[str]:
    """Look at the store before each request that may change it."""
    seen: list[str] = []

    def look(asked) -> None:
        if asked.method in ("PUT", "DELETE"):
            seen.extend(half_visible(s3.objects()))

    s3.proxy.fault = look
    return seen


def test_a_step_on_a_store_is_that_of_a_folder_and_another_machine_finds_it(tmp_path, s3):
    local = total(tmp_path / "local")
    there = total(s3.workspace("one"))
    assert (there.content, there.reused) == (local.content, False)
    record = json.loads(s3.objects()[f"ws/steps/total/{there.place.name}/{RECORD}"])
    assert record["files"] == local.record["files"]
    since = len(s3.proxy.asked)
    found = total(s3.workspace("two"))
    assert (found.content, found.reused) == (local.content, True)
    assert {Path(key).name for key in s3.proxy.keys("GET", since)} == {RECORD}  # records, and no file
    assert not list((s3.folder / "two").rglob("*.bin"))
    read = numbers(s3.workspace("two"))
    assert json.loads(read.file("a.json").read_bytes()) == list(range(1000))
    assert not list((s3.folder / "two").rglob("*.bin"))
    assert (read.folder / "deep" / "b é.bin").read_bytes() == bytes(range(256)) * 40
    assert (read.folder / "log.txt").read_text() == "at noon"
    assert verify_files(read) == []
    assert not [key for key in s3.objects() if ".units" in key or "lock" in key or "pending" in key]
    assert find(s3.workspace("three"), "numbers/s", read.content).place.name == read.place.name
    assert find(s3.workspace("three"), "numbers/s", "0" * 64) is None


def test_a_file_of_many_parts_is_compared_by_the_checksum_of_s3(s3, monkeypatch):
    workspace = s3.workspace("one")
    store = remote.of(workspace)
    big = workspace / "big.bin"
    big.write_bytes(os.urandom(BLOCK + 77))
    since = len(s3.proxy.asked)
    store.send(big, file_hash(big))
    assert not s3.proxy.keys("GET", since), "read back: the checksum was not the one foretold"
    assert store.is_sent(big)
    s3.put("ws/big.bin", big.read_bytes()[:-1] + b"?")
    assert not store.is_sent(big)


def test_no_record_is_seen_before_its_files(s3):
    seen = watched(s3)
    done = total(s3.workspace("one"))
    remote.of(s3.workspace("one")).withdraw(done.place)
    assert not seen
    assert len(s3.proxy.keys("PUT")) > 8


def test_a_publisher_that_sends_the_record_first_is_found_out(s3, monkeypatch):
    """The twin of the test above, with the bug planted."""
    publish = remote.Store.publish

    def backwards(self, folder, record):
        self.send(folder / RECORD)
        publish(self, folder, record)

    monkeypatch.setattr(remote.Store, "publish", backwards)
    seen = watched(s3)
    numbers(s3.workspace("one"))
    assert any("deep" in key for key in seen)


def test_a_publisher_that_dies_leaves_nothing_visible_and_a_rerun_completes(s3, monkeypatch):
    """It dies before each object that it sends, in turn."""
    undisturbed = numbers(s3.workspace("undisturbed", "other"))
    expected, made = undisturbed.content, undisturbed.place
    send, sent, deaths = Objects.send, [], 0
    for place in range(20):

        def mortal(self, path, *arguments, place=place, **options):
            if len(sent) == place:
                raise Killed
            sent.append(path)
            send(self, path, *arguments, **options)

        monkeypatch.setattr(Objects, "send", mortal)
        sent.clear()
        prefix, machine = f"ws{place}", f"m{place}"
        try:
            numbers(s3.workspace(machine, prefix))
        except Killed:
            deaths += 1
        else:
            break
        finally:
            monkeypatch.setattr(Objects, "send", send)
        assert not [key for key in s3.objects() if key.startswith(f"{prefix}/") and key.endswith(RECORD)]
        found = load(s3.workspace("other", prefix) / "steps" / "numbers" / "s" / made.name)
        assert found is None
        since = len(s3.proxy.asked)
        again = numbers(s3.workspace(machine, prefix))
        assert s3.proxy.keys("PUT", since)[0].endswith(remote.PENDING)  # of today: gc looks at its age
        assert (again.content, again.reused) == (expected, True)  # made before, published now
        assert not half_visible(s3.objects())
    assert deaths >= 6  # what is pending, five files, the record


PROGRAM = """
import sys
from pathlib import Path
from curation.remote import open_workspace
from tests.curation.test_remote import numbers
numbers(open_workspace(sys.argv[1]))
"""


@pytest.mark.parametrize("nth", [2, 5])
def test_a_process_that_is_killed_while_it_sends(s3, nth, monkeypatch):
    expected = numbers(s3.workspace("undisturbed", "other")).content
    monkeypatch.setenv("MIXWRIGHT_CACHE", str(s3.folder / "killed"))
    command = [sys.executable, "-c", PROGRAM, f"s3://{s3.bucket}/ws"]
    process, puts = subprocess.Popen(command), []

    def kill(asked) -> None:
        if asked.method == "PUT":
            puts.append(asked.key)
            if len(puts) == nth:
                process.send_signal(signal.SIGKILL)
                process.wait()

    s3.proxy.fault = kill
    assert process.wait(60) == -signal.SIGKILL
    s3.proxy.fault = lambda asked: None
    time.sleep(0.2)  # a request that was on its way arrives
    assert not [key for key in s3.objects() if key.startswith("ws/") and key.endswith(RECORD)]
    assert numbers(s3.workspace("killed")).content == expected
    assert not half_visible(s3.objects())


@pytest.mark.parametrize("fault", ["error", "slow", "drop", "cut", "short", "flip"])
def test_a_store_on_a_bad_day_gives_the_same_bytes(s3, fault):
    """One of so many requests fails, from the first on. Bodies are cut and changed of files alone, which are known
    by their hashes."""
    often = {"error": 7, "drop": 7, "slow": 20}.get(fault, 2)
    s3.proxy.pause, turn = 1.5, []

    def fail(asked):
        if fault in ("cut", "short", "flip") and (
            asked.method != "GET" or not asked.key.endswith(("a.json", ".bin"))
        ):
            return None
        turn.append(asked)
        return fault if len(turn) % often == 1 else None

    s3.proxy.fault = fail
    total(s3.workspace("one"))
    read = numbers(s3.workspace("two"))
    assert json.loads((read.folder / "a.json").read_bytes()) == list(range(1000))
    assert verify_files(read) == []
    assert len(turn) >= 2
    s3.proxy.fault = lambda asked: None
    assert not half_visible(s3.objects())


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_an_object_that_is_not_as_its_record_says_is_named_and_made_again(s3, damage):
    made = numbers(s3.workspace("one"))
    key = f"ws/steps/numbers/s/{made.place.name}/a.json"
    data = s3.objects()[key]
    if damage == "gone":
        s3.client.delete_object(Bucket=s3.bucket, Key=key)
    else:
        s3.put(key, data[:-9] if damage == "truncated" else data[:-3] + b"7\n]")
    workspace = s3.workspace("two")
    with pytest.raises(CorruptError, match=r"a\.json: (?s:.*)a run makes it again"):
        total(workspace)
    assert total(workspace).record["files"]["total.json"]["bytes"] > 0
    assert s3.objects()[key] == data
    assert verify_files(numbers(s3.workspace("four"))) == []


def test_a_step_that_another_machine_has_repaired_is_taken_as_it_is(s3):
    made = numbers(s3.workspace("one"))
    below = f"ws/steps/numbers/s/{made.place.name}"
    data = s3.objects()[f"{below}/a.json"]
    s3.put(f"{below}/a.json", b"[]")
    workspace = s3.workspace("two")
    with pytest.raises(CorruptError, match=r"a\.json"):
        numbers(workspace).fetch()
    folder = workspace / "steps" / "numbers" / "s" / made.place.name
    assert load(folder) is None
    s3.put(f"{below}/a.json", data)
    s3.put(f"{below}/{RECORD}", json.dumps(made.record | {"finished": "later"}).encode())
    remote.of(workspace).forget(folder)
    again = numbers(workspace)
    assert (again.reused, again.record["finished"]) == (True, "later")
    assert verify_files(again) == []


def test_a_mirror_that_is_damaged_is_fetched_again(s3):
    numbers(s3.workspace("one"))
    workspace = s3.workspace("two")
    path = numbers(workspace).folder / "a.json"
    path.write_bytes(path.read_bytes()[:-3] + b"x\n]")
    with pytest.raises(DamagedError, match=r"a\.json"):
        total(workspace)
    assert json.loads((total(workspace).folder / "total.json").read_bytes()) == sum(range(1000))


def test_what_is_damaged_before_it_is_sent_is_not_sent(s3, monkeypatch):
    publish = remote.Store.publish

    def damaged(self, folder, record):
        (folder / "a.json").write_text("[]")
        publish(self, folder, record)

    with monkeypatch.context() as patch:
        patch.setattr(remote.Store, "publish", damaged)
        with pytest.raises(DamagedError, match=r"a\.json: expected"):
            numbers(s3.workspace("one"))
    assert not [key for key in s3.objects() if key.endswith(RECORD)]
    assert numbers(s3.workspace("one")).reused is False


def test_a_store_that_is_gone_is_an_error_that_says_so_and_a_rerun_completes(s3):
    workspace = s3.workspace("one")
    sent = []

    def gone(asked):
        sent.append(asked)
        return "drop" if len(sent) > 12 else None

    s3.proxy.fault = gone
    with pytest.raises(StoreError, match=rf"s3://{s3.bucket}/ws/.*attempts"):
        total(workspace)
    s3.proxy.fault = lambda asked: "denied"
    with pytest.raises(StoreError, match="check bucket, credentials"):
        s3.workspace("two")
    with pytest.raises(StoreError, match="check bucket, credentials"):
        total(workspace)
    s3.proxy.fault = lambda asked: None
    with pytest.raises(StoreError, match="no-such"):
        remote.open_workspace("s3://no-such-bucket/ws")
    assert total(workspace).record["files"]
    assert not half_visible(s3.objects())


def test_two_machines_that_build_the_same_step_publish_the_same_bytes(s3):
    one, two = s3.workspace("one"), s3.workspace("two")
    theirs, publish = [], remote.Store.publish

    def both(self, folder, record):
        if folder.is_relative_to(one):  # the other machine builds and sends it all before this one sends anything
            theirs.append(numbers(two))
        publish(self, folder, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote.Store, "publish", both)
        mine = numbers(one)
    assert mine.content == theirs[0].content
    assert not half_visible(s3.objects())


def test_of_two_results_of_one_step_the_published_one_holds(s3):
    """A step that is not the same on two machines: who comes second takes what is there."""
    published = numbers(s3.workspace("one"), note="first")
    workspace = s3.workspace("two")
    with pytest.MonkeyPatch.context() as patch:
        record, calls = remote.Store.record, []

        def late(self, folder):
            calls.append(folder)
            return None if len(calls) <= 2 else record(self, folder)  # not there until the work is done

        patch.setattr(remote.Store, "record", late)
        mine = numbers(workspace, note="second")
    assert mine.content == published.content
    assert json.loads((mine.folder / "note.json").read_bytes()) == "first"


def test_withdrawing_removes_the_record_first_and_only_what_it_names(s3, monkeypatch):
    workspace = s3.workspace("one")
    done = numbers(workspace)
    below = f"ws/steps/numbers/s/{done.place.name}"
    s3.put(f"{below}/mine.txt", b"a note of a person")
    s3.put("ws/else.txt", b"another")
    deleted, delete = [], Objects.delete

    def mortal(self, path):
        deleted.append(path.name)
        if len(deleted) == 3:
            raise Killed
        delete(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "delete", mortal)
        with pytest.raises(Killed):
            remote.of(workspace).withdraw(done.place)
    assert deleted[0] == RECORD
    assert f"{below}/{RECORD}" not in s3.objects()
    assert remote.of(workspace).abandoned() == []  # it may be under way
    monkeypatch.setattr(remote, "ABANDONED", -5)
    fresh = s3.workspace("fresh")
    (folder,) = remote.of(fresh).abandoned()
    remote.of(fresh).withdraw(folder)
    assert sorted(s3.objects()) == ["ws/else.txt", f"{below}/mine.txt"]


def test_what_is_no_step_of_ours_is_no_step_and_stays(s3):
    done = numbers(s3.workspace("one"))
    ours = json.dumps(done.record).encode()
    theirs = {
        "ws/steps/my notes/step.json": b'{"files": ["a"]}',
        "ws/steps/my notes/a": b"a note",
        "ws/steps/another/s/0123456789abcdef/step.json": ours,
        f"ws/steps/another/s/{done.place.name}/step.json": ours,
        "ws/steps/x/0123456789abcdef/step.json": b"[",
    }
    for key, data in theirs.items():
        s3.put(key, data)
    store = remote.of(s3.workspace("two"))
    assert [folder.name for folder in store.steps()] == [done.place.name]
    for key in theirs:
        folder = (store.mirror / key.removeprefix("ws/")).parent
        assert load(folder) is None
        store.withdraw(folder)
    assert theirs.items() <= s3.objects().items()


def test_a_store_that_does_not_say_when_has_nothing_abandoned(s3, monkeypatch):
    store = remote.of(s3.workspace("one"))
    pending = store.mirror / "steps" / "s" / "0123456789abcdef" / remote.PENDING
    for changed, found in ((0, []), (1, [pending.parent])):
        monkeypatch.setattr(store, "below", lambda folder, changed=changed: [Found(pending, 9, changed)])
        assert store.abandoned() == found


@pytest.mark.parametrize("name", ["../../stolen", "/etc/stolen"])
def test_a_record_names_no_file_outside_of_its_folder(s3, name):
    done = numbers(s3.workspace("one"))
    key = f"ws/steps/numbers/s/{done.place.name}/{RECORD}"
    record = json.loads(s3.objects()[key])
    record["files"][name] = record["files"]["a.json"]
    s3.put(key, json.dumps(record).encode())
    with pytest.raises(StoreError, match="outside of its folder"):
        numbers(s3.workspace("two"))


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIA:{SECRET}@bucket/ws",
        f"s3://AKIA:{SECRET}/x@bucket/ws",
        f"s3://bucket/ws?secret_key={SECRET}",
        f"ftp://user:{SECRET}@host/ws",
        f"abfs://box@account.dfs.core.windows.net/ws?sig={SECRET}",
    ],
)
def test_a_url_that_holds_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="environment") as raised:
        remote.open_workspace(url)
    assert SECRET not in str(raised.value)


def test_a_folder_that_claims_to_be_a_mirror_sends_nothing(tmp_path, s3):
    """A workspace that someone hands on names its store, not that of who works in it."""
    (tmp_path / remote.ADDRESS).write_text(json.dumps({"url": f"s3://{s3.bucket}/theirs"}))
    with pytest.raises(ConfigError, match="give the URL, or remove"):
        numbers(tmp_path)
    assert not s3.proxy.asked


def test_a_url_without_a_bucket_is_refused():
    with pytest.raises(ConfigError, match="names no bucket"):
        remote.open_workspace("s3://")


def test_credentials_are_in_no_object_no_file_and_no_message(s3, capfd):
    total(s3.workspace("one"))
    s3.proxy.fault = lambda asked: "denied"
    with pytest.raises(StoreError) as raised:
        total(s3.workspace("two"))
    said = capfd.readouterr()
    assert SECRET not in str(raised.value) + said.out + said.err
    assert not [key for key, data in s3.objects().items() if SECRET.encode() in data]
    files = [path for path in s3.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_any_scheme_of_fsspec_holds_a_workspace(tmp_path, monkeypatch):
    url = f"memory://{uuid.uuid4().hex}/ws"
    contents = []
    for machine in ("one", "two"):
        monkeypatch.setenv("MIXWRIGHT_CACHE", str(tmp_path / machine))
        workspace = remote.open_workspace(url)
        done = total(workspace)
        contents.append((done.content, done.reused))
        assert verify_files(numbers(workspace)) == []
    assert contents == [(contents[0][0], False), (contents[0][0], True)]
    assert remote.open_workspace(workspace) == workspace  # its mirror's path stands for the URL
    assert Context(url).workspace == workspace
    assert remote.shown(workspace / "steps") == f"{url}/steps"


def test_results_end_with_what_says_that_they_are_whole(s3, monkeypatch):
    monkeypatch.setenv("MIXWRIGHT_CACHE", str(s3.folder / "one"))
    url = f"s3://{s3.bucket}/out"
    folder = remote.open_results(url)
    store = remote.of_results(folder)
    assert remote.of(folder / "work" / "steps") is None
    for name in ("a/b.gz", "work/steps/x", "end.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'{{"of": "{name}"}}')
    store.require_empty("end.json")
    store.publish_results(folder, "end.json", leave_out="work")
    assert sorted(s3.objects()) == ["out/a/b.gz", "out/end.json"]
    assert [key for key in s3.proxy.keys("PUT") if not key.endswith("/")][-1] == "out/end.json"
    since = len(s3.proxy.asked)
    store.publish_results(folder, "end.json", leave_out="work")
    assert not s3.proxy.keys("PUT", since)
    store.require_ours("end.json", {"of": "end.json"})
    with pytest.raises(ValueError, match="is there already"):
        store.require_ours("end.json", {"of": "another"})
    s3.client.delete_object(Bucket=s3.bucket, Key="out/end.json")
    with pytest.raises(ValueError, match="holds other files"):
        store.require_empty("end.json")
