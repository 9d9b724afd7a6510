"""The real oras finds and pulls what we attach in a real registry, and we read what it attaches."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop_tools import Tools, needs
from registry_harness import REGISTRY, Registry, repository
from signing_harness import World

from models.bundle import MEDIA_TYPE
from models.statement import PROVENANCE, SBOM, SIGNATURE, write_statement
from stores.blobs import ReleaseCorrupt
from stores.evidence_archive import digest_of
from stores.http_registry import HttpRepository
from stores.oci import ImageLayout
from stores.release_copy import pull_release, push_release

pytestmark = [
    needs("oras"),
    pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed"),
]
WORLD = World()


class Shared:
    """One release with evidence in a registry, seen by us and by oras."""

    def __init__(self, home: Path, registry: Registry) -> None:
        self.home = home
        self.tools = Tools(home)
        self.url = registry.url
        self.name = f"{registry.url.removeprefix('http://')}/chainring/web"
        self.ours: HttpRepository = repository(registry.url)
        self.layout = ImageLayout(home / "layout")
        program = home / "program"
        program.mkdir()
        (program / "serve").write_text("program")
        self.digest = self.layout.put_release("web", "1.0.0", program, entrypoint=["serve"])
        self.bundles = {kind: self.bundle(kind) for kind in (SIGNATURE, PROVENANCE)}
        for kind, content in self.bundles.items():
            self.layout.attach(self.digest, content, kind)
        push_release(self.layout, self.ours, self.digest)

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.digest}"

    def bundle(self, kind: str) -> bytes:
        return WORLD.bundle(write_statement([("web", self.digest)], kind, {}))

    def discovered(self) -> list[dict]:
        """What oras lists as referrers of the release."""
        said = self.tools.must(
            *("oras", "discover", "--plain-http", "--format", "json", self.reference)
        )
        found = json.loads(said)
        return found.get("referrers") or found.get("manifests") or []

    def attach_by_oras(self, content: bytes, kind: str = MEDIA_TYPE) -> str:
        (self.home / "made.json").write_bytes(content)
        return self.tools.must(
            *("oras", "attach", "--plain-http", "--artifact-type", kind),
            *("--format", "json", self.reference, f"made.json:{kind}"),
        )


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    registry = Registry(tmp_path / "registry")
    try:
        yield Shared(tmp_path, registry)
    finally:
        registry.kill()


def test_oras_discovers_and_fetches_what_we_attached(shared: Shared) -> None:
    found = shared.discovered()
    ours = {each.digest for each in shared.ours.referrers(shared.digest)}
    assert {each["digest"] for each in found} == ours and len(ours) == 2
    assert {each["artifactType"] for each in found} == {MEDIA_TYPE}
    fetched = set()
    for each in found:
        manifest = json.loads(
            shared.tools.must(
                *("oras", "manifest", "fetch", "--plain-http", f"{shared.name}@{each['digest']}")
            )
        )
        assert manifest["subject"]["digest"] == shared.digest
        layer = manifest["layers"][0]["digest"]
        shared.tools.must(
            *("oras", "blob", "fetch", "--plain-http", "--output", "bundle.json"),
            f"{shared.name}@{layer}",
        )
        fetched.add((shared.home / "bundle.json").read_bytes())
    assert fetched == set(shared.bundles.values())


def test_a_copy_by_oras_with_its_referrers_is_a_release_with_its_evidence(shared: Shared) -> None:
    copy = f"{shared.url.removeprefix('http://')}/mirror/web"
    shared.tools.must(
        *("oras", "copy", "--recursive", "--from-plain-http", "--to-plain-http"),
        *(f"{shared.name}:1.0.0", f"{copy}:1.0.0"),
    )
    mirror = HttpRepository(shared.ours._client, "mirror/web")
    other = ImageLayout(shared.home / "other")
    assert pull_release(mirror, other, "web:1.0.0") == shared.digest
    assert sorted(other.evidence(shared.digest)) == sorted(shared.bundles.values())


def test_we_read_what_oras_attached_and_neither_loses_the_others(shared: Shared) -> None:
    theirs = shared.bundle(SBOM)
    shared.attach_by_oras(theirs)
    assert theirs in shared.ours.evidence(shared.digest)
    assert len(shared.ours.evidence(shared.digest)) == len(shared.discovered()) == 3
    late = WORLD.bundle(write_statement([("web", shared.digest)], SIGNATURE, {"late": True}))
    shared.ours.attach(shared.digest, late, SIGNATURE)
    assert {theirs, late} < set(shared.ours.evidence(shared.digest))
    assert len(shared.discovered()) == 4, "what oras attached is still listed for oras"
    other = ImageLayout(shared.home / "other")
    pull_release(shared.ours, other, shared.digest)
    assert theirs in other.evidence(shared.digest)


def test_what_oras_attached_of_another_kind_is_listed_and_is_no_evidence(shared: Shared) -> None:
    shared.attach_by_oras(b'{"a": "note"}', "application/vnd.example.note")
    types = {each.artifact_type for each in shared.ours.referrers(shared.digest)}
    assert types == {MEDIA_TYPE, "application/vnd.example.note"}
    assert sorted(shared.ours.evidence(shared.digest)) == sorted(shared.bundles.values())


def test_two_files_in_one_referrer_of_oras_are_refused(shared: Shared) -> None:
    for name in ("one.json", "two.json"):
        (shared.home / name).write_bytes(shared.bundle(SBOM))
    shared.tools.must(
        *("oras", "attach", "--plain-http", "--artifact-type", MEDIA_TYPE, shared.reference),
        *(f"one.json:{MEDIA_TYPE}", f"two.json:{MEDIA_TYPE}"),
    )
    with pytest.raises(ReleaseCorrupt, match="exactly one bundle"):
        shared.ours.evidence(shared.digest)


def test_oras_sees_the_digest_that_we_say(shared: Shared) -> None:
    said = shared.tools.must("oras", "resolve", "--plain-http", f"{shared.name}:1.0.0")
    assert said.strip() == shared.digest == digest_of(shared.layout.manifest_bytes(shared.digest))
