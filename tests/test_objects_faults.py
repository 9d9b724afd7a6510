"""Object stores when things go wrong: on the wire to GCS, and on the disk of a directory."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gcs_server import serve

from stores.objects import (
    GenerationMismatch,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    ObjectsRefused,
    ObjectsUnavailable,
)
from stores.objects_gcs import GcsObjects
from stores.objects_local import LocalObjects

LARGE = bytes(range(256)) * (80 * 1024)  # 20 MiB: three chunks
UPLOAD = "/upload/"
DOWNLOAD = "/download/"


@pytest.fixture
def server():
    with serve() as running:
        yield running


@pytest.fixture
def store(server):
    opened = GcsObjects("backups", endpoint=server.url, deadline_s=5, attempt_s=1)
    yield opened
    opened.close()


@pytest.fixture
def hasty(server):
    """A store whose deadline is short."""
    opened = GcsObjects("backups", endpoint=server.url, deadline_s=1, attempt_s=10)
    yield opened
    opened.close()


# --- Google Cloud Storage over the wire ---


@pytest.mark.parametrize("kind", [429, 500, 503, "cut upload", "lose answer", "hang"])
@pytest.mark.parametrize("data", [b"small", LARGE], ids=["multipart", "resumable"])
def test_an_upload_outlives_a_passing_fault(server, store, kind, data):
    fault = server.fail(kind, path=UPLOAD)
    info = store.put("a", data)
    assert fault.hit == 1
    assert store.get("a", len(data)) == data
    assert len(server.objects) == 1
    assert info.generation == server.objects["a"].generation


@pytest.mark.parametrize("kind", [429, 503, "cut upload", "lose answer"])
def test_a_resumable_upload_outlives_a_fault_at_its_last_chunk(server, store, kind):
    server.fail(kind, method="PUT")
    server.faults[0].times = 2
    store.put("a", LARGE)
    assert store.get("a", len(LARGE)) == LARGE


@pytest.mark.parametrize("kind", [503, "hang", "cut download"])
@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_download_outlives_a_passing_fault(server, store, kind, data):
    store.put("a", data)
    fault = server.fail(kind, path=DOWNLOAD)
    assert store.get("a", len(data)) == data
    with store.open("a") as stream:
        assert stream.read() == data
    assert fault.hit == 1


def test_a_replacement_whose_answer_was_lost_is_known_as_ones_own(server, store):
    first = store.put("a", b"one")
    server.fail("lose answer", path=UPLOAD)
    second = store.put("a", b"two", if_generation=first.generation)
    assert second.generation == server.objects["a"].generation > first.generation


def test_a_lost_answer_does_not_hide_that_another_was_first(server, store):
    first = store.put("a", b"one")
    server.fail(503, path=UPLOAD)
    server.objects["a"].generation += 1
    with pytest.raises(GenerationMismatch):
        store.put("a", b"one", if_generation=first.generation)
    server.fail(503, path=UPLOAD)
    with pytest.raises(ObjectExists):
        store.put("a", b"other")


def test_deletion_hold_and_retention_outlive_a_lost_answer(server, store):
    info = store.put("a", b"one")
    until = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=5)
    server.fail("lose answer", method="PATCH", times=2)
    assert store.retain("a", until).retained_until == until
    assert store.hold("a", True).held
    server.faults.clear()
    store.hold("a", False)
    server.fail("lose answer", method="DELETE")
    store.delete("a", if_generation=info.generation)
    assert server.objects == {}


@pytest.mark.parametrize("kind", [503, "hang", "cut upload", "lose answer"])
def test_an_outage_is_told_at_the_deadline(server, hasty, kind):
    hasty.put("there", b"one")
    server.fail(kind, times=10_000)
    for act in (
        lambda: hasty.put("a", b"one"),
        lambda: hasty.get("there", 10),
        lambda: hasty.stat("there"),
        lambda: list(hasty.list("")),
        lambda: hasty.delete("there", if_generation=1),
        lambda: hasty.hold("there", True),
    ):
        began = time.monotonic()
        with pytest.raises(ObjectsUnavailable):
            act()
        assert time.monotonic() - began < 2.0


def test_a_download_that_trickles_ends_at_the_deadline(server, hasty):
    hasty.put("a", bytes(50_000))
    server.fail("trickle", path=DOWNLOAD, times=100)
    began = time.monotonic()
    with pytest.raises(ObjectsUnavailable):
        hasty.get("a", 50_000)
    assert time.monotonic() - began < 3.0


def test_a_server_that_is_not_there_is_told_at_the_deadline():
    store = GcsObjects("backups", endpoint="http://127.0.0.1:9", deadline_s=1)
    began = time.monotonic()
    with pytest.raises(ObjectsUnavailable):
        store.stat("a")
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["multipart", "resumable"])
def test_a_partial_upload_is_never_seen(server, hasty, data):
    server.fail("cut upload", method="PUT" if data is LARGE else "POST", times=10_000)
    with pytest.raises(ObjectsUnavailable):
        hasty.put("a", data)
    assert hasty.stat("a") is None
    assert list(hasty.list("")) == []


def test_an_upload_that_the_service_got_wrong_is_refused_by_it(server, store, monkeypatch):
    # Between the client and the service a bit flips in the bytes of a resumable upload.
    rule = server.store
    monkeypatch.setattr(
        server, "store", lambda query, resource, data: rule(query, resource, data[:-1] + b"!")
    )
    with pytest.raises(ObjectsRefused, match="CRC32C"):
        store.put("a", LARGE)
    assert server.objects == {}


def test_what_cannot_be_read_back_is_taken_away(server, store, monkeypatch):
    rule = server.store

    def damage(query, resource, data):
        answer = rule(query, resource, data)
        server.objects[resource["name"]].data = data[:-1] + b"!"
        return answer

    monkeypatch.setattr(server, "store", damage)
    with pytest.raises(ObjectDamaged):
        store.put("a", b"one")
    assert server.objects == {}


def test_an_object_that_is_replaced_under_a_reader_is_read_anew(server, store):
    first = store.put("a", b"one")
    second = {"metadata": {"sha256": hashlib.sha256(b"two").hexdigest()}}
    fault = server.fail(503)

    def meets(_method, path):
        if DOWNLOAD in path and server.objects["a"].generation == first.generation:
            server.store({"name": "a", "ifGenerationMatch": str(first.generation)}, second, b"two")
        return False

    fault.meets = meets
    assert store.get("a", 10) == b"two"


def test_a_missing_bucket_is_not_an_empty_one(server):
    store = GcsObjects("other", endpoint=server.url, deadline_s=2)
    for act in (
        lambda: store.stat("a"),
        lambda: list(store.list("")),
        lambda: store.put("a", b"one"),
        lambda: store.get("a", 1),
        lambda: store.delete("a", if_generation=1),
    ):
        with pytest.raises(ObjectsRefused, match="other"):
            act()


def test_a_refusal_is_not_tried_again(server, store):
    server.fail(403, times=100)
    with pytest.raises(ObjectsRefused):
        store.stat("a")
    assert len(server.requests) == 1


def test_a_bucket_without_retention_says_so_and_holds():
    with serve(object_retention=False) as server:
        store = GcsObjects("backups", endpoint=server.url, deadline_s=2)
        store.put("a", b"one")
        with pytest.raises(ObjectsRefused, match="object retention"):
            store.retain("a", datetime.now(UTC) + timedelta(days=1))
        assert store.hold("a", True).held


def test_an_object_of_somebody_else_is_listed_and_never_read(server, store):
    server.store({"name": "readme", "ifGenerationMatch": "0"}, {}, b"hello")
    assert [info.sha256 for info in store.list("")] == [""]
    with pytest.raises(ObjectDamaged, match="SHA-256"):
        store.get("readme", 10)
    with pytest.raises(ObjectExists):
        store.put("readme", b"hello")


# --- a directory ---

_PUT = """
import sys
from pathlib import Path
from stores.objects import ObjectError
from stores.objects_local import LocalObjects
store = LocalObjects(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    store.put(sys.argv[2], sys.argv[3].encode() * int(sys.argv[4]))
    print("won")
except ObjectError as error:
    print(type(error).__name__)
"""


def writer(root, name, text, times):
    command = [sys.executable, "-c", _PUT, str(root), name, text, str(times)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_one_of_many_processes_creates(tmp_path):
    processes = [writer(tmp_path, "eu/a", f"{number}", 1000) for number in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].strip() for process in processes]
    assert sorted(answers) == ["ObjectExists"] * 3 + ["won"]
    won = str(answers.index("won"))
    assert LocalObjects(tmp_path).get("eu/a", 1000) == won.encode() * 1000


@pytest.mark.parametrize("delay_ms", [0, 3, 10, 20, 40, 80, 160])
def test_a_writer_that_is_killed_leaves_nothing_half_seen(tmp_path, delay_ms):
    size = 30_000_000
    process = writer(tmp_path, "eu/a", "x", size)
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(delay_ms / 1000)
    process.kill()
    process.communicate()
    store = LocalObjects(tmp_path)
    found = store.stat("eu/a")
    if found is not None:  # it was done before it was killed
        assert store.get("eu/a", size) == b"x" * size
    else:
        assert list(store.list("")) == []
        store.put("eu/a", b"another")
        assert store.get("eu/a", 100) == b"another"


_STEPS = """
import os, signal, sys
from pathlib import Path
import stores.objects_local as local
step, store = int(sys.argv[2]), local.LocalObjects(Path(sys.argv[1]))
count = 0
def counted(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (Path, "replace"),
                    (Path, "unlink"), (Path, "chmod"), (local, "sync_directory"),
                    (local, "write_atomic")):
    setattr(owner, name, counted(getattr(owner, name)))
first = store.stat("eu/a").generation
store.put("eu/a", b"new bytes", if_generation=first)
store.delete("eu/b", if_generation=store.stat("eu/b").generation)
print(count)
"""


def test_a_kill_at_every_step_leaves_the_old_or_the_new(tmp_path):
    step, done = 0, False
    while not done:
        step += 1
        root = tmp_path / str(step)
        store = LocalObjects(root)
        store.put("eu/a", b"old bytes")
        store.put("eu/b", b"to go")
        command = [sys.executable, "-c", _STEPS, str(root), str(step)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        done = result.returncode == 0
        assert done or result.returncode == -signal.SIGKILL, result.stderr
        assert store.get("eu/a", 100) in (b"old bytes", b"new bytes")
        there = [info.name for info in store.list("")]
        assert there in (["eu/a"], ["eu/a", "eu/b"])
        for name in there:
            store.get(name, 100)
        info = store.stat("eu/a")
        store.put("eu/a", b"newest", if_generation=info.generation)
        assert store.get("eu/a", 100) == b"newest"
    assert step > 8


def test_bytes_that_are_gone_and_a_record_that_is_damaged_are_told(tmp_path):
    store = LocalObjects(tmp_path)
    info = store.put("a", b"one")
    (tmp_path / f"a@{info.sha256}").unlink()
    with pytest.raises(ObjectDamaged, match="gone"):
        store.get("a", 10)
    record = tmp_path / "a@info"
    record.write_bytes(record.read_bytes().replace(b'"held": false', b'"held": true'))
    for act in (lambda: store.stat("a"), lambda: list(store.list("")), lambda: store.get("a", 1)):
        with pytest.raises(ObjectDamaged, match="record"):
            act()


def test_a_disk_that_went_away_is_not_an_empty_store(tmp_path):
    store = LocalObjects(tmp_path / "disk")
    store.put("a", b"one")
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    for act in (
        lambda: store.stat("a"),
        lambda: list(store.list("")),
        lambda: store.get("a", 10),
        lambda: store.put("a", b"one"),
        lambda: store.delete("a", if_generation=1),
    ):
        with pytest.raises(ObjectsUnavailable):
            act()


def test_a_link_leads_nowhere(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    store = LocalObjects(tmp_path / "store")
    (tmp_path / "store" / "eu").symlink_to(outside)
    with pytest.raises(ObjectDamaged, match="link"):
        store.put("eu/a", b"one")
    assert list(store.list("")) == []
    assert list(outside.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(tmp_path):
    store = LocalObjects(tmp_path)
    store.put("a", b"one")
    limit = multiprocessing.get_context("fork").Process(target=_fill, args=(tmp_path,))
    limit.start()
    limit.join()
    assert limit.exitcode == 0
    assert [info.name for info in store.list("")] == ["a"]
    assert list((tmp_path / ".store" / "staged").iterdir()) == []


def _fill(root: Path) -> None:
    """Put more than this process may write into one file."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        LocalObjects(root).put("b", bytes(2_000_000))
    except ObjectsUnavailable:
        os._exit(0)
    os._exit(1)


def test_a_writer_that_stands_still_is_waited_for_until_the_deadline(tmp_path):
    store = LocalObjects(tmp_path, deadline_s=0.3)
    with store._locked("a"), pytest.raises(ObjectsUnavailable, match="another writer"):
        store.put("a", b"one")
    with pytest.raises(ObjectMissing):
        store.get("a", 10)


def test_what_dead_writers_staged_is_swept_and_what_living_ones_did_is_not(tmp_path):
    LocalObjects(tmp_path)
    old, new = (tmp_path / ".store" / "staged" / each for each in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (0, time.time() - 48 * 3600))
    LocalObjects(tmp_path)
    assert not old.exists()
    assert new.exists()
