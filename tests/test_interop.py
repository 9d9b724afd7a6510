"""The real cosign verifies what we sign, and we verify what it signs."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from interop_tools import Tools, needs
from signing_harness import World, pem_of
from timestamp_authority import Authority, served

from models.bundle import MEDIA_TYPE
from models.oci import Descriptor
from models.signed_statement import SignatureRefused
from models.statement import PROVENANCE, SIGNATURE, write_statement
from models.trust import TrustedKey, TrustRoot
from stores.bundle_verifier import verify_bundle
from stores.release_registry import EMPTY, open_referrer, referrer_manifest

pytestmark = needs("cosign", "crane")
BLOB = b"a release"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
VERIFY = ("--insecure-ignore-tlog", "--trusted-root", "root.json", "--use-signed-timestamps")


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def world():
    """Our key, and a clock at the real time: cosign judges by its own."""
    world, now = World(), datetime.now(UTC).replace(microsecond=0)
    world.clock = Authority(start=now - timedelta(days=1))
    world.clock.now = now
    return world


@pytest.fixture
def tools(tmp_path, world):
    """The tools, with our public key, a blob, and a root that trusts our clock."""
    (tmp_path / "ours.pub").write_text(pem_of(world.private))
    (tmp_path / "blob").write_bytes(BLOB)
    (tmp_path / "root.json").write_text(json.dumps(sigstore_root(world.clock)))
    return Tools(tmp_path)


def sigstore_root(clock):
    """Sigstore's TrustedRoot with one timestamp authority."""
    ders = [each.public_bytes(Encoding.DER) for each in (clock.own, clock.root)]
    return {
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "timestampAuthorities": [
            {
                "subject": {"organization": "tests", "commonName": clock.name},
                "certChain": {
                    "certificates": [{"rawBytes": base64.b64encode(der).decode()} for der in ders]
                },
                "validFor": {"start": clock.start.strftime("%Y-%m-%dT%H:%M:%SZ")},
            }
        ],
    }


def signing_config(tools, clock, url):
    """Tells cosign to use our clock and no log."""
    service = {
        "url": url,
        "majorApiVersion": 1,
        "validFor": {"start": clock.start.strftime("%Y-%m-%dT%H:%M:%SZ")},
        "operator": "tests",
    }
    config = {
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "tsaUrls": [service],
        "tsaConfig": {"selector": "ANY"},
        "rekorTlogConfig": {"selector": "ANY"},
    }
    (tools.directory / "signing.json").write_text(json.dumps(config))


def trusts_cosign(tools, clock):
    """A trust root with the key that cosign has made."""
    key = TrustedKey(
        identity="cosign",
        public_key=(tools.directory / "cosign.pub").read_text(),
        valid_from=clock.start,
        valid_until=clock.now + timedelta(days=1),
    )
    return TrustRoot(signing_keys=[key], timestamp_authorities=[clock.trusted()])


# --- Blobs ---
def verify_blob(tools, bundle, kind, key="ours.pub"):
    (tools.directory / "bundle.json").write_bytes(bundle)
    return tools.run(
        *("cosign", "verify-blob-attestation", "--key", key, "--type", kind),
        *("--bundle", "bundle.json", *VERIFY, "blob"),
    )


@pytest.mark.parametrize("kind", [SIGNATURE, PROVENANCE])
def test_cosign_verifies_our_statement_about_a_blob(world, tools, kind):
    bundle = world.signer().sign(write_statement([("blob", digest_of(BLOB))], kind, {}))
    done = verify_blob(tools, bundle, kind)
    assert done.returncode == 0, done.stderr
    assert "Verified OK" in done.stdout + done.stderr


def test_cosign_refuses_what_we_refuse(world, tools):
    """So that its word for ours is worth something."""
    about = write_statement([("blob", digest_of(BLOB))], SIGNATURE, {})
    good, other = world.signer().sign(about), ec.generate_private_key(ec.SECP256R1())
    (tools.directory / "other.pub").write_text(pem_of(other))
    elsewhere = write_statement([("blob", digest_of(b"other"))], SIGNATURE, {})
    stranger = Authority(start=world.clock.start)
    stranger.now = world.clock.now
    refused = [
        verify_blob(tools, good, SIGNATURE, key="other.pub"),
        verify_blob(tools, good, PROVENANCE),
        verify_blob(tools, world.signer().sign(elsewhere), SIGNATURE),
        verify_blob(tools, world.signer(clocks=[stranger]).sign(about), SIGNATURE),
        verify_blob(tools, world.signer(clocks=[]).sign(about), SIGNATURE),
    ]
    assert all(done.returncode != 0 for done in refused), [done.stderr for done in refused]


def test_we_verify_cosigns_statement_about_a_blob(world, tools):
    tools.must("cosign", "generate-key-pair")
    statement = write_statement([("blob", digest_of(BLOB))], PROVENANCE, {"made": "by hand"})
    (tools.directory / "statement.json").write_bytes(statement)
    with served(world.clock) as url:
        signing_config(tools, world.clock, url)
        tools.must(
            *("cosign", "attest-blob", "--key", "cosign.key", "--statement", "statement.json"),
            *("--signing-config", "signing.json", "--bundle", "made.json", "--yes", "blob"),
        )
    data = (tools.directory / "made.json").read_bytes()
    signed = verify_bundle(data, trusts_cosign(tools, world.clock), now=world.clock.now)
    assert signed.signer.identity == "cosign"
    assert signed.signed_at == world.clock.now
    assert signed.statement.is_about(digest_of(BLOB))
    assert signed.statement.predicate == {"made": "by hand"}
    with pytest.raises(SignatureRefused, match="key-unknown"):
        verify_bundle(data, world.trust(), now=world.clock.now)


def test_cosigns_signature_over_bare_bytes_is_no_statement(world, tools):
    tools.must("cosign", "generate-key-pair")
    with served(world.clock) as url:
        signing_config(tools, world.clock, url)
        tools.must(
            *("cosign", "sign-blob", "--key", "cosign.key", "--yes"),
            *("--signing-config", "signing.json", "--bundle", "made.json", "blob"),
        )
    data = (tools.directory / "made.json").read_bytes()
    with pytest.raises(SignatureRefused, match="states nothing"):
        verify_bundle(data, trusts_cosign(tools, world.clock), now=world.clock.now)


# --- Images ---
class Repository:
    """One repository of a registry over HTTP."""

    def __init__(self, address):
        self.name = f"{address}/releases/app"
        self.url = f"http://{address}/v2/releases/app"

    def put_blob(self, data, media_type):
        digest = digest_of(data)
        opened = httpx.post(f"{self.url}/blobs/uploads/")
        place = httpx.URL(self.url).join(opened.headers["location"])
        done = httpx.put(place.copy_merge_params({"digest": digest}), content=data)
        assert done.status_code == 201, done.text
        return Descriptor(mediaType=media_type, digest=digest, size=len(data))

    def put_manifest(self, data, media_type=MANIFEST_TYPE, reference=None):
        digest = digest_of(data)
        done = httpx.put(
            f"{self.url}/manifests/{reference or digest}",
            content=data,
            headers={"Content-Type": media_type},
        )
        assert done.status_code == 201, done.text
        return Descriptor(mediaType=MANIFEST_TYPE, digest=digest, size=len(data))

    def put_image(self):
        """A release of one layer."""
        config = self.put_blob(b"{}", "application/vnd.oci.image.config.v1+json")
        layer = self.put_blob(BLOB, "application/vnd.oci.image.layer.v1.tar")
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.model_dump(by_alias=True),
            "layers": [layer.model_dump(by_alias=True)],
        }
        return self.put_manifest(json.dumps(manifest).encode())

    def attach(self, image, bundle, kind):
        """Attach a bundle as `stores.release_registry` has it, and list it under the image's tag.

        The tag stands in for the referrers API (distribution specification 1.1).
        """
        self.put_blob(EMPTY, "application/vnd.oci.empty.v1+json")
        blob = self.put_blob(bundle, MEDIA_TYPE)
        referrer = self.put_manifest(referrer_manifest(image, blob, kind))
        entry = referrer.model_dump(by_alias=True) | {"artifactType": MEDIA_TYPE}
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE}
        index["manifests"] = [*self._listed(image), entry]
        self.put_manifest(json.dumps(index).encode(), INDEX_TYPE, self._tag(image))

    def bundles(self, image):
        """The bundles that are there for an image, by whomever."""
        opened = [
            open_referrer(httpx.get(f"{self.url}/manifests/{each['digest']}").content, image.digest)
            for each in self._listed(image)
        ]
        return [httpx.get(f"{self.url}/blobs/{each.digest}").content for each in opened if each]

    def _listed(self, image):
        found = httpx.get(f"{self.url}/manifests/{self._tag(image)}")
        return found.json()["manifests"] if found.status_code == 200 else []

    def _tag(self, image):
        return image.digest.replace(":", "-")


@pytest.fixture
def repository(tools):
    with tools.registry() as address:
        yield Repository(address)


def test_cosign_verifies_our_evidence_of_an_image(world, tools, repository):
    image = repository.put_image()
    reference, key = f"{repository.name}@{image.digest}", ("--key", "ours.pub", *VERIFY)
    assert "no signatures found" in tools.run("cosign", "verify", *key, reference).stderr
    for kind in (SIGNATURE, PROVENANCE):
        bundle = world.signer().sign(write_statement([("app", image.digest)], kind, {}))
        repository.attach(image, bundle, kind)
    tools.must("cosign", "verify", *key, reference)
    tools.must("cosign", "verify-attestation", "--type", PROVENANCE, *key, reference)
    wrong = tools.run("cosign", "verify-attestation", "--type", "cyclonedx", *key, reference)
    assert wrong.returncode != 0


@pytest.fixture
def signed_by_cosign(world, tools, repository):
    """Sign an image with a command of cosign's; gives the image and the one bundle it made."""
    image = repository.put_image()
    tools.must("cosign", "generate-key-pair")
    (tools.directory / "predicate.json").write_text('{"made": "by hand"}')

    def sign(*command):
        with served(world.clock) as url:
            signing_config(tools, world.clock, url)
            how = ("--key", "cosign.key", "--signing-config", "signing.json", "--yes")
            tools.must("cosign", *command, *how, f"{repository.name}@{image.digest}")
        [data] = repository.bundles(image)
        return image, data

    return sign


def test_we_verify_cosigns_signature_of_an_image(world, tools, signed_by_cosign):
    image, data = signed_by_cosign("sign")
    signed = verify_bundle(data, trusts_cosign(tools, world.clock), now=world.clock.now)
    assert signed.statement.predicate_type == SIGNATURE
    assert signed.statement.is_about(image.digest)


def test_a_statement_of_an_older_version_by_cosign_is_refused(world, tools, signed_by_cosign):
    """`cosign attest` puts predicates into statements v0.1; `attest-blob` signs any statement."""
    _, data = signed_by_cosign("attest", "--predicate", "predicate.json", "--type", PROVENANCE)
    with pytest.raises(SignatureRefused, match="statement: _type"):
        verify_bundle(data, trusts_cosign(tools, world.clock), now=world.clock.now)
