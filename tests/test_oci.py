"""The release store: deterministic bytes, digests that are checked, an index that survives."""

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.release import ReleaseSpec, image_config, spec_of_config
from stores.oci import (
    ImageLayout,
    ReleaseCorrupt,
    ReleaseError,
    ReleaseNotFound,
    VersionTaken,
)

ENTRYPOINT = ["python3", "service.py"]


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "store")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    directory = tmp_path / "program"
    (directory / "data").mkdir(parents=True)
    (directory / "service.py").write_text("print('hello')\n")
    (directory / "data" / "prices.json").write_text("{}\n")
    (directory / "run.sh").write_text("#!/bin/sh\n")
    (directory / "run.sh").chmod(0o755)
    (directory / "latest").symlink_to("data/prices.json")
    return directory


def put(layout: ImageLayout, program: Path, version: str = "1.0.0") -> str:
    return layout.put_release("web", version, program, entrypoint=ENTRYPOINT)


def blob(layout: ImageLayout, digest: str) -> Path:
    return layout._root / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_same_directory_gives_same_digest_whatever_times_and_owners(tmp_path, program):
    first = put(ImageLayout(tmp_path / "a"), program)
    for path in program.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (program / "service.py").chmod(0o600)
    (program / "__pycache__").mkdir()
    (program / "__pycache__" / "service.pyc").write_bytes(os.urandom(64))
    assert put(ImageLayout(tmp_path / "b"), program) == first


@pytest.mark.parametrize("change", ["content", "name", "executable", "link", "entrypoint"])
def test_what_matters_changes_the_digest(tmp_path, program, change):
    first = put(ImageLayout(tmp_path / "a"), program)
    entrypoint = list(ENTRYPOINT)
    if change == "content":
        (program / "service.py").write_text("print('hallo')\n")
    elif change == "name":
        (program / "data").rename(program / "date")
        (program / "latest").unlink()
        (program / "latest").symlink_to("date/prices.json")
    elif change == "executable":
        (program / "service.py").chmod(0o755)
    elif change == "link":
        (program / "latest").unlink()
        (program / "latest").symlink_to("service.py")
    else:
        entrypoint.append("--fast")
    layout = ImageLayout(tmp_path / "b")
    assert layout.put_release("web", "1.0.0", program, entrypoint=entrypoint) != first


def test_put_is_idempotent_and_lists_once(layout, program):
    digest = put(layout, program)
    assert put(layout, program) == digest
    assert [(r.name, r.version, r.digest) for r in layout.list()] == [("web", "1.0.0", digest)]


def test_layout_on_disk_is_an_oci_image_layout(layout, program):
    digest = put(layout, program)
    root = layout._root
    assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((root / "index.json").read_text())["manifests"]
    assert entry["digest"] == digest
    assert entry["size"] == blob(layout, digest).stat().st_size
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "web:1.0.0"}
    manifest = json.loads(blob(layout, digest).read_bytes())
    (layer,) = manifest["layers"]
    config = json.loads(blob(layout, manifest["config"]["digest"]).read_bytes())
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"]["Entrypoint"] == ENTRYPOINT


def test_a_version_is_never_given_to_another_digest(layout, program):
    digest = put(layout, program)
    (program / "service.py").write_text("print('changed')\n")
    with pytest.raises(VersionTaken, match=r"version: web:1\.0\.0"):
        put(layout, program)
    assert layout.resolve("web:1.0.0") == digest


def test_resolve_takes_name_and_digest(layout, program):
    digest = put(layout, program)
    assert layout.resolve("web:1.0.0") == layout.resolve(digest) == digest


@pytest.mark.parametrize(
    "reference",
    ["web:2", "web", "", "sha256:12", "sha256:../../index.json", "sha256:" + "0" * 64],
)
def test_resolve_refuses_what_is_not_there(layout, program, reference):
    put(layout, program)
    with pytest.raises(ReleaseNotFound):
        layout.resolve(reference)


def test_describe_gives_back_what_release_json_says(layout, program):
    description = {
        "entrypoint": ["python3", "-B", "service.py"],
        "env": {"MODE": "a=b"},
        "health": {"deadline_ms": 3000},
        "stop_grace_ms": 250,
    }
    (program / "release.json").write_text(json.dumps(description))
    spec = layout.describe(layout.put_release("web", "1", program))
    assert (spec.name, spec.version, spec.entrypoint) == ("web", "1", description["entrypoint"])
    assert (spec.env, spec.stop_grace_ms) == ({"MODE": "a=b"}, 250)
    assert spec.health.deadline_ms == 3000


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "Web"}, "name"),
        ({"name": "web\n"}, "name"),
        ({"version": ""}, "version"),
        ({"version": "1:2"}, "version"),
        ({"entrypoint": []}, "entrypoint"),
        ({"entrypoint": ["/bin/sh"]}, "entrypoint"),
        ({"entrypoint": ["../sh"]}, "entrypoint"),
        ({"entrypoint": ["a\0b"]}, "entrypoint"),
        ({"env": {"PORT": "80"}}, "env"),
        ({"env": {"CHAINRING_HOST": "x"}}, "env"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"health": {"deadline_ms": 0}}, "health.deadline_ms"),
        ({"health": {"unhealthy_after": 9, "restart_after": 3}}, "health"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_description_names_the_field_and_changes_nothing(layout, program, values, field):
    name, version = values.pop("name", "web"), values.pop("version", "1")
    description = {"entrypoint": ENTRYPOINT, **values}
    (program / "release.json").write_text(json.dumps(description))
    with pytest.raises(ReleaseError, match=rf"(^|\s){field}\b"):
        layout.put_release(name, version, program)
    assert not layout._root.exists()


def test_missing_entrypoint_and_missing_program_are_named(layout, program):
    with pytest.raises(ReleaseError, match="entrypoint: missing"):
        layout.put_release("web", "1", program)
    with pytest.raises(ReleaseError, match=r"entrypoint: bin/x is not in"):
        layout.put_release("web", "1", program, entrypoint=["bin/x"])


def test_release_json_with_a_repeated_key_is_refused(layout, program):
    (program / "release.json").write_text('{"entrypoint": ["a"], "entrypoint": ["b"]}')
    with pytest.raises(ReleaseError, match="a key occurs twice"):
        layout.put_release("web", "1", program)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "nowhere"])
def test_packing_refuses_links_that_lead_outside(layout, program, target):
    (program.parent / "outside").write_text("secret")
    (program / "bad").symlink_to(target)
    with pytest.raises(ReleaseError, match="the link bad leads"):
        put(layout, program)
    assert layout.list() == []


def test_packing_refuses_pipes_setuid_and_emptiness(layout, program, tmp_path):
    os.mkfifo(program / "pipe")
    with pytest.raises(ReleaseError, match="pipe is neither"):
        put(layout, program)
    (program / "pipe").unlink()
    (program / "run.sh").chmod(0o4755)
    with pytest.raises(ReleaseError, match=r"run\.sh is setuid"):
        put(layout, program)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReleaseError, match="is empty"):
        put(layout, tmp_path / "empty")


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone"])
def test_verify_finds_damage_in_every_blob(layout, program, part, damage):
    digest = put(layout, program)
    manifest = layout.manifest(digest)
    assert layout.verify(digest) > 0
    digests = {
        "manifest": digest,
        "config": manifest.config.digest,
        "layer": manifest.layers[0].digest,
    }
    path = blob(layout, digests[part])
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        del content[-1]
    else:
        content += b"\0"
    path.write_bytes(content)
    if damage == "gone":
        path.unlink()
    with pytest.raises((ReleaseCorrupt, ReleaseNotFound)):
        layout.verify(digest)


def test_a_damaged_index_is_an_error_and_is_not_overwritten(layout, program):
    put(layout, program)
    index = layout._root / "index.json"
    index.write_text("{")
    with pytest.raises(ReleaseCorrupt):
        layout.list()
    with pytest.raises(ReleaseCorrupt):
        put(layout, program, "2")
    assert index.read_text() == "{"


def test_entries_of_other_tools_in_the_index_are_kept(layout, program):
    put(layout, program)
    index = layout._root / "index.json"
    value = json.loads(index.read_text())
    other = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:" + "1" * 64,
        "size": 3,
        "artifactType": "application/vnd.example",
    }
    value["manifests"].append(other)
    index.write_text(json.dumps(value))
    put(layout, program, "2")
    assert other in json.loads(index.read_text())["manifests"]
    assert [release.version for release in layout.list()] == ["1.0.0", "2"]


def test_writers_at_once_lose_no_entry(layout, program):
    versions = [f"1.{n}" for n in range(12)]
    threads = [threading.Thread(target=put, args=(layout, program, v)) for v in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.version for r in layout.list()) == sorted(versions)


def test_a_failed_write_leaves_no_partial_blob(layout, program, monkeypatch):
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        put(layout, program)
    monkeypatch.undo()
    assert list((layout._root / "blobs" / "sha256").iterdir()) == []
    assert layout.list() == []


printable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(max_examples=50, deadline=None)
@given(
    entrypoint=st.lists(printable.filter(bool), max_size=4),
    env=st.dictionaries(st.from_regex(r"[A-Za-z_]{1,8}", fullmatch=True), printable, max_size=4),
)
def test_image_config_round_trip(entrypoint, env):
    env = {k: v for k, v in env.items() if k not in ("PATH", "PORT")}
    spec = ReleaseSpec(name="a", version="1", entrypoint=["run", *entrypoint], env=env)
    assert spec_of_config(json.loads(json.dumps(image_config(spec, [])))) == spec
