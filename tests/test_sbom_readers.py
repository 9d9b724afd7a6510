"""Readers of files that a stranger may have made: right on real ones, others are refused."""

import contextlib
import json
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sbom_harness import (
    AUDIT,
    CARGO_LOCK,
    audited,
    bill,
    elf,
    install_python,
    integrity,
    package_lock,
    wheel,
    write,
)

from models import lock_cargo, lock_npm, python_files
from models.lock_cargo import read_audit_list, read_cargo_lock
from models.lock_npm import read_package_lock
from models.package_names import sbom_doubts
from models.packages import hashes_of_integrity
from models.python_files import read_metadata, read_record, read_requirements
from models.sbom import MAX_COMPONENTS, Component, read_sbom
from models.strict_json import EvidenceError
from stores.sbom_files import read_bounded
from stores.sbom_python import read_wheel
from stores.sbom_rust import inflate, read_audited_binary

SECTION_SIZE = struct.pack("<HHH", 64, 3, 1)
"""End of an ELF header: the size of a section header, their number, and that of the names."""

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def document(**fields) -> bytes:
    return json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", **fields}).encode()


def part(**fields) -> dict:
    return {"type": "library", "name": "a", **fields}


# --- Bills of materials ---


def test_a_bill_with_nested_components_and_a_graph():
    sbom = read_sbom(
        document(
            serialNumber="urn:uuid:3E671687-395B-41F5-A30F-A58921A69B79",
            version=3,
            metadata={
                "timestamp": "2026-01-02T03:04:05+01:00",
                "component": part(name="app", hashes=[{"alg": "SHA-256", "content": "A" * 64}]),
            },
            components=[
                part(
                    name="outer",
                    **{"bom-ref": "o", "components": [part(name="inner", **{"bom-ref": "i"})]},
                ),
                part(name="f", type="file", scope="optional"),
            ],
            dependencies=[{"ref": "o", "dependsOn": ["i"]}],
            somethingNew=[1, 2],
        )
    )
    assert sbom.subject_digest == "sha256:" + "a" * 64
    assert [component.name for component in sbom.components] == ["outer", "inner", "f"]
    assert sbom.created_at.isoformat() == "2026-01-02T02:04:05+00:00"
    assert sbom.dependencies == {"o": ("i",)}
    assert [component.name for component in sbom.files] == ["f"]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"specVersion": "1.3"}, "specVersion"),
        ({"bomFormat": "SPDX"}, "bomFormat"),
        ({"components": [part(name="")]}, r"components\.0\.name"),
        ({"components": [part(version=1)]}, r"components\.0\.version"),
        ({"components": [part(scope="all")]}, "scope"),
        ({"components": [part(hashes=[{"alg": "SHA-256", "content": "ab"}])]}, "64 hex digits"),
        ({"components": [part(hashes=[{"alg": "CRC", "content": "ab"}])]}, "no hash algorithm"),
        (
            {"components": [part(hashes=[{"alg": "MD5", "content": c * 32} for c in "ab"])]},
            "two different values",
        ),
        ({"components": [part(**{"bom-ref": "x"})] * 2}, "occurs twice"),
        ({"dependencies": [{"ref": "x"}]}, "not in the bill"),
        ({"serialNumber": "1"}, "serialNumber"),
        ({"metadata": {"timestamp": "yesterday"}}, "timestamp"),
        ({"version": True}, "version"),
    ],
)
def test_a_bill_with_a_wrong_field_names_it(fields: dict, match: str):
    with pytest.raises(EvidenceError, match=match):
        read_sbom(document(**fields))


def test_a_bill_is_bounded():
    with pytest.raises(EvidenceError, match=f"more than {MAX_COMPONENTS}"):
        read_sbom(document(components=[part()] * (MAX_COMPONENTS + 1)))
    nested = part()
    for _ in range(20):
        nested = part(components=[nested])
    with pytest.raises(EvidenceError, match="nested"):
        read_sbom(document(components=[nested]))
    with pytest.raises(EvidenceError, match="occurs twice"):
        read_sbom(b'{"bomFormat": "CycloneDX", "bomFormat": "CycloneDX", "specVersion": "1.6"}')


# --- Names ---


def doubts(*components: Component) -> set[str]:
    return {doubt.code for doubt in sbom_doubts(components)}


def named(purl: str, name: str | None = None, version: str = "") -> Component:
    plain = purl.rpartition("/")[2].partition("@")[0]
    return Component("library", plain if name is None else name, version, purl)


@pytest.mark.parametrize(
    ("component", "codes"),
    [
        (named("pkg:pypi/requests@2.0"), set()),
        (named("pkg:npm/%40scope/pkg@1.0", "@scope/pkg", "1.0"), set()),
        (named("pkg:npm/%40scope/pkg@1.0", "pkg", "1.0"), set()),
        (named("pkg:pypi/zope-interface@1", "Zope.Interface"), set()),
        (named("requests@2.0"), {"malformed"}),
        (named("pkg:pypi/@2.0", "a"), {"malformed"}),
        (named("pkg:pypi/Requests@2.0"), {"not-canonical"}),
        (named("pkg:pypi/requests", "requests"), {"grammar"}),
        (named("pkg:pypi/-requests@1", "-requests"), {"grammar"}),
        (named("pkg:cargo/serde.json@1", "serde.json"), {"grammar"}),
        (named("pkg:cargo/evil/serde@1", "serde"), {"grammar"}),
        (named("pkg:npm/scope/pkg@1", "pkg"), {"grammar"}),
        (named("pkg:generic/a%20b@1", "a b"), {"grammar"}),
        (named("pkg:pypi/requests@2.0", "flask"), {"disagrees"}),
        (named("pkg:pypi/requests@2.0", version="1.0"), {"disagrees"}),
        (
            named("pkg:pypi/r%D0%B5quests@2.0", "r\u0435quests"),
            {"grammar", "mixed-script", "look-alike"},
        ),
        (Component("library", "\u0440\u0430\u0441"), {"look-alike"}),
        (Component("library", "\uff52equests"), {"mixed-script", "look-alike"}),
        (Component("library", "anything"), set()),
    ],
)
def test_a_name_that_is_not_what_it_seems_is_doubted(component: Component, codes: set[str]):
    assert doubts(component) == codes


@pytest.mark.parametrize(
    ("one", "other", "twins"),
    [
        ("requests", "requests", False),
        ("zope-interface", "zope.interface", False),
        ("urllib3", "urlllb3", True),
        ("modern", "modem", True),
        ("c0lors", "colors", True),
        ("flask", "django", False),
    ],
)
def test_two_names_that_look_alike_are_doubted(one: str, other: str, twins: bool):
    found = doubts(named(f"pkg:npm/{one}@1"), named(f"pkg:npm/{other}@1"))
    assert ("twin" in found) is twins
    assert "twin" not in doubts(named(f"pkg:npm/{one}@1"), named(f"pkg:gem/{other}@1"))


# --- Lock files ---


def test_a_cargo_lock_file():
    packages = {(p.name, p.version): p for p in read_cargo_lock(CARGO_LOCK.encode())}
    assert packages["libc", "0.2.150"].hashes == {"SHA-256": "a" * 64}
    git = packages["rand", "0.8.5"]
    assert git.vcs == "git+https://example.org/rand@0123456789abcdef0123456789abcdef01234567"
    assert packages["app", "0.1.0"].requires == (
        "pkg:cargo/libc@0.2.150",
        git.purl,
        "pkg:cargo/windows-sys@0.52.0",
    )


def test_a_cargo_lock_file_of_the_first_version():
    source = "registry+https://example.org/index"
    text = (
        f'[root]\nname = "app"\nversion = "0.1.0"\ndependencies = [\n "a 1.0.0 ({source})",\n]\n\n'
        f'[[package]]\nname = "a"\nversion = "1.0.0"\nsource = "{source}"\n\n'
        f'[metadata]\n"checksum a 1.0.0 ({source})" = "{"d" * 64}"\n'
    )
    first, app = read_cargo_lock(text.encode())
    assert first.hashes == {"SHA-256": "d" * 64}
    assert app.requires == ("pkg:cargo/a@1.0.0",)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("version = 3", "version = 9"), "version"),
        (("a" * 64, "a" * 63), "64 hex digits"),
        (('"libc",', '"missing",'), "no package of it"),
        (("version = 3", "a.b.c.d = 3"), "line 3 is not one that Cargo writes"),
        (("version = 3", "version = 3\nversion = 3"), "not TOML"),
        (("version = 3", "x = " + "[" * 5000), "line 3"),
        (('name = "app"', "name = 3"), "name"),
    ],
)
def test_a_cargo_lock_file_that_is_wrong(change: tuple[str, str], match: str):
    with pytest.raises(EvidenceError, match=match):
        read_cargo_lock(CARGO_LOCK.replace(*change).encode())


@pytest.mark.parametrize("version", [2, 3])
def test_a_package_lock(version: int):
    packages = {package.location: package for package in read_package_lock(package_lock(version))}
    scoped = packages["node_modules/@a/b"]
    assert (scoped.purl, scoped.scope) == ("pkg:npm/%40a/b@2.1.0", "optional")
    assert scoped.requires == ("pkg:npm/pad@2.0.0",)
    assert packages["node_modules/left"].requires == ("pkg:npm/pad@1.0.0",)
    assert packages["node_modules/left"].hashes == hashes_of_integrity(integrity("left"), what="x")
    assert len(packages["node_modules/left"].hashes["SHA-512"]) == 128
    assert packages["node_modules/pad"].scope == "excluded"
    assert "node_modules/tool" not in packages
    assert packages["packages/tool"].name == "tool"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"lockfileVersion": 1}, "lockfileVersion"),
        ({"packages": []}, "packages"),
        ({"packages": {"node_modules/a": {}}}, "version: missing"),
        ({"packages": {"node_modules/": {"version": "1"}}}, "names no package"),
        ({"packages": {"../a": {"version": "1"}}}, "no location"),
        ({"packages": {"a": {"version": "1", "integrity": "sha512-abc"}}}, "integrity"),
        ({"packages": {"a": {"version": "1", "integrity": "md9-YWJj"}}}, "integrity"),
    ],
)
def test_a_package_lock_that_is_wrong(fields: dict, match: str):
    with pytest.raises(EvidenceError, match=match):
        read_package_lock(json.dumps({"lockfileVersion": 3, "packages": {}, **fields}).encode())


def test_a_requirements_file_with_hashes():
    one, two = "a" * 64, "B" * 64
    text = (
        f"--index-url https://example.org/simple\n# comment\n\n"
        f"Zope.Interface==6.0 \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{two}\n"
        f"    # via something\n"
        f"other==1.0 ; python_version > '3' --hash=sha256:{one}  # why\n"
    )
    zope, other = read_requirements(text.encode())
    assert (zope.purl, zope.hashes) == ("pkg:pypi/zope-interface@6.0", {})
    assert zope.any_of == (f"sha256:{one}", f"sha256:{two.lower()}")
    assert (other.hashes, other.scope) == ({"SHA-256": one}, "optional")


@pytest.mark.parametrize(
    "line",
    [
        "flask",
        "flask>=1 --hash=sha256:" + "a" * 64,
        "flask==1.*  --hash=sha256:" + "a" * 64,
        "flask==1,!=2 --hash=sha256:" + "a" * 64,
        "flask==1",
        "flask==1 --hash=sha256:ab",
        "flask==1 --hash=md5:" + "a" * 32,
        "-r other.txt",
        "-e .",
        "./local",
        "flask @ https://example.org/flask.zip",
    ],
)
def test_a_requirement_that_pins_nothing_is_refused(line: str):
    with pytest.raises(EvidenceError, match="line 2"):
        read_requirements(f"# first\n{line}\n".encode())


# --- Binaries ---


def test_a_binary_tells_what_is_in_it(tmp_path: Path):
    path = write(tmp_path, "app", audited())
    app, libc, build = read_audited_binary(path, "app")
    assert (app.purl, app.requires) == ("pkg:cargo/app@0.1.0", ("pkg:cargo/libc@0.2.150",))
    assert (libc.origin, libc.scope, build.scope) == ("binary", "required", "excluded")


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh", b"\x7fELF", elf(None), elf(b"x", b".text")])
def test_a_file_without_such_a_list(tmp_path: Path, content: bytes):
    assert read_audited_binary(write(tmp_path, "app", content), "app") is None


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (elf(b"not zlib"), "not zlib"),
        (elf(zlib.compress(b"[]")), "valid"),
        (elf(zlib.compress(b"{}")[:-3]), "cut off"),
        (elf(zlib.compress(b"{}") + b"x"), "followed"),
        (elf(zlib.compress(bytes(9 * 1024**2))), "limit"),
        (audited({"packages": [{**AUDIT["packages"][1], "dependencies": [1]}]}), "depends on no"),
        (audited()[:-70], "damaged"),
        (audited().replace(SECTION_SIZE, bytes(2) + SECTION_SIZE[2:]), "damaged"),
    ],
)  # fmt: skip
def test_a_list_in_a_binary_that_is_wrong(tmp_path: Path, content: bytes, match: str):
    with pytest.raises(EvidenceError, match=match):
        read_audited_binary(write(tmp_path, "app", content), "app")


# --- Wheels ---


def test_a_wheel_made_to_harm_is_refused(tmp_path: Path):
    cases = [
        ("leads outside", {"../evil.py": b"x"}),
        ("leads outside", {"/etc/evil.py": b"x"}),
        ("leads outside", {"..\\evil.py": b"x"}),
        ("unpacks to far too much", {"zeros": bytes(8 * 1024**2)}),
        ("2 METADATA files", {"other-1.dist-info/METADATA": b"Name: other\nVersion: 1\n"}),
    ]
    for number, (match, more) in enumerate(cases):
        path = wheel(tmp_path / f"{number}.whl", **more)
        with pytest.raises(EvidenceError, match=match):
            read_wheel(path, source="x.whl", sha256="0" * 64)


def test_a_zip_with_too_many_entries_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "many.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(30):
            archive.writestr(f"f{number}", b"")
    monkeypatch.setattr("stores.sbom_python.WHEEL_ENTRIES", 20)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(EvidenceError, match="more than 20 entries"):
        read_wheel(path, source="x.whl", sha256="0" * 64)


def test_only_regular_files_are_read(tmp_path: Path):
    write(tmp_path, "file", "12345")
    (tmp_path / "link").symlink_to("file")
    for name, limit in (("file", 4), ("link", 10), (".", 10), ("missing", 10)):
        with pytest.raises(EvidenceError):
            read_bounded(tmp_path / name, limit=limit)
    assert read_bounded(tmp_path / "file", limit=5) == b"12345"


# --- Whatever it is, it is read or refused ---

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
_WORDS = st.sampled_from(
    ["name", "version", "packages", "components", "type", "purl", "hashes", "alg", "content",
     "SHA-256", "bom-ref", "dependencies", "ref", "dependsOn", "lockfileVersion", "integrity",
     "sha512-", "node_modules/a", "pkg:pypi/a@1", "", "\ud800", "library", "1.6", "CycloneDX"]
)  # fmt: skip
_LIKELY = st.recursive(
    _WORDS | st.integers(-1, 3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=5),
    max_leaves=20,
)


def tolerates(read, data: bytes) -> None:
    """Read or refused: any other exception fails the test."""
    with contextlib.suppress(EvidenceError):
        read(data)


def mutated(original: bytes):
    """The bytes with one stretch replaced by others."""
    places = st.integers(0, len(original))
    return st.builds(
        lambda at, cut, new: original[:at] + new + original[at + cut :],
        places,
        st.integers(0, 40),
        st.binary(max_size=12) | st.sampled_from([b'"', b"\n", b"[", b"{", b"\xff", b"\0", b"==" ]),
    )  # fmt: skip


@FUZZ
@given(value=_JSON | _LIKELY)
def test_any_json_is_read_or_refused(value: object):
    data = json.dumps(value).encode()
    readers = (read_sbom, read_package_lock, lambda each: read_audit_list(each, "x"))
    for read in readers:
        tolerates(read, data)
    if isinstance(value, dict):
        tolerates(read_sbom, document(**{k: v for k, v in value.items() if k.isidentifier()}))
        tolerates(read_sbom, document(components=[value], metadata={"component": value}))
        lock = {"lockfileVersion": 3, "packages": {"node_modules/a": value, **value}}
        tolerates(read_package_lock, json.dumps(lock).encode())


@FUZZ
@given(
    data=st.one_of(st.binary(max_size=300), mutated(CARGO_LOCK.encode()), mutated(package_lock()))
)
def test_any_bytes_are_read_or_refused(data: bytes):
    for read in (
        read_sbom,
        read_cargo_lock,
        read_package_lock,
        read_requirements,
        lambda each: read_record(each, "RECORD"),
        lambda each: read_metadata(each, "METADATA"),
        lambda each: inflate(each, "x"),
    ):
        tolerates(read, data)


_REQUIREMENTS = (
    f"a==1.0 \\\n --hash=sha256:{'a' * 64}\n# x\nb==2 --hash=sha512:{'b' * 128}\n".encode()
)
_METADATA = b"Name: demo\nVersion: 1.0\nRequires-Dist: a (>=1); extra == 'x'\n\nText"
_RECORD = b'"a,b.py",sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\nc.py,,\n'


@FUZZ
@given(st.data())
def test_damaged_files_are_read_or_refused(tmp_path: Path, data):
    tolerates(read_requirements, data.draw(mutated(_REQUIREMENTS)))
    tolerates(lambda each: read_record(each, "RECORD"), data.draw(mutated(_RECORD)))
    metadata = data.draw(mutated(_METADATA))
    tolerates(lambda each: list(python_files.required_names(read_metadata(each, "x"))), metadata)
    for name, original in (("a.whl", _wheel(tmp_path)), ("app", audited())):
        path = write(tmp_path, name, data.draw(mutated(original)))
        if name == "app":
            tolerates(lambda _: read_audited_binary(path, "app"), b"")  # noqa: B023
        else:
            tolerates(lambda _: read_wheel(path, source="a.whl", sha256="0" * 64), b"")  # noqa: B023


def _wheel(tmp_path: Path) -> bytes:
    return wheel(tmp_path / "original" / "a.whl").read_bytes()


@FUZZ
@given(data=st.data())
def test_a_damaged_bill_is_read_or_refused(tmp_path: Path, data):
    root = tmp_path / "release"
    if not root.exists():
        install_python(root, "demo", "1.0")
        write(root, "run", "x")
    tolerates(lambda each: sbom_doubts(read_sbom(each).components), data.draw(mutated(bill(root))))


def test_hostile_sizes_are_refused_at_once():
    """Each would take minutes, or all memory, in a reader without limits."""
    for read, data in (
        (read_cargo_lock, b"a" * (lock_cargo.LOCK_BYTES + 1)),
        (read_cargo_lock, b"a" + b".a" * 100_000 + b" = 1"),
        (read_package_lock, b"[" * 100_000),
        (read_package_lock, b" " * (lock_npm.LOCK_BYTES + 1)),
        (read_requirements, b"a==1 " * 100_000),
        (read_requirements, b"a \\\n" * 100_000),
        (lambda each: read_metadata(each, "x"), b"A: b\n" * 400_000),
        (lambda each: read_record(each, "x"), b'"' + b"a\n" * 20_000_000),
    ):
        with pytest.raises(EvidenceError):
            read(data)
