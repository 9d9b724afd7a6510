"""Attesting a release that is there already: the four statements, signed and kept with it.

A build attests what it builds (`activities.build_evidence`). This is for a release that comes from
a directory, as the samples do: whoever calls it answers for what the provenance and the tests say.
"""

import json
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from models.bundle import read_bundle
from models.provenance import Provenance, write_provenance
from models.statement import (
    PROVENANCE,
    SBOM,
    SIGNATURE,
    TESTS,
    read_statement,
    write_statement,
)
from models.strict_json import EvidenceError
from models.test_results import TestResults, write_test_result
from stores.oci import ImageLayout
from stores.sbom import make_sbom
from stores.signing import StatementSigner


def attest_release(
    layout: ImageLayout,
    digest: str,
    signer: StatementSigner,
    *,
    provenance: Provenance,
    tests: TestResults,
    now: datetime,
) -> list[str]:
    """Sign and attach signature, provenance, SBOM and test results of a release in ``layout``.

    Evidence of a kind that is there already about this release is left as it is, so that it may be
    called again after any doubt.

    Args:
        provenance: where the release comes from.
        tests: how its tests ended.
        now: the SBOM's time.

    Returns:
        Digests of the referrers that were added.

    Raises:
        ReleaseError: there is no such release, or it is damaged.
        EvidenceError: the release cannot be described by an SBOM.
        SigningFailed: a statement could not be signed.
    """
    spec = layout.describe(digest)
    present = {_kind(bundle, digest) for bundle in layout.evidence(digest)}
    used = [each for each in provenance.materials if "gitCommit" in each.digest]
    predicates: dict[str, Any] = {
        SIGNATURE: lambda: {},
        PROVENANCE: lambda: write_provenance(provenance),
        SBOM: lambda: _sbom(layout, digest, spec.name, spec.version, now),
        TESTS: lambda: write_test_result(tests, used),
    }
    return [
        layout.attach(
            digest,
            signer.sign(write_statement([(spec.reference, digest)], kind, predicate())),
            kind,
        )
        for kind, predicate in predicates.items()
        if kind not in present
    ]


def _sbom(layout: ImageLayout, digest: str, name: str, version: str, now: datetime) -> Any:
    with tempfile.TemporaryDirectory(prefix="chainring-sbom-") as scratch:
        root = layout.unpack(digest, Path(scratch) / "release")
        return json.loads(make_sbom(root, digest, name=name, version=version, now=now))


def _kind(bundle: bytes, digest: str) -> str:
    """The predicate type of a bundle about this release; whether it stands is not asked here."""
    try:
        statement = read_statement(read_bundle(bundle).envelope.payload)
    except EvidenceError:
        return ""
    return statement.predicate_type if statement.is_about(digest) else ""
