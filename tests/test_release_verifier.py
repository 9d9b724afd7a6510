"""The verifier over a real store with real bundles: what it finds, keeps, and says again."""

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from release_evidence_harness import failed
from verifier_harness import BUILT, NOW, Bench

from activities.judging import from_archive, judge_inputs
from models.release_evidence import KnownVulnerability
from models.statement import PROVENANCE, SBOM, SIGNATURE, TESTS, write_statement
from stores.blobs import BlobStore
from stores.evidence_archive import ArchiveError, EvidenceArchive, digest_of


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def replayed(bench, verdict):
    inputs = from_archive(bench.archive, verdict.inputs)
    return judge_inputs(inputs, release=verdict.release, phase=verdict.phase, at=verdict.at)


def test_an_attested_release_passes_and_the_archive_says_it_again(bench):
    verdict = bench.verify(bench.attested()).verdict
    assert (verdict.outcome, failed(verdict)) == ("pass", {})
    assert len(verdict.inputs.bundles) == 4 and verdict.inputs.problems is None
    assert replayed(bench, verdict) == verdict


def test_a_release_without_evidence_is_refused(bench):
    verdict = bench.verify(bench.release()).verdict
    assert verdict.outcome == "fail"
    assert {"signature", "provenance", "tests", "sbom"} <= set(failed(verdict))
    assert replayed(bench, verdict) == verdict


def test_attesting_again_adds_nothing(bench):
    digest = bench.attested()
    assert bench.attest(digest) == []
    assert len(bench.layout.evidence(digest)) == 4


def test_evidence_of_another_release_that_is_attached_here_does_not_count(bench):
    other, digest = bench.attested("0.9.0"), bench.release("1.0.0", "changed")
    for bundle in bench.layout.evidence(other):
        bench.layout.attach(digest, bundle, SIGNATURE)
    verdict = bench.verify(digest).verdict
    assert f"is about {other}" in failed(verdict)["signature"]


def test_a_tag_that_moved_between_verify_and_deploy_moves_no_verdict(bench):
    digest = bench.attested()
    reference = bench.layout.resolve("catalog:1.0.0")
    index = bench.home / "releases" / "index.json"
    evil = bench.release("6.6.6", "evil")
    moved = json.loads(index.read_text())
    for entry in moved["manifests"]:
        if entry["annotations"].get("org.opencontainers.image.ref.name") == "catalog:1.0.0":
            entry["digest"] = evil
    index.write_text(json.dumps(moved))
    assert bench.layout.resolve("catalog:1.0.0") == evil != reference == digest
    assert bench.verify(digest).verdict.outcome == "pass"
    assert bench.verify(evil).verdict.outcome == "fail"


def test_a_damaged_artifact_is_refused(bench):
    digest = bench.attested()
    blobs = BlobStore(bench.home / "releases")
    layer = bench.layout.manifest(digest).layers[0].digest
    blobs.path(layer).write_bytes(b"x" * blobs.size(layer))
    assert "its content is" in failed(bench.verify(digest).verdict)["artifact"]


def test_a_release_that_is_not_there_is_an_error(bench):
    bench.attested()
    assert bench.verify("sha256:" + "0" * 64).verdict.outcome != "pass"


def test_an_index_is_refused_where_an_image_is_needed(bench):
    digest = bench.attested()
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{"mediaType": "x", "digest": digest, "size": 1}],
        }
    ).encode()
    put = BlobStore(bench.home / "releases").put("application/vnd.oci.image.index.v1+json", index)
    verdict = bench.verify(put.digest).verdict
    assert "index of several images" in failed(verdict)["artifact"]


def test_a_referrer_whose_subject_differs_is_refused(bench):
    digest, other = bench.attested(), bench.attested("0.9.0")
    listing = bench.home / "releases" / "index.json"
    value = json.loads(listing.read_text())
    tags = {
        entry["annotations"].get("org.opencontainers.image.ref.name"): entry
        for entry in value["manifests"]
    }
    ours, theirs = (tags[name.replace(":", "-")] for name in (digest, other))
    ours["digest"], ours["size"] = theirs["digest"], theirs["size"]
    listing.write_text(json.dumps(value))
    verdict = bench.verify(digest).verdict
    assert verdict.outcome == "fail" and "subject" in failed(verdict)["evidence"]
    assert replayed(bench, verdict) == verdict


@pytest.mark.parametrize("kind", [SIGNATURE, PROVENANCE, SBOM, TESTS])
def test_evidence_signed_by_a_stranger_is_named_and_does_not_count(bench, kind):
    digest = bench.release()
    stranger = ec.generate_private_key(ec.SECP256R1())
    statement = write_statement([("catalog", digest)], kind, {})
    bench.layout.attach(digest, bench.world.bundle(statement, private=stranger), kind)
    assert "key-unknown" in failed(bench.verify(digest).verdict)["signature"]


def test_a_key_that_was_revoked_before_it_signed_does_not_count(bench):
    digest = bench.attested()
    trust = bench.world.trust(
        revoked_at=BUILT - timedelta(days=1), revoked_because="the laptop was stolen"
    )
    bench.files["trust"].write_bytes(trust.to_bytes())
    verdict = bench.verify(digest).verdict
    assert verdict.outcome == "fail" and "key-revoked" in failed(verdict)["signature"]


def test_a_file_that_the_sbom_does_not_list_is_refused(bench):
    digest = bench.attested()
    [sbom] = [
        json.loads(payload)["predicate"]
        for payload in map(_payload, bench.layout.evidence(digest))
        if json.loads(payload)["predicateType"] == SBOM
    ]
    other = bench.release("1.0.1", "other content")
    sbom["metadata"]["component"]["hashes"][0]["content"] = other.removeprefix("sha256:")
    bench.attach(other, SBOM, sbom)
    assert "file has another hash in the SBOM: serve" in failed(bench.verify(other).verdict)["sbom"]


def _payload(bundle):
    from models.bundle import read_bundle

    return read_bundle(bundle).envelope.payload


def test_a_critical_vulnerability_is_refused_and_said_again(bench):
    digest = bench.attested()
    assert bench.verify(digest).verdict.outcome == "pass"
    bench.vulnerabilities.found = (
        KnownVulnerability(id="CVE-2026-1", component="pkg:pypi/a@1", severity="critical"),
    )
    verdict = bench.verify(digest).verdict
    assert "CVE-2026-1" in failed(verdict)["vulnerabilities"]
    bench.vulnerabilities.found = ()
    assert replayed(bench, verdict) == verdict


def test_a_database_that_does_not_answer_is_an_error(bench):
    digest = bench.attested()
    bench.vulnerabilities.down = True
    verdict = bench.verify(digest).verdict
    assert verdict.outcome == "error"
    assert "store locked" in failed(verdict)["vulnerabilities"]
    assert replayed(bench, verdict) == verdict


def test_data_that_grew_stale_is_an_error(bench):
    digest = bench.attested()
    assert bench.verify(digest, at=NOW + timedelta(hours=47)).verdict.outcome == "pass"
    assert bench.verify(digest, at=NOW + timedelta(hours=49)).verdict.outcome == "error"


@pytest.mark.parametrize("name", ["policy", "trust", "config"])
@pytest.mark.parametrize("content", [None, "[[["], ids=["missing", "broken"])
def test_what_it_judges_by_must_be_readable(bench, name, content):
    digest = bench.attested()
    bench.files[name].unlink()
    if content is not None:
        bench.files[name].write_text(content)
    judgement = bench.verify(digest)
    assert judgement.verdict.outcome == "error" and judgement.policy is None
    assert replayed(bench, judgement.verdict) == judgement.verdict


def test_the_configuration_adds_the_feeds_that_it_names(bench):
    digest = bench.attested()
    bench.files["policy"].write_text(
        bench.files["policy"].read_text().replace('required_sources = ["nvd", "osv"]', "")
    )
    judgement = bench.verify(digest)
    assert judgement.policy.vulnerabilities.required_sources == ["nvd", "osv"]
    bench.files["config"].write_text('[sbom]\nvulnerability_databases = ["osv"]\n')
    assert bench.verify(digest).policy.vulnerabilities.required_sources == ["osv"]


def test_a_policy_that_changes_counts_from_the_next_look_on(bench):
    digest = bench.attested()
    first = bench.verify(digest).verdict
    text = bench.files["policy"].read_text()
    bench.files["policy"].write_text(text.replace("refs/heads/main", "refs/heads/next"))
    second = bench.verify(digest).verdict
    assert (first.outcome, second.outcome) == ("pass", "fail")
    assert first.inputs.policy != second.inputs.policy
    assert first.inputs.bundles == second.inputs.bundles
    assert replayed(bench, first) == first and replayed(bench, second) == second


def test_an_archive_that_takes_nothing_is_an_error(bench, monkeypatch):
    digest = bench.attested()

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EvidenceArchive, "put", full)
    verdict = bench.verify(digest).verdict
    assert verdict.outcome == "error" and "No space left" in verdict.why


@pytest.mark.parametrize(
    "part", ["policy", "trust_root", "artifact", "contents", "vulnerabilities"]
)
def test_an_archived_part_that_was_altered_is_found(bench, part):
    verdict = bench.verify(bench.attested()).verdict
    path = BlobStore(bench.home / "archive").path(getattr(verdict.inputs, part))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match="its content is"):
        replayed(bench, verdict)
    path.unlink()
    with pytest.raises(ArchiveError, match="not in the archive"):
        replayed(bench, verdict)


def test_the_archive_mends_what_a_crash_cut_short(tmp_path):
    archive = EvidenceArchive(tmp_path)
    digest = archive.put(b"content")
    BlobStore(tmp_path).path(digest).write_bytes(b"con")
    assert archive.put(b"content") == digest == digest_of(b"content")
    assert archive.get(digest) == b"content"


def test_nothing_of_the_archive_can_be_named_by_anything_but_a_digest(tmp_path):
    with pytest.raises(ArchiveError):
        EvidenceArchive(tmp_path).get("sha256:../../../etc/passwd")
