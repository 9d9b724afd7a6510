"""Evidence kept with a release on disk: found again, tied to its release, safe with two writers."""

import threading
from pathlib import Path

import pytest

from models.bundle import MEDIA_TYPE
from models.oci import Descriptor, decode
from models.statement import PROVENANCE, SIGNATURE
from stores.layout_referrers import referrers_tag
from stores.oci import ImageLayout, ReleaseCorrupt, ReleaseNotFound
from stores.release_registry import referrer_manifest


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "store")


@pytest.fixture
def release(layout: ImageLayout, tmp_path: Path) -> str:
    return put(layout, tmp_path, "1.0.0")


def put(layout: ImageLayout, tmp_path: Path, version: str) -> str:
    program = tmp_path / "program"
    program.mkdir(exist_ok=True)
    (program / "serve").write_text("#!/bin/sh\n")
    return layout.put_release("web", version, program, entrypoint=["serve"])


def test_what_was_attached_is_evidence_of_its_release_alone(layout, release, tmp_path):
    other = put(layout, tmp_path, "2.0.0")
    digest = layout.attach(release, b'{"a":1}', SIGNATURE)
    layout.attach(release, b'{"b":2}', PROVENANCE)

    assert sorted(layout.evidence(release)) == [b'{"a":1}', b'{"b":2}']
    assert layout.evidence(other) == []
    found = {each.digest: each for each in layout.referrers(release)}
    assert found[digest].artifact_type == MEDIA_TYPE
    manifest = decode(layout.manifest_bytes(digest))
    assert manifest["subject"]["digest"] == release
    assert manifest["annotations"]["dev.sigstore.bundle.predicateType"] == SIGNATURE


def test_attaching_the_same_again_changes_nothing(layout, release):
    first = layout.attach(release, b"{}", SIGNATURE)
    index = (layout._root / "index.json").read_bytes()

    assert layout.attach(release, b"{}", SIGNATURE) == first
    assert (layout._root / "index.json").read_bytes() == index


def test_a_release_that_is_not_there_takes_no_evidence(layout):
    with pytest.raises(ReleaseNotFound):
        layout.attach(f"sha256:{'a' * 64}", b"{}", SIGNATURE)


def test_of_many_writers_at_once_none_loses(layout, release):
    def attach(number: int) -> None:
        ImageLayout(layout._root).attach(release, b'{"n":%d}' % number, SIGNATURE)

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(layout.evidence(release)) == 12
    assert [found.version for found in layout.list()] == ["1.0.0"]


def test_a_referrer_about_another_release_is_refused(layout, release, tmp_path):
    other = put(layout, tmp_path, "2.0.0")
    subject = layout._describe_blob(other)
    bundle = layout._blobs.put(MEDIA_TYPE, b"{}")
    forged = layout._blobs.put(
        "application/vnd.oci.image.manifest.v1+json",
        referrer_manifest(subject, bundle, SIGNATURE),
    )
    layout._change_index(lambda index: layout._referrers._with(index, release, forged))

    with pytest.raises(ReleaseCorrupt, match=f"its subject is {other}"):
        layout.evidence(release)


def test_a_bundle_whose_bytes_changed_is_refused(layout, release):
    layout.attach(release, b'{"a":1}', SIGNATURE)
    [referrer] = layout.referrers(release)
    layer = decode(layout.manifest_bytes(referrer.digest))["layers"][0]
    layout._blobs.path(Descriptor.model_validate(layer).digest).write_bytes(b'{"a":2}')

    with pytest.raises(ReleaseCorrupt):
        layout.evidence(release)


def test_the_listing_is_where_other_tools_look_for_it(layout, release):
    layout.attach(release, b"{}", SIGNATURE)
    index = decode((layout._root / "index.json").read_bytes())
    tags = [
        each.get("annotations", {}).get("org.opencontainers.image.ref.name")
        for each in index["manifests"]
    ]
    assert referrers_tag(release) in tags
