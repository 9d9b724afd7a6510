"""Releases in a real registry: whole or not there, by digest, however the connection behaves."""

import multiprocessing
import threading
from pathlib import Path

import pytest
from registry_harness import REGISTRY, Registry, proxied, repository
from signing_harness import World

from models.oci import INDEX_TYPE, decode, encode
from models.statement import PROVENANCE, SIGNATURE, write_statement
from stores.blobs import ReleaseCorrupt, ReleaseNotFound
from stores.http_registry import HttpRepository
from stores.layout_referrers import referrers_tag
from stores.oci import ImageLayout, VersionTaken
from stores.registry_client import RegistryClient, RegistryRefused, RegistryUnavailable
from stores.release_copy import pull_release, push_release

pytestmark = pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed")

WORLD = World()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.kill()


@pytest.fixture
def registry(shared, request):
    """A repository of this test's own in the shared registry."""
    name = request.node.name.split("[")[0].replace("_", "-")[:80]
    return HttpRepository(
        RegistryClient(shared.url, pause=lambda _: None), f"{name}-{id(request)}/web"
    )


@pytest.fixture
def layout(tmp_path):
    return ImageLayout(tmp_path / "layout")


def release(layout, tmp_path, version="1.0.0", size=800_000, kinds=(SIGNATURE, PROVENANCE)):
    program = tmp_path / f"program-{version}"
    program.mkdir()
    (program / "serve").write_bytes((version.encode() + b"\0x9") * (size // 8))
    digest = layout.put_release("web", version, program, entrypoint=["serve"])
    for kind in kinds:
        layout.attach(digest, WORLD.bundle(write_statement([("web", digest)], kind, {})), kind)
    return digest


def test_a_release_goes_there_and_back_with_its_evidence(registry, layout, tmp_path):
    digest = release(layout, tmp_path)
    assert push_release(layout, registry, digest) == "web:1.0.0"
    other = ImageLayout(tmp_path / "other")

    assert pull_release(registry, other, "web:1.0.0") == digest

    assert other.verify(digest) == layout.verify(digest)
    assert sorted(other.evidence(digest)) == sorted(layout.evidence(digest))
    assert other.resolve("web:1.0.0") == digest


def test_doing_it_again_sends_no_blob(shared, registry, layout, tmp_path):
    digest = release(layout, tmp_path)
    with proxied(shared.port) as (url, faults):
        through = repository(url)
        push_release(layout, through, digest)
        first = [line for line in faults.seen if "/uploads/" in line]
        faults.seen.clear()
        push_release(layout, through, digest)
        assert first and not [line for line in faults.seen if "/uploads/" in line]


def test_a_version_is_never_given_to_another_release(registry, layout, tmp_path):
    push_release(layout, registry, release(layout, tmp_path))
    other = ImageLayout(tmp_path / "other")
    (tmp_path / "x").mkdir()
    with pytest.raises(VersionTaken, match=r"web:1\.0\.0"):
        push_release(other, registry, release(other, tmp_path / "x", size=800))


def test_what_is_not_there_is_not_found(registry, layout):
    with pytest.raises(ReleaseNotFound):
        pull_release(registry, layout, "web:9.9.9")
    with pytest.raises(ReleaseNotFound):
        registry.attach(f"sha256:{'a' * 64}", b"{}", SIGNATURE)


def test_a_tag_that_moved_does_not_move_what_is_pulled_by_digest(registry, layout, tmp_path):
    first = release(layout, tmp_path, "1.0.0")
    second = release(layout, tmp_path, "2.0.0")
    for digest in (first, second):
        push_release(layout, registry, digest)
    registry._put_manifest(layout.manifest_bytes(second), "1.0.0")

    assert pull_release(registry, ImageLayout(tmp_path / "o"), first) == first


def test_an_index_is_no_release(registry, layout, tmp_path):
    digest = release(layout, tmp_path)
    push_release(layout, registry, digest)
    content = layout.manifest_bytes(digest)
    entry = {"mediaType": decode(content)["mediaType"], "digest": digest, "size": len(content)}
    index = encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]})
    registry._put_manifest(index, "both", INDEX_TYPE)
    with pytest.raises(ReleaseCorrupt, match="index of several images"):
        pull_release(registry, ImageLayout(tmp_path / "o"), "both")


@pytest.mark.parametrize("fault", ["429", "500", "cut"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_a_registry_that_stumbles_is_asked_again(shared, layout, tmp_path, fault, method):
    digest = release(layout, tmp_path)
    with proxied(shared.port) as (url, faults):
        through = HttpRepository(
            RegistryClient(url, pause=lambda _: None), f"stumble-{fault}-{method.lower()}/web"
        )
        faults.plan(fault, method, times=2)
        push_release(layout, through, digest)
        faults.plan(fault, "GET", times=3)
        other = ImageLayout(tmp_path / "o")
        assert pull_release(through, other, digest) == digest
        assert sorted(other.evidence(digest)) == sorted(layout.evidence(digest))


def test_a_blob_that_breaks_off_goes_on_where_it_broke(shared, layout, tmp_path):
    digest = release(layout, tmp_path)
    push_release(layout, repository(shared.url), digest)
    with proxied(shared.port) as (url, faults):
        faults.plan("cut", "GET", "/blobs/", times=2)
        assert pull_release(repository(url), ImageLayout(tmp_path / "o"), digest) == digest


@pytest.mark.parametrize("part", ["/blobs/", "/manifests/sha256:"])
def test_other_bytes_than_the_digests_are_refused(shared, layout, tmp_path, part):
    digest = release(layout, tmp_path)
    push_release(layout, repository(shared.url), digest)
    other = ImageLayout(tmp_path / "o")
    with proxied(shared.port) as (url, faults):
        faults.plan("wrong", "GET", part)
        with pytest.raises(ReleaseCorrupt):
            pull_release(repository(url), other, digest)
    with pytest.raises(ReleaseNotFound):
        other.resolve("web:1.0.0")


def test_a_registry_that_is_down_says_so_in_the_end(layout, tmp_path):
    with pytest.raises(RegistryUnavailable):
        pull_release(repository("http://127.0.0.1:9"), layout, "web:1.0.0")


def test_retry_after_is_what_is_waited(shared, layout, tmp_path):
    pauses = []
    with proxied(shared.port) as (url, faults):
        faults.plan("429", times=1)
        with pytest.raises(ReleaseNotFound):
            repository(url, pause=pauses.append).manifest_bytes(f"sha256:{'b' * 64}")
    assert pauses == [1.0]


def test_of_writers_at_once_none_loses(shared, layout, tmp_path):
    digest = release(layout, tmp_path, "6.0.0", kinds=())
    push_release(layout, repository(shared.url), digest)

    def attach(number):
        repository(shared.url).attach(digest, b'{"n":%d}' % number, SIGNATURE)

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    there = repository(shared.url)
    assert sorted(there.evidence(digest)) == [b'{"n":%d}' % number for number in range(6)]
    index = there._manifest(referrers_tag(digest), limit=1 << 20)
    assert len(decode(index)["manifests"]) == 6  # what other tools go by


def test_an_index_that_a_late_writer_cut_short_loses_no_evidence(registry, layout, tmp_path):
    digest = release(layout, tmp_path)
    push_release(layout, registry, digest)
    empty = encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []})
    registry._put_manifest(empty, referrers_tag(digest), INDEX_TYPE)

    assert sorted(registry.evidence(digest)) == sorted(layout.evidence(digest))


def test_a_referrer_about_another_release_is_refused(registry, layout, tmp_path):
    first = release(layout, tmp_path, "1.0.0")
    second = release(layout, tmp_path, "2.0.0", kinds=())
    for digest in (first, second):
        push_release(layout, registry, digest)
    listing = registry._manifest(referrers_tag(first), limit=1 << 20)
    registry._put_manifest(listing, referrers_tag(second), INDEX_TYPE)
    with pytest.raises(ReleaseCorrupt, match=f"its subject is {first}"):
        registry.evidence(second)


def _push(url, root, digest):
    push_release(ImageLayout(root), repository(url), digest)


def test_a_push_that_is_killed_leaves_no_name_and_goes_on(tmp_path, layout):
    registry = Registry(tmp_path / "registry")
    digest = release(layout, tmp_path)
    with proxied(registry.port) as (url, faults):
        for count in (4, 9):
            process = multiprocessing.get_context("spawn").Process(
                target=_push, args=(url, layout._root, digest)
            )
            faults.seen.clear()
            process.start()
            while len(faults.seen) < count and process.is_alive():
                pass
            process.kill()
            process.join()
            with pytest.raises(ReleaseNotFound):
                repository(registry.url).resolve("web:1.0.0")
    registry.kill()
    with pytest.raises(RegistryUnavailable):
        push_release(layout, repository(registry.url), digest)
    registry.start()

    push_release(layout, repository(registry.url), digest)

    other = ImageLayout(tmp_path / "o")
    assert pull_release(repository(registry.url), other, "web:1.0.0") == digest
    assert len(other.evidence(digest)) == 2
    registry.kill()


def test_a_refusal_is_final(shared):
    with pytest.raises(RegistryRefused):
        RegistryClient(shared.url, pause=lambda _: pytest.fail("asked again")).send(
            "GET", "v2/UPPER/manifests/x"
        )


def test_credentials_are_sent_when_they_are_asked_for(tmp_path: Path):
    from http.server import BaseHTTPRequestHandler, HTTPServer

    given = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            said = self.headers.get("Authorization")
            given.append(said)
            self.send_response(200 if said else 401)
            if not said:
                self.send_header("WWW-Authenticate", 'Basic realm="r"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    secret = tmp_path / "credentials"
    secret.write_text("ana:secret\n")
    client = RegistryClient(f"http://127.0.0.1:{server.server_address[1]}", credentials=secret)
    client.send("GET", "v2/")
    client.send("GET", "v2/")
    server.shutdown()
    server.server_close()
    assert given == [None, "Basic YW5hOnNlY3JldA==", "Basic YW5hOnNlY3JldA=="]
