"""A registry as the source of releases: built into, verified from, and pulled from by digest."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from build_harness import Yard, server, start, statements
from registry_harness import REGISTRY, Faults, Registry, proxied
from release_evidence_harness import failed
from rollout_harness import UNVERSIONED, address
from verifier_harness import NOW, Bench, built

from activities.judging import from_archive, judge_inputs
from activities.release_verifier import RegistryVerifier
from activities.verification import VerificationActivities
from models.addresses import ControlAddresses, RegistryAddress
from models.ids import CONTROL_LEDGER
from models.release_verdict import ReleaseVerdict, VerifyRequest
from models.statement import SIGNATURE
from models.test_results import TestResults
from stores.attesting import attest_release
from stores.blobs import ReleaseCorrupt, ReleaseNotFound
from stores.ledger import Ledger
from stores.oci import VersionTaken
from stores.overrides import OverrideStore
from stores.registry_client import RegistryClient, RegistryUnavailable
from stores.registry_layout import RegistryLayout
from stores.registry_source import LOCATIONS, RegistrySource
from stores.release_copy import push_release
from stores.sql import create_all, open_engine
from workers.process import activities_of, make_worker
from workers.release_store import evidence_registry, open_releases
from workers.temporal_setup import CONTROL_QUEUE
from workflows.verify_release import VerifyRelease

pytestmark = pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path / "registry")
    yield made
    made.kill()


def source(url: str) -> RegistrySource:
    """The registry below a prefix; pauses take no time."""
    return RegistrySource(f"{url}/fleet", lambda root: RegistryClient(root, pause=lambda _: None))


def cache(home: Path, url: str) -> RegistryLayout:
    return RegistryLayout(home, source(url))


class Judged(Bench):
    """A bench whose releases and evidence are in a registry."""

    layout: RegistryLayout

    def __init__(self, home: Path, url: str) -> None:
        super().__init__(home)
        self.layout = cache(home / "cache", url)
        self.verifier = RegistryVerifier(
            layout=self.layout,
            registry=self.layout.source,
            archive=self.archive,
            vulnerabilities=self.vulnerabilities,
            policy=self.files["policy"],
            trust_root=self.files["trust"],
            config=self.files["config"],
        )


def move_tag(layout: RegistryLayout, version: str, to: str) -> None:
    """As somebody who may push does it, and Chainring never."""
    name = layout.describe(to).name
    layout.source.repository(name)._put_manifest(layout.manifest_bytes(to), version)


def test_what_is_published_here_is_found_elsewhere_by_name_and_digest(registry, tmp_path):
    bench = Judged(tmp_path, registry.url)
    digest = bench.attested()
    there = cache(tmp_path / "there", registry.url)

    assert there.resolve("catalog:1.0.0") == digest
    assert there.describe(digest).reference == "catalog:1.0.0"
    layers = [each.digest for each in there.manifest(digest).layers]
    assert not any(there.blobs.has(each) for each in layers), "a description needs no layers"
    root = cache(tmp_path / "other", registry.url).unpack(digest, tmp_path / "unpacked")
    assert (root / "serve").read_text() == "program"
    assert len(there.evidence(digest)) == 4


def test_a_release_that_was_pushed_by_hand_is_found_by_its_digest(registry, tmp_path):
    bench = Bench(tmp_path)
    digest = bench.attested()
    places = source(registry.url)
    with pytest.raises(ReleaseNotFound, match="releases push"):
        places.locate(digest)
    push_release(bench.layout, places.repository("catalog"), digest)
    assert cache(tmp_path / "there", registry.url).verify(digest) == bench.layout.verify(digest)


def test_a_name_is_given_last_and_never_to_another_release(registry, tmp_path):
    layout = cache(tmp_path / "cache", registry.url)
    program = tmp_path / "program"
    program.mkdir()
    (program / "serve").write_text("one")
    digest = layout.put_unnamed("web", "1.0.0", program, entrypoint=["serve"])
    with pytest.raises(ReleaseNotFound):
        layout.resolve("web:1.0.0")
    assert layout.resolve(digest) == digest
    assert layout.give_name(digest) == layout.give_name(digest) == "web:1.0.0"
    (program / "serve").write_text("two")
    with pytest.raises(VersionTaken, match=digest):
        cache(tmp_path / "there", registry.url).put_unnamed(
            "web", "1.0.0", program, entrypoint=["serve"]
        )


def test_a_tag_that_moves_after_the_verdict_moves_nothing_that_is_deployed(registry, tmp_path):
    bench = Judged(tmp_path, registry.url)
    digest, evil = bench.attested(), bench.release("6.6.6", "evil")
    assert bench.verify(digest).verdict.outcome == "pass"
    move_tag(bench.layout, "1.0.0", evil)
    region = cache(tmp_path / "region", registry.url)
    assert region.resolve("catalog:1.0.0") == evil

    assert (region.unpack(digest, tmp_path / "run") / "serve").read_text() == "program"
    assert bench.verify(digest, phase="ring canary").verdict.outcome == "pass"
    assert bench.verify(evil).verdict.outcome == "fail"


def test_a_registry_that_is_down_gives_no_answer_and_no_release(registry, tmp_path):
    bench = Judged(tmp_path, registry.url)
    digest = bench.attested()
    assert bench.verify(digest, phase="start").verdict.outcome == "pass"
    registry.kill()

    verdict = bench.verify(digest, phase="ring canary").verdict

    assert verdict.outcome == "error", failed(verdict)
    assert "ConnectError" in failed(verdict)["artifact"]
    with pytest.raises(RegistryUnavailable):
        cache(tmp_path / "region", registry.url).unpack(digest, tmp_path / "run")
    registry.start()
    assert bench.verify(digest, phase="ring canary").verdict.outcome == "pass"


def test_evidence_that_was_withheld_is_missed_although_it_was_there_before(registry, tmp_path):
    bench = Judged(tmp_path, registry.url)
    digest = bench.attested()
    assert bench.verify(digest).verdict.outcome == "pass"
    registry.kill()
    (tmp_path / "registry" / "data").rename(tmp_path / "lost")
    registry.start()
    bare = cache(tmp_path / "bare", registry.url)
    assert bare.put_release("catalog", "1.0.0", tmp_path / "source-1.0.0", entrypoint=["serve"])
    verdict = bench.verify(digest).verdict
    assert verdict.outcome == "fail" and "signature" in failed(verdict)


@pytest.mark.parametrize("path", ["/manifests/sha256:", "/manifests/release-", "/blobs/"])
def test_a_refusal_of_the_registry_speaks_against_no_release(registry, tmp_path, path):
    with proxied(registry.port) as (url, faults):
        bench = Judged(tmp_path, url)
        digest = bench.attested()
        bench.verifier._registry = source(url)  # which does not know yet where the release is
        faults.plan("403", "GET", path, times=9)
        verdict = bench.verify(digest).verdict
    assert verdict.outcome == "error" and "403" in " ".join(failed(verdict).values())


async def test_without_an_answer_the_workflow_says_so_and_writes_it_down(registry, tmp_path):
    bench = Judged(tmp_path, registry.url)
    digest = bench.attested()
    engine = open_engine(f"sqlite:///{tmp_path}/control.db")
    create_all(engine)
    ledger = Ledger(engine, CONTROL_LEDGER)
    verification = VerificationActivities(
        verifier=bench.verifier,
        layout=bench.layout,
        ledger=ledger,
        overrides=OverrideStore(engine, ledger),
        clock=lambda: NOW,
    )
    async with (
        server() as client,
        make_worker(
            client,
            address("default", CONTROL_QUEUE),
            UNVERSIONED,
            deployment="control",
            workflows=[VerifyRelease],
            activities=activities_of(verification),
        ),
    ):

        async def verdict(number: int) -> ReleaseVerdict:
            return await client.execute_workflow(
                VerifyRelease.run,
                VerifyRequest(release="catalog:1.0.0" if number == 1 else digest),
                id=f"verify/{number}",
                task_queue=CONTROL_QUEUE,
            )

        assert (await verdict(1)).outcome == "pass"
        registry.kill()
        silent = await verdict(2)
        registry.start()
        assert (await verdict(3)).outcome == "pass"
    assert silent.outcome == "error" and "Connection refused" in silent.why
    judged = [each.receipt for each in ledger.read(kinds=["release.judged"])]
    assert [each.body["verdict"]["outcome"] for each in judged] == ["pass", "error", "pass"]
    inputs = from_archive(bench.archive, silent.inputs)
    again = judge_inputs(inputs, release=digest, phase=silent.phase, at=silent.at)
    assert again == silent


def test_a_process_that_has_an_address_has_the_registry(registry, tmp_path):
    digest = Judged(tmp_path, registry.url).attested()
    fields = {
        "temporal": {"address": "x:1", "namespace": "default", "task_queue": "control"},
        "worker": {"health_port": 0, "metrics_port": 0},
        "database": "sqlite://",
        "signing_key": tmp_path / "key.pem",
        "config": tmp_path / "fleet.toml",
        "releases": tmp_path / "empty",
    }
    without = open_releases(ControlAddresses.model_validate(fields))
    assert evidence_registry(without) is without
    with pytest.raises(ReleaseNotFound):
        without.resolve(digest)
    fields["registry"] = {"url": f"{registry.url}/fleet"}
    releases = open_releases(ControlAddresses.model_validate(fields))
    assert isinstance(evidence_registry(releases), RegistrySource)
    assert releases.resolve("catalog:1.0.0") == digest and releases.verify(digest)


def test_what_the_caches_disk_spoils_is_pulled_again_and_what_is_sent_wrong_is_not_run(
    registry, tmp_path
):
    bench = Judged(tmp_path, registry.url)
    digest = bench.attested()
    there = cache(tmp_path / "there", registry.url)
    there.verify(digest)
    layer = there.manifest(digest).layers[0].digest
    there.blobs.path(layer).write_bytes(b"spoilt")
    assert there.verify(digest) == bench.layout.verify(digest)
    assert (there.unpack(digest, tmp_path / "run") / "serve").read_text() == "program"

    with proxied(registry.port) as (url, faults):
        faults.plan("wrong", "GET", f"/blobs/{layer}", times=9)
        with pytest.raises(ReleaseCorrupt, match="came as"):
            cache(tmp_path / "elsewhere", url).unpack(digest, tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("said", ["../other", "Catalog", None, 7])
def test_a_place_that_is_no_releases_name_is_refused(registry, tmp_path, said):
    places = source(registry.url)
    digest = f"sha256:{'a' * 64}"
    repository = places.repository(LOCATIONS)
    layout = cache(tmp_path / "cache", registry.url)
    program = tmp_path / "program"
    program.mkdir()
    (program / "serve").write_text("x")
    real = layout.put_unnamed("web", "1.0.0", program, entrypoint=["serve"])
    known = repository.manifest_bytes(repository.resolve(f"release-{real[7:]}"))
    value = json.loads(known) | {"annotations": {"org.opencontainers.image.title": said}}
    if isinstance(said, int):
        value["annotations"] = {}
    repository.give_tag(f"release-{digest[7:]}", json.dumps(value).encode())
    with pytest.raises((ReleaseCorrupt, ReleaseNotFound)):
        source(registry.url).locate(digest)


def test_a_hint_to_another_repository_gives_no_other_release(registry, tmp_path):
    bench = Judged(tmp_path, registry.url)
    digest = bench.attested()
    fresh = source(registry.url)
    fresh._names[digest] = "other"  # as a forged hint would have it
    with pytest.raises(ReleaseNotFound):
        fresh.manifest_bytes(digest)


async def test_a_build_publishes_into_the_registry_with_the_name_last(registry, tmp_path):
    yard = Yard(tmp_path)
    with proxied(registry.port) as (url, faults):
        layout = cache(tmp_path / "cache", url)
        yard.builder.layout = yard.builder.activities._shelf = layout
        async with server() as client, yard.builder.worker(client):
            result = await (await start(client, yard.request(yard.commit()))).result()
        named = writes(faults)
    assert named[-1] == "PUT /v2/fleet/web/manifests/1.0.0"
    assert named.count(named[-1]) == 1
    there = cache(tmp_path / "there", registry.url)
    assert there.resolve("web:1.0.0") == result.release
    yard.builder.layout = there
    assert len(statements(yard, result.release)) == 4
    assert there.verify(result.release)


def writes(faults: Faults) -> list[str]:
    return [line for line in faults.seen if line.startswith("PUT ")]


def test_evidence_is_attached_once_by_two_builders(registry, tmp_path):
    bench = Judged(tmp_path, registry.url)
    digest = bench.attested()
    bench.world.clock.now = NOW
    again = attest_release(
        cache(tmp_path / "second", registry.url),
        digest,
        bench.world.signer(),
        provenance=built(),
        tests=TestResults(passed=["unit::answers", "unit::starts"]),
        now=NOW,
    )
    assert again == [] and len(bench.layout.evidence(digest)) == 4


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ValueError, match="is not http"):
        RegistrySource("registry.example.org/fleet")
    assert RegistryAddress(url="https://registry.example.org:5000/fleet")


def test_the_referrer_is_about_the_release(registry, tmp_path):
    bench = Judged(tmp_path, registry.url)
    digest = bench.attested()
    for each in bench.layout.referrers(digest):
        found = httpx.get(
            f"{registry.url}/v2/fleet/catalog/manifests/{each.digest}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        ).json()
        assert found["subject"]["digest"] == digest
    kinds = [
        each.annotations["dev.sigstore.bundle.predicateType"]
        for each in bench.layout.referrers(digest)
    ]
    assert SIGNATURE in kinds
