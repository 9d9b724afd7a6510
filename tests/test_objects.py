"""What an object store promises, on every kind: a directory, and GCS over the wire."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from gcs_server import serve

from stores.objects import (
    GenerationMismatch,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    ObjectNameError,
    ObjectRetained,
    ObjectTooLarge,
    check_name,
    check_prefix,
)
from stores.objects_gcs import GcsObjects
from stores.objects_local import LocalObjects

LARGE = bytes(range(256)) * (80 * 1024)  # 20 MiB: three chunks of a resumable upload


class Bench:
    """A store and a way to reach under it."""

    def __init__(self, store, flip):
        self.store = store
        self.flip = flip


@pytest.fixture(params=["local", "gcs"])
def bench(request, tmp_path):
    if request.param == "local":

        def flip_file(name):
            (path,) = [
                each
                for each in (tmp_path / "store" / name).parent.glob(f"{name.split('/')[-1]}@*")
                if not each.name.endswith("@info")
            ]
            path.write_bytes(flipped(path.read_bytes()))

        yield Bench(LocalObjects(tmp_path / "store"), flip_file)
        return
    with serve() as server:
        server.page = 3

        def flip_stored(name):
            server.objects[name].data = flipped(server.objects[name].data)

        store = GcsObjects("backups", endpoint=server.url, deadline_s=5)
        yield Bench(store, flip_stored)
        store.close()


@pytest.fixture
def store(bench):
    return bench.store


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def names(store, prefix=""):
    return [info.name for info in store.list(prefix)]


@pytest.mark.parametrize("data", [b"", b"x", b"\r\n--boundary--\r\n\x00", LARGE])
def test_what_is_put_is_read(store, data):
    info = store.put("eu/one.bin", data)
    assert store.get("eu/one.bin", len(data)) == data
    assert store.stat("eu/one.bin") == info
    assert info.size == len(data)
    assert not info.held
    assert info.retained_until is None
    assert abs(datetime.now(UTC) - info.created) < timedelta(minutes=1)
    with store.open("eu/one.bin") as stream:
        assert stream.read() == data


def test_streams_and_files_are_put(store, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    store.put("file", path)
    stream = io.BytesIO(b"skipped" + LARGE)
    stream.seek(len(b"skipped"))
    assert store.put("stream", stream).sha256 == store.stat("file").sha256


def test_a_name_is_created_once(store):
    first = store.put("a", b"one")
    assert store.put("a", b"one") == first
    with pytest.raises(ObjectExists):
        store.put("a", b"two")
    assert store.get("a", 10) == b"one"


def test_a_generation_is_replaced_and_no_other(store):
    first = store.put("a", b"one")
    second = store.put("a", b"two", if_generation=first.generation)
    assert second.generation > first.generation
    with pytest.raises(GenerationMismatch) as caught:
        store.put("a", b"three", if_generation=first.generation)
    assert caught.value.found == second.generation
    with pytest.raises(GenerationMismatch):
        store.put("a", b"two", if_generation=first.generation)  # the same bytes, another writer
    with pytest.raises(GenerationMismatch):
        store.put("b", b"three", if_generation=first.generation)
    assert store.get("a", 10) == b"two"


def test_replacing_by_the_same_bytes_is_a_new_generation(store):
    first = store.put("a", b"one")
    second = store.put("a", b"one", if_generation=first.generation)
    assert second.generation > first.generation
    assert store.get("a", 10) == b"one"


def test_what_is_not_there(store):
    assert store.stat("a/b") is None
    assert names(store) == []
    for act in (
        lambda: store.get("a/b", 1),
        lambda: store.open("a/b").__enter__(),
        lambda: store.hold("a/b", True),
        lambda: store.retain("a/b", datetime.now(UTC)),
    ):
        with pytest.raises(ObjectMissing):
            act()
    store.delete("a/b", if_generation=7)


def test_deleting_names_a_generation(store):
    first = store.put("a", b"one")
    with pytest.raises(GenerationMismatch):
        store.delete("a", if_generation=first.generation + 1)
    store.delete("a", if_generation=first.generation)
    assert store.stat("a") is None
    assert store.put("a", b"one").generation > first.generation  # never used twice


def test_no_more_is_read_than_the_caller_takes(store):
    store.put("a", b"12345")
    with pytest.raises(ObjectTooLarge):
        store.get("a", 4)


def test_lists_are_in_the_order_of_names(store):
    wanted = ["a", "a-b", "a.d/x", "a/b", "a/b/c", "a/bc", "a0", "b"]
    for name in reversed(wanted):
        store.put(name, name.encode())
    assert names(store) == sorted(wanted)
    assert names(store, "a/") == ["a/b", "a/b/c", "a/bc"]
    assert names(store, "a/b") == ["a/b", "a/b/c", "a/bc"]
    assert names(store, "a/b/") == ["a/b/c"]
    assert names(store, "c/") == []


@pytest.mark.parametrize(
    "name",
    [
        *("", "/a", "a/", "a//b", "..", "../a", "a/../b", ".a", "a/.b", "-a", "a b", "a\n"),
        *("a\\b", "a@b", "ä", "a" * 181, "/".join(["aaaaaaaaaa"] * 60), "a\0"),
    ],
)
def test_names_are_checked(store, name):
    with pytest.raises(ObjectNameError):
        check_name(name)
    with pytest.raises(ObjectNameError):
        store.put(name, b"x")
    for act in (store.stat, lambda name: store.get(name, 1), lambda name: store.hold(name, True)):
        with pytest.raises(ObjectNameError):
            act(name)


@pytest.mark.parametrize("prefix", ["../", "a/../b", "/", "a//", "a b", "a\n", ".store/"])
def test_prefixes_are_checked(prefix):
    with pytest.raises(ObjectNameError):
        check_prefix(prefix)


def test_what_is_held_stays(store):
    first = store.put("a", b"one")
    assert store.hold("a", True).held
    with pytest.raises(ObjectRetained):
        store.delete("a", if_generation=first.generation)
    with pytest.raises(ObjectRetained):
        store.put("a", b"two", if_generation=first.generation)
    assert store.put("a", b"one").held  # writing the same again changes nothing
    assert not store.hold("a", False).held
    store.delete("a", if_generation=first.generation)


def test_retention_only_prolongs(store):
    first = store.put("a", b"one")
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    assert store.retain("a", until).retained_until == until
    assert store.retain("a", until - timedelta(hours=1)).retained_until == until
    assert store.retain("a", until + timedelta(hours=1)).retained_until > until
    with pytest.raises(ObjectRetained):
        store.delete("a", if_generation=first.generation)
    with pytest.raises(ObjectRetained):
        store.put("a", b"two", if_generation=first.generation)
    with pytest.raises(ValueError, match="zone"):
        store.retain("a", datetime(2030, 1, 1))


def test_retention_that_is_over_keeps_nothing(store):
    first = store.put("a", b"one")
    store.retain("a", datetime.now(UTC) - timedelta(hours=1))
    store.delete("a", if_generation=first.generation)


@pytest.mark.parametrize("data", [b"some bytes", LARGE])
def test_a_flipped_bit_is_found(bench, data):
    bench.store.put("eu/a", data)
    bench.flip("eu/a")
    with pytest.raises(ObjectDamaged):
        bench.store.get("eu/a", len(data))
    with pytest.raises(ObjectDamaged), bench.store.open("eu/a") as stream:
        stream.read(3)  # whoever stops early is told too
    with pytest.raises(ObjectDamaged), bench.store.open("eu/a") as stream:
        raise ValueError("cannot be decompressed")
    with pytest.raises(ObjectDamaged):
        bench.store.put("eu/a", data)  # it is there, but it is not what it says


def test_an_error_of_the_reader_passes_through(store):
    store.put("a", b"one")
    with pytest.raises(OSError, match="mine"), store.open("a"):
        raise OSError("mine")


def test_one_of_many_creators_wins(store):
    barrier = threading.Barrier(6)

    def create(number):
        barrier.wait()
        try:
            store.put("a", f"writer {number}".encode())
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(6) as pool:
        won = [each for each in pool.map(create, range(6)) if each is not None]
    assert len(won) == 1
    assert store.get("a", 20) == f"writer {won[0]}".encode()


def test_no_increment_is_lost(store):
    store.put("n", b"0")

    def increment(_):
        while True:
            info = store.stat("n")
            try:
                store.put(
                    "n", str(int(store.get("n", 9)) + 1).encode(), if_generation=info.generation
                )
                return
            except GenerationMismatch:
                continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(12)))
    assert store.get("n", 9) == b"12"
