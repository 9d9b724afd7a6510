"""The port of a release store: releases by digest, and the evidence that is kept with each.

Evidence of a release is an OCI referrer of its digest (image specification 1.1, "Guidelines for
Artifact Usage"): a manifest that names the release as its ``subject`` and holds a Sigstore bundle.
Implementations: `stores.oci.ImageLayout` on disk, `stores.http_registry.HttpRepository` for one
name in a registry, `stores.registry_source.RegistrySource` for all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.bundle import MEDIA_TYPE as BUNDLE_TYPE
from models.oci import MANIFEST_TYPE, Descriptor, Manifest, decode, encode
from models.strict_json import EvidenceError

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
MAX_REFERRERS = 256
MAX_BUNDLE_BYTES = 16 * 1024**2

CONTENT_ANNOTATION = "dev.sigstore.bundle.content"
PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"


@dataclass(frozen=True)
class Referrer:
    """A manifest that says it is about a release; what it says is checked when it is opened."""

    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)


class ReleaseRegistry(Protocol):
    """Where releases and their evidence are kept."""

    def resolve(self, reference: str) -> str:
        """The digest that ``name:version`` or a digest stands for now; raises `ReleaseNotFound`."""

    def manifest_bytes(self, digest: str) -> bytes:
        """A manifest's bytes, checked against the digest; raises `ReleaseError`."""

    def attach(self, subject: str, bundle: bytes, predicate_type: str) -> str:
        """Keep a bundle with a release; the same bundle again changes nothing.

        Returns:
            The digest of the referrer's manifest.

        Raises:
            ReleaseNotFound: there is no such release.
        """

    def referrers(self, subject: str) -> Sequence[Referrer]:
        """All manifests that name a release as their subject, sorted by digest."""

    def evidence(self, subject: str) -> Sequence[bytes]:
        """The bundles kept with a release, each manifest opened and its subject checked.

        Raises:
            ReleaseError: a referrer is damaged, or is about another release.
        """


def referrer_manifest(subject: Descriptor, bundle: Descriptor, predicate_type: str) -> bytes:
    """The manifest that ties a bundle to a release; a function of the two alone."""
    empty = {"mediaType": EMPTY_TYPE, "digest": EMPTY_DIGEST, "size": len(EMPTY)}
    return encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": BUNDLE_TYPE,
            "config": empty,
            "layers": [bundle.model_dump(by_alias=True, mode="json")],
            "subject": subject.model_dump(by_alias=True, mode="json"),
            "annotations": {
                CONTENT_ANNOTATION: "dsse-envelope",
                PREDICATE_ANNOTATION: predicate_type,
            },
        }
    )


def open_referrer(content: bytes, subject: str) -> Descriptor | None:
    """The bundle in a referrer's manifest; None when it holds something that is no bundle.

    Raises:
        EvidenceError: not a manifest, or its subject is another digest.
    """
    try:
        value: dict[str, Any] = decode(content)
        manifest = Manifest.model_validate(value)
        about = Descriptor.model_validate(value.get("subject"))
    except ValueError as error:
        raise EvidenceError(f"referrer: {error}") from None
    if about.digest != subject:
        raise EvidenceError(f"referrer: its subject is {about.digest}, not {subject}")
    if value.get("artifactType") != BUNDLE_TYPE:
        return None
    if len(manifest.layers) != 1 or manifest.layers[0].media_type != BUNDLE_TYPE:
        raise EvidenceError("referrer: does not hold exactly one bundle")
    return manifest.layers[0]
