"""The bill of materials of a release: made, read back, and held against the release."""

import json
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packageurl import PackageURL
from packaging.utils import canonicalize_name
from sbom_harness import (
    AUDIT,
    CARGO_LOCK,
    DIGEST,
    audited,
    bill,
    install_node,
    install_python,
    package_lock,
    sbom_of,
    wheel,
    write,
)

from models.lock_cargo import CRATE
from models.sbom import HASHED_PROPERTY, LINK_PROPERTY, ORIGIN_PROPERTY
from models.sbom_compare import compare
from models.strict_json import EvidenceError
from stores.sbom import ALTERED_PROPERTY, BINARY, LEFT_OUT_PROPERTY, LockSource
from stores.sbom_contents import read_contents
from stores.unpack import Limits

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARGO = LockSource("Cargo.lock", CARGO_LOCK.encode())


def purls(sbom) -> list[str]:
    return sorted(component.purl for component in sbom.packages)


def by_purl(sbom) -> dict:
    return {component.purl: component for component in sbom.packages}


def origins(sbom) -> dict[str, str]:
    return {c.purl: c.property_values(ORIGIN_PROPERTY)[0] for c in sbom.packages}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "release"
    path.mkdir()
    return path


# --- What is in it ---


def test_a_release_of_plain_scripts_lists_its_files(root: Path):
    write(root, "run.sh", "#!/bin/sh\n")
    write(root, "data/ä.txt", "x")
    (root / "latest").symlink_to("run.sh")
    sbom = sbom_of(root)
    assert sbom.subject_digest == DIGEST
    assert sbom.subject.purl == f"pkg:oci/catalog@{DIGEST}?tag=1.0.0"
    assert sbom.packages == ()
    assert [component.name for component in sbom.files] == ["data/ä.txt", "latest", "run.sh"]
    assert all(len(component.hashes["SHA-256"]) == 64 for component in sbom.files)
    assert sbom.files[1].property_values(LINK_PROPERTY) == ("run.sh",)
    assert compare(sbom, read_contents(root), digest=DIGEST).covers


def test_the_same_release_gives_the_same_bytes(root: Path, tmp_path: Path):
    other = tmp_path / "other"
    for place, order in ((root, (1, 2, 3)), (other, (3, 2, 1))):
        for number in order:
            write(place, f"file-{number}", str(number))
            install_python(place, f"part-{number}", "1.0", requires=("part-1", "part-2>=1"))
    assert bill(root) == bill(other)
    assert json.loads(bill(root))["serialNumber"].startswith("urn:uuid:")
    write(other, "file-1", "changed")
    assert bill(root) != bill(other)


def test_installed_python_packages_own_what_record_says(root: Path):
    install_python(root, "Zope.Interface", "6.0", requires=("setuptools", "other-Part; extra=='x'"))
    install_python(root, "other_part", "1.0")
    write(root, "lib/other_part.py", "raise SystemExit  # changed\n")
    write(root, "lib/stranger.py", "")
    sbom = sbom_of(root)
    zope = by_purl(sbom)["pkg:pypi/zope-interface@6.0"]
    assert purls(sbom) == ["pkg:pypi/other-part@1.0", "pkg:pypi/zope-interface@6.0"]
    assert zope.property_values(HASHED_PROPERTY)[0].startswith("installed files")
    assert sbom.dependencies[zope.bom_ref] == ("pkg:pypi/other-part@1.0",)
    assert sbom.dependencies["release"] == (zope.bom_ref,)
    loose = {component.name: component for component in sbom.files}
    assert set(loose) == {"lib/other_part.py", "lib/stranger.py"}
    assert loose["lib/other_part.py"].property_values(ALTERED_PROPERTY)


def test_a_record_cannot_claim_files_outside_or_without_a_hash(root: Path):
    install_python(root, "demo", "1.0")
    write(root, "lib/evil.py", "x")
    record = root / "lib/demo-1.0.dist-info/RECORD"
    extra = "evil.py,,\n../../../etc/passwd,,\n/etc/passwd,,\n../lib/evil.py,md5=abc,\n"
    record.write_text(record.read_text() + extra)
    assert [component.name for component in sbom_of(root).files] == ["lib/evil.py"]


def test_two_copies_of_a_package_are_one_component_unless_they_differ(root: Path):
    for site in ("a", "b", "c"):
        install_python(root, "demo", "1.0", site=site)
    assert purls(sbom_of(root)) == ["pkg:pypi/demo@1.0"]
    write(root, "c/demo-1.0.dist-info/METADATA", "Name: demo\nVersion: 1.0\nX: other\n")
    sbom = sbom_of(root)
    assert purls(sbom) == ["pkg:pypi/demo@1.0"] * 2
    assert len({component.bom_ref for component in sbom.packages}) == 2
    assert compare(sbom, read_contents(root), digest=DIGEST).covers


def test_a_wheel_is_a_package_with_the_hash_of_its_file(root: Path):
    path = wheel(root / "wheels" / "demo-1.0-py3-none-any.whl")
    sbom = sbom_of(root)
    assert origins(sbom) == {"pkg:pypi/demo@1.0": "archive"}
    assert sbom.files == ()
    assert (
        sbom.packages[0].hashes["SHA-256"]
        == read_contents(root).files[str(path.relative_to(root))].sha256
    )


def test_the_binary_tells_what_the_lock_file_overstates(root: Path):
    write(root, "app", audited())
    sbom = sbom_of(root, CARGO)
    assert origins(sbom) == {
        "pkg:cargo/app@0.1.0": "binary",
        "pkg:cargo/libc@0.2.150": "binary",
        "pkg:cargo/cc@1.0.1": "binary",
    }
    libc = by_purl(sbom)["pkg:cargo/libc@0.2.150"]
    assert libc.hashes == {"SHA-256": "a" * 64}
    assert libc.property_values(HASHED_PROPERTY) == (CRATE,)
    app = by_purl(sbom)["pkg:cargo/app@0.1.0"]
    assert app.hashes == sbom.files[0].hashes
    assert app.property_values(HASHED_PROPERTY) == (BINARY,)
    assert by_purl(sbom)["pkg:cargo/cc@1.0.1"].scope == "excluded"
    assert [component.name for component in sbom.files] == ["app"]
    assert {"name": LEFT_OUT_PROPERTY, "value": "3"} in json.loads(bill(root, CARGO))["metadata"][
        "properties"
    ]


def test_without_such_a_binary_the_lock_file_is_all_there_is(root: Path):
    write(root, "app", b"\x7fELF nothing else")
    sbom = sbom_of(root, CARGO)
    assert set(origins(sbom).values()) == {"lock"}
    rand = next(component for component in sbom.packages if "0.8.5" in component.version)
    assert PackageURL.from_string(rand.purl).qualifiers["vcs_url"].endswith("/rand@" + COMMIT)
    assert rand.hashes == {}
    found = compare(sbom, read_contents(root), digest=DIGEST)
    assert (found.covers, found.overstates, found.unconfirmed_packages.count) == (True, False, 4)


def test_installed_node_packages_and_their_lock_file(root: Path):
    write(root, "package-lock.json", package_lock())
    install_node(root, "left", "1.2.0")
    install_node(root, "pad", "1.0.0", under="node_modules/left/")
    install_node(root, "@a/b", "2.1.0")
    sbom = sbom_of(root)
    assert origins(sbom) == {
        "pkg:npm/left@1.2.0": "installed",
        "pkg:npm/pad@1.0.0": "installed",
        "pkg:npm/%40a/b@2.1.0": "installed",
    }
    left = by_purl(sbom)["pkg:npm/left@1.2.0"]
    assert sbom.dependencies[left.bom_ref] == ("pkg:npm/pad@1.0.0",)
    assert [component.name for component in sbom.files] == ["package-lock.json"]
    assert compare(sbom, read_contents(root), digest=DIGEST).covers


def test_the_environment_of_this_project(tmp_path: Path):
    """Against the standard library's own look at it."""
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    root = tmp_path / "release" / "site-packages"
    for info in site.glob("*.dist-info"):
        for name in ("METADATA", "RECORD"):
            if (info / name).is_file():
                write(root, f"{info.name}/{name}", (info / name).read_bytes())
    sbom = sbom_of(tmp_path / "release")
    expected = {
        f"pkg:pypi/{canonicalize_name(each.metadata['Name'])}@{each.version}"
        for each in distributions(path=[str(root)])
    }
    assert len(expected) > 50
    assert {purl.replace("%2B", "+") for purl in purls(sbom)} == expected
    assert all(component.hashes for component in sbom.packages)
    assert "pkg:pypi/pydantic-core" in " ".join(
        sbom.dependencies[next(purl for purl in purls(sbom) if "/pydantic@" in purl)]
    )


# --- What is refused ---


def test_a_release_beyond_the_limits_has_no_bill(root: Path):
    for number in range(4):
        write(root, f"f{number}", "xxxx")
    for limits in (Limits(entries=3), Limits(bytes=15)):
        with pytest.raises(EvidenceError, match="release: more than"):
            read_contents(root, limits)
    with pytest.raises(EvidenceError, match="not a directory"):
        read_contents(root / "missing")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("Cargo.lock", b"[[package]]\nname = 3", "Cargo.lock"),
        ("web/package-lock.json", b"{}", "lockfileVersion"),
        ("requirements.txt", b"flask==1.0 --hash=sha256:zz", "line 1"),
        ("x.dist-info/METADATA", b"Name: a\nName: b\nVersion: 1", "Name"),
        ("node_modules/a/package.json", b'{"name": "a"}', "version"),
        ("a.whl", b"not a zip", "not a zip"),
    ],
)
def test_what_should_describe_packages_and_cannot_be_read_stops_it(
    root: Path, name: str, content: bytes, match: str
):
    write(root, name, content)
    with pytest.raises(EvidenceError, match=match):
        bill(root)


def test_an_unknown_lock_file_is_refused(root: Path):
    write(root, "run", "x")
    with pytest.raises(EvidenceError, match=r"yarn\.lock"):
        bill(root, LockSource("yarn.lock", b""))


def test_requirements_that_pin_nothing_are_a_plain_file(root: Path):
    write(root, "requirements.txt", "flask>=1\n")
    assert [component.name for component in sbom_of(root).files] == ["requirements.txt"]


# --- The bill against the release ---


@pytest.fixture
def release(root: Path) -> Path:
    install_python(root, "demo", "1.0")
    install_python(root, "other", "2.0")
    write(root, "app", audited())
    write(root, "run.sh", "x")
    return root


def test_what_one_side_lacks_is_named(release: Path):
    sbom = sbom_of(release)
    install_python(release, "added", "3.0")
    write(release, "new.txt", "x")
    write(release, "run.sh", "changed")
    for path in (release / "lib").glob("other*"):
        for file in [path] if path.is_file() else list(path.iterdir()):
            file.unlink()
    found = compare(sbom, read_contents(release), digest=DIGEST)
    assert found.unlisted_packages.names == ("pkg:pypi/added@3.0",)
    assert found.absent_packages.names == ("pkg:pypi/other@2.0",)
    assert found.altered_files.names == ("run.sh",)
    assert "new.txt" in found.unlisted_files.names
    assert "lib/added.py" in found.unlisted_files.names
    assert not found.covers
    assert found.overstates
    assert "package of the release is not in the SBOM: pkg:pypi/added@3.0" in found.reasons()


def test_another_release_s_bill_covers_nothing(release: Path):
    found = compare(sbom_of(release), read_contents(release), digest="sha256:" + "6" * 64)
    assert not found.subject_matches
    assert not found.covers
    assert found.reasons() == ["the SBOM is about another digest"]


def test_a_package_that_was_changed_with_its_record_is_altered(release: Path):
    sbom = sbom_of(release)
    install_python(release, "demo", "1.0", requires=("more",))
    found = compare(sbom, read_contents(release), digest=DIGEST)
    assert found.altered_packages.names == ("pkg:pypi/demo@1.0",)
    assert not found.covers


def test_a_crate_missing_from_the_bill_is_named(release: Path):
    sbom = sbom_of(release)
    openssl = {"name": "openssl", "version": "0.10.1", "source": "registry"}
    more = {**AUDIT, "packages": [*AUDIT["packages"], openssl]}
    write(release, "app", audited(more))
    found = compare(sbom, read_contents(release), digest=DIGEST)
    assert found.unlisted_packages.names == ("pkg:cargo/openssl@0.10.1",)
    assert found.altered_files.names == ("app",)


def test_a_bill_from_the_lock_file_alone_overstates(root: Path):
    write(root, "app", b"")
    sbom = sbom_of(root, CARGO)
    write(root, "app", audited())
    found = compare(sbom, read_contents(root), digest=DIGEST)
    assert found.absent_packages.count == 3
    assert any("windows-sys" in name for name in found.absent_packages.names)
    assert found.unlisted_packages.names == ("pkg:cargo/app@0.1.0", "pkg:cargo/cc@1.0.1")
