"""Unpacking: nothing outside the target, nothing before every digest was right."""

import io
import os
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.oci import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Manifest, encode
from models.release import ReleaseSpec, image_config
from stores.blobs import BlobStore
from stores.oci import ImageLayout, ReleaseCorrupt, ReleaseError, UnpackRefused
from stores.unpack import Limits

SPEC = ReleaseSpec(name="web", version="1", entrypoint=["./run"])


def file(name: str, content: bytes = b"x", mode: int = 0o644, **fields) -> tuple:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry, content


def special(name: str, kind: bytes, linkname: str = "", mode: int = 0o644) -> tuple:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, linkname, mode
    return entry, b""


def symlink(name: str, target: str) -> tuple:
    return special(name, tarfile.SYMTYPE, target)


def hardlink(name: str, target: str) -> tuple:
    return special(name, tarfile.LNKTYPE, target)


def directory(name: str) -> tuple:
    return special(name, tarfile.DIRTYPE, mode=0o755)


def tar(*entries: tuple, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Store:
    """A layout into which any bytes can be put as the layer of a release."""

    def __init__(self, root: Path) -> None:
        self.layout = ImageLayout(root / "store")
        self.blobs = BlobStore(root / "store")
        self.target = root / "work" / "release"

    def release(self, *layers: bytes, media_type: str = LAYER_TYPE) -> str:
        stored = [self.blobs.put(media_type, layer) for layer in layers]
        config = self.blobs.put(CONFIG_TYPE, encode(image_config(SPEC, [])))
        manifest = Manifest(schema_version=2, config=config, layers=stored)
        return self.blobs.put(MANIFEST_TYPE, encode(manifest)).digest

    def unpack(self, *layers: bytes, limits: Limits | None = None) -> Path:
        digest = self.release(*layers)
        return self.layout.unpack(digest, self.target, *([limits] if limits else []))

    def refuses(self, *entries: tuple, match: str, limits: Limits | None = None) -> None:
        self.refuses_bytes(tar(*entries), match=match, limits=limits)

    def refuses_bytes(self, layer: bytes, match: str, limits: Limits | None = None) -> None:
        with pytest.raises(UnpackRefused, match=match):
            self.unpack(layer, limits=limits)
        self.assert_nothing_left()

    def assert_nothing_left(self) -> None:
        parent = self.target.parent
        assert [p.name for p in parent.iterdir() if p.name != ".unpack.lock"] == []
        assert {p.name for p in parent.parent.iterdir()} == {"store", "work"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_files_directories_and_inner_links_arrive(store):
    root = store.unpack(
        tar(
            file("run", b"#!/bin/sh", 0o755),
            directory("lib"),
            file("lib/deep/er.txt", b"deep", 0o600),
            symlink("lib/program", "../run"),
            hardlink("copy", "run"),
            file("n" * 120, b"long name"),
            file("grüße.txt", b"utf-8"),
        )
    )
    assert (root / "run").read_bytes() == b"#!/bin/sh"
    assert (root / "run").stat().st_mode & 0o777 == 0o755
    assert (root / "lib/deep/er.txt").stat().st_mode & 0o777 == 0o644
    assert (root / "lib/program").read_bytes() == b"#!/bin/sh"
    assert (root / "copy").read_bytes() == b"#!/bin/sh"
    assert (root / "grüße.txt").read_bytes() == b"utf-8"
    assert (root / ("n" * 120)).exists()


def test_what_put_release_packs_unpacks_to_the_same_files(store, tmp_path):
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "c").write_bytes(os.urandom(700_000))
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("a/b/c")
    digest = store.layout.put_release("web", "1", source, entrypoint=["./run"])
    root = store.layout.unpack(digest, store.target)
    assert (root / "link").readlink() == Path("a/b/c")
    assert (root / "a/b/c").read_bytes() == (source / "a/b/c").read_bytes()
    assert os.access(root / "run", os.X_OK)


def test_two_layers_make_one_tree(store):
    root = store.unpack(tar(file("a/one")), tar(directory("a"), file("a/two")))
    assert sorted(p.name for p in (root / "a").iterdir()) == ["one", "two"]


def test_a_path_of_a_second_layer_over_the_first_is_refused(store):
    with pytest.raises(UnpackRefused, match="occurs twice"):
        store.unpack(tar(file("a")), tar(file("a")))


def test_absolute_path_is_refused(store):
    store.refuses(file("/etc/cron.d/x"), match="absolute")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..", "a/..", "./../x"])
def test_dot_dot_is_refused(store, name):
    store.refuses(file(name), match=r"'\.\.'")


def test_a_file_that_names_the_root_is_refused(store):
    store.refuses(file("."), match="names the root")


def test_absolute_symlink_is_refused(store):
    store.refuses(symlink("a", "/etc/passwd"), match="leads outside")


@pytest.mark.parametrize("target", ["..", "../../etc", "b/../../c"])
def test_symlink_that_leads_outside_is_refused(store, target):
    store.refuses(symlink("a", target), match="leads outside")


def test_chain_of_harmless_symlinks_that_leads_outside_is_refused(store):
    store.refuses(
        directory("d"), symlink("d/here", ".."), symlink("up", "d/here/.."), match="leads outside"
    )


def test_dangling_symlink_is_refused(store):
    store.refuses(symlink("a", "nowhere"), match="leads nowhere")


def test_circle_of_symlinks_is_refused(store):
    store.refuses(symlink("a", "b"), symlink("b", "a"), match="leads nowhere")


def test_writing_through_a_symlink_is_refused(store):
    store.refuses(directory("d"), symlink("s", "d"), file("s/x"), match="a link, used as")


def test_replacing_a_symlink_by_a_file_is_refused(store):
    store.refuses(file("t"), symlink("s", "t"), file("s"), match="occurs twice")


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "missing", "d"])
def test_hard_link_to_anything_but_an_earlier_file_is_refused(store, target):
    store.refuses(directory("d"), hardlink("a", target), match="absolute|'..'|no file of")


def test_hard_link_to_a_symlink_is_refused(store):
    store.refuses(file("t"), symlink("s", "t"), hardlink("h", "s"), match="no file of")


@pytest.mark.parametrize(
    "kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"Z"]
)
def test_devices_pipes_and_unknown_kinds_are_refused(store, kind):
    store.refuses(special("a", kind), match="neither a file")


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1755])
def test_setuid_setgid_and_sticky_are_refused(store, mode):
    store.refuses(file("a", mode=mode), match="setuid")


def test_too_many_entries_are_refused(store):
    store.refuses(*(file(f"f{n}") for n in range(6)), match="5 entries", limits=Limits(entries=5))


def test_too_many_bytes_are_refused(store):
    limits = Limits(bytes=1000)
    store.refuses(file("a", b"x" * 600), file("b", b"x" * 600), match="1000 bytes", limits=limits)


def test_a_size_that_the_archive_does_not_hold_is_refused(store):
    layer = bytearray(tar(file("a", b"x" * 100)))
    entry = tarfile.TarInfo("a")
    entry.size = 1_000_000
    layer[:512] = entry.tobuf(tarfile.USTAR_FORMAT)
    store.refuses_bytes(bytes(layer), match="not a tar archive|ends within")


def test_an_oversized_header_is_refused_before_it_is_in_memory(store):
    store.refuses(file("a", pax_headers={"comment": "x" * 1_000_000}), match="header is too large")


def test_a_sparse_file_is_refused(store):
    sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "100", "GNU.sparse.name": "a"}
    store.refuses(file("a", pax_headers=sparse), match="neither a file")


def test_a_path_twice_is_refused(store):
    store.refuses(file("a"), file("./a"), match="occurs twice")


def test_a_file_used_as_a_directory_is_refused(store):
    store.refuses(file("a"), file("a/b"), match="a file, used as a directory")


@pytest.mark.parametrize("name", ["x" * 256, "/".join("d" * 80), "a/.wh.b", "y/" * 40 + "z" * 1000])
def test_names_no_file_may_have_are_refused(store, name):
    store.refuses(file(name), match="not a file name|too long")


def test_a_name_that_is_not_utf8_is_refused(store):
    layer = tar(file("a\udcff"), format=tarfile.GNU_FORMAT)
    store.refuses_bytes(layer, match="not a file name|not a tar")


def test_a_layer_without_its_end_is_refused(store):
    layer = tar(file("a"))
    store.refuses_bytes(layer[:1024], match="does not end")


def test_an_archive_cut_within_a_header_is_refused(store):
    layer = tar(file("a"), file("b"))
    store.refuses_bytes(layer[:1100], match="does not end|not a tar")


def test_bytes_after_the_end_are_refused(store):
    store.refuses_bytes(tar(file("a")) + tar(file("hidden")), match="does not end")


def test_a_damaged_header_in_the_middle_is_refused(store):
    layer = bytearray(tar(file("a"), file("b")))
    layer[1024 + 10] ^= 0xFF  # the second header's name, so its checksum is wrong
    store.refuses_bytes(bytes(layer), match="does not end")


def test_what_is_no_archive_is_refused(store):
    store.refuses_bytes(b"hello" * 1000, match="not a tar archive")


def test_a_compressed_layer_is_refused(store):
    digest = store.release(tar(file("a")), media_type=LAYER_TYPE + "+gzip")
    with pytest.raises(UnpackRefused, match=r"media type .*gzip"):
        store.layout.unpack(digest, store.target)


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_digest_mismatch_leaves_nothing(store, part):
    digest = store.release(tar(file("a", b"content")))
    manifest = store.layout.manifest(digest)
    digests = {
        "manifest": digest,
        "config": manifest.config.digest,
        "layer": manifest.layers[0].digest,
    }
    path = store.blobs.path(digests[part])
    content = path.read_bytes()
    changed = content.replace(b"content", b"Content") if part == "layer" else content + b" "
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(ReleaseCorrupt, match=digests[part]):
        store.layout.unpack(digest, store.target)
    assert not store.target.exists()


@pytest.mark.parametrize("difference", [-1, 1])
def test_size_mismatch_is_refused_though_the_digest_is_right(store, difference):
    layer = store.blobs.put(LAYER_TYPE, tar(file("a")))
    config = store.blobs.put(CONFIG_TYPE, encode(image_config(SPEC, [])))
    wrong = layer.model_copy(update={"size": layer.size + difference})
    manifest = Manifest(schema_version=2, config=config, layers=[wrong])
    digest = store.blobs.put(MANIFEST_TYPE, encode(manifest)).digest
    with pytest.raises(ReleaseCorrupt, match=layer.digest):
        store.layout.unpack(digest, store.target)
    store.assert_nothing_left()


def test_unpacking_again_keeps_what_is_there(store):
    layer = tar(file("a"))
    before = (store.unpack(layer) / "a").stat()
    after = (store.unpack(layer) / "a").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("damage", ["content", "mode", "extra", "missing", "marker", "link"])
def test_a_changed_unpack_is_replaced(store, damage):
    layer = tar(file("a", b"good"), file("b"), symlink("s", "a"))
    root = store.unpack(layer)
    if damage == "content":
        (root / "a").write_bytes(b"evil")
    elif damage == "mode":
        (root / "a").chmod(0o4755)
    elif damage == "extra":
        (root / "extra").write_bytes(b"")
    elif damage == "missing":
        (root / "b").unlink()
    elif damage == "marker":
        (store.target / "unpacked.json").unlink()
    else:
        (root / "s").unlink()
        (root / "s").symlink_to("/etc/passwd")
    root = store.unpack(layer)
    assert sorted(p.name for p in root.iterdir()) == ["a", "b", "s"]
    assert (root / "a").read_bytes() == b"good"
    assert (root / "a").stat().st_mode & 0o7777 == 0o644
    assert (root / "s").readlink() == Path("a")


def test_what_a_killed_unpack_left_is_removed(store):
    left = store.target.parent / ".unpack-dead"
    (left / "rootfs").mkdir(parents=True)
    (left / "rootfs" / "half").write_bytes(b"")
    store.unpack(tar(file("a")))
    assert not left.exists()


def test_unpacking_at_once_gives_one_whole_tree(store):
    digest = store.release(tar(*(file(f"f{n}", os.urandom(2000)) for n in range(50))))
    roots: list[Path] = []
    threads = [
        threading.Thread(target=lambda: roots.append(store.layout.unpack(digest, store.target)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(roots) == 6
    assert len(list(roots[0].iterdir())) == 50


part = st.sampled_from(["a", "b", "c", "..", ".", "", "d.txt"])
path = st.lists(part, min_size=1, max_size=4).map("/".join)
entry = st.one_of(
    st.builds(file, path, st.binary(max_size=20), st.sampled_from([0o644, 0o755, 0o4755])),
    st.builds(directory, path),
    st.builds(symlink, path, path),
    st.builds(hardlink, path, path),
)


def tree(root: Path) -> set[Path]:
    return set(root.rglob("*"))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entry, max_size=8), st.integers(0, 4000), st.booleans())
def test_no_archive_reaches_outside(entries, position, flip):
    """Any archive is either unpacked wholly inside, or refused and leaves nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        layer = bytearray(tar(*entries))
        if flip:
            layer[position % len(layer)] ^= 0x55
        try:
            root = store.unpack(bytes(layer))
        except ReleaseError:
            store.assert_nothing_left()
            return
        inside = root.resolve()
        for found in tree(root):
            assert found.resolve(strict=True).is_relative_to(inside)
            assert found.lstat().st_mode & 0o7000 == 0
        assert {p.name for p in Path(scratch).iterdir()} == {"store", "work"}
