"""A release whose evidence is good in every respect, and ways to spoil one thing of it."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from models.oci import MANIFEST_TYPE
from models.provenance import BUILD_TYPE
from models.release_evidence import (
    Artifact,
    Evidence,
    KnownVulnerability,
    RefusedBundle,
    VulnerabilityReport,
    read_sboms,
)
from models.release_judge import judge_release
from models.release_verdict import ReleaseVerdict, VerdictInputs
from models.sbom_compare import SbomComparison
from models.signed_statement import SignedStatement, Signer
from models.statement import PROVENANCE, SBOM, SIGNATURE, STATEMENT_TYPE, TESTS, Statement
from models.verification_policy import VerificationPolicy, load_policy

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
RELEASE = "sha256:" + "a1" * 32
OTHER = "sha256:" + "b2" * 32
COMMIT = "c3" * 20
REPOSITORY = "https://git.example.org/shop/catalog"
BUILDER = "urn:chainring:builder:test"
KEY = Signer(kind="key", identity="builder")
POLICY = f"""
[signature]
signers = [{{kind = "key", identity = "builder"}}]

[provenance]
signers = [{{kind = "key", identity = "builder"}}]
builders = ["{BUILDER}"]
build_types = ["{BUILD_TYPE}"]
sources = [{{repository = "{REPOSITORY}", refs = ["refs/heads/main"]}}]

[sbom]
signers = [{{kind = "key", identity = "builder"}}]

[tests]
signers = [{{kind = "key", identity = "builder"}}]
required = ["unit::starts"]

[vulnerabilities]
required_sources = ["nvd", "osv"]
"""
INPUTS = VerdictInputs(policy=OTHER, trust_root=OTHER, artifact=OTHER, bundles=[])


def policy(text: str = POLICY, **sections: dict[str, Any]) -> VerificationPolicy:
    """The policy above, with keys of sections replaced."""
    tree = load_policy(text).model_dump()
    for section, keys in sections.items():
        tree[section] |= keys
    return VerificationPolicy.model_validate(tree)


def provenance(**changes: Any) -> dict[str, Any]:
    said = {
        "buildDefinition": {
            "buildType": changes.pop("build_type", BUILD_TYPE),
            "externalParameters": {
                "repository": changes.pop("repository", REPOSITORY),
                "commit": changes.get("commit", COMMIT),
                "ref": changes.pop("ref", "refs/heads/main"),
            },
            "internalParameters": {
                "commitSignature": {"kind": "ssh", "principal": "ana", "fingerprint": "SHA256:x"}
            },
            "resolvedDependencies": [
                {"uri": f"git+{REPOSITORY}", "digest": {"gitCommit": changes.pop("commit", COMMIT)}}
            ],
        },
        "runDetails": {
            "builder": {"id": changes.pop("builder", BUILDER)},
            "metadata": {
                "startedOn": "2026-11-20T10:00:00Z",
                "finishedOn": changes.pop("finished", "2026-11-20T10:05:00Z"),
            },
        },
    }
    if changes.pop("unsigned_commit", False):
        said["buildDefinition"]["internalParameters"] = {}
    assert not changes, changes
    return said


def tests(**changes: Any) -> dict[str, Any]:
    return {
        "result": "PASSED",
        "configuration": [{"name": "chainring.build.toml", "digest": {"sha256": "d" * 64}}],
        "passedTests": ["unit::starts", "unit::answers"],
        "failedTests": [],
        "skippedTests": [],
    } | changes


def component(name: str = "requests", version: str = "2.32.0", **changes: Any) -> dict[str, Any]:
    return {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "bom-ref": f"{name}@{version}",
        "hashes": [{"alg": "SHA-256", "content": "e" * 64}],
    } | changes


def sbom(*components: dict[str, Any], about: str = RELEASE) -> dict[str, Any]:
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "name": "catalog",
                "hashes": [{"alg": "SHA-256", "content": about.removeprefix("sha256:")}],
            }
        },
        "components": list(components) if components else [component()],
    }


PREDICATES: dict[str, Any] = {
    SIGNATURE: dict,
    PROVENANCE: provenance,
    SBOM: sbom,
    TESTS: tests,
}


def signed(
    predicate_type: str,
    predicate: dict[str, Any] | None = None,
    *,
    about: str = RELEASE,
    by: Signer = KEY,
    at: datetime = NOW - timedelta(days=5),
    more: tuple[str, ...] = (),
) -> SignedStatement:
    """A statement whose signature was found good."""
    if predicate is None:
        predicate = PREDICATES[predicate_type]()
    subject = [{"digest": {"sha256": each.removeprefix("sha256:")}} for each in (about, *more)]
    statement = Statement.model_validate(
        {
            "_type": STATEMENT_TYPE,
            "subject": subject,
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )
    content = f"{statement.model_dump_json()} {by} {at}".encode()
    return SignedStatement(
        statement=statement,
        signer=by,
        signed_at=at,
        key_id="f" * 64,
        digest="sha256:" + sha256(content).hexdigest(),
    )


def good_statements() -> dict[str, SignedStatement]:
    """One statement of each kind, by predicate type."""
    return {kind: signed(kind) for kind in PREDICATES}


def report(*found: KnownVulnerability, **changes: Any) -> VulnerabilityReport:
    hour = timedelta(hours=1)
    facts: dict[str, Any] = {
        "snapshot": OTHER,
        "sources": {"nvd": NOW - hour, "osv": NOW - hour},
        "records": 1000,
        "components": 1,
        "found": list(found),
    }
    return VulnerabilityReport(**facts | changes)


def evidence(*statements: SignedStatement, **changes: Any) -> Evidence:
    """The evidence of `RELEASE`: these statements, every SBOM of which fits the artifact."""
    fits = SbomComparison(subject_matches=True)
    facts: dict[str, Any] = {
        "release": RELEASE,
        "artifact": Artifact(digest=RELEASE, media_type=MANIFEST_TYPE),
        "vulnerabilities": report(),
        "statements": tuple(statements),
        "sboms": read_sboms(statements, RELEASE),
        "comparisons": {
            each.digest: fits for each in statements if each.statement.predicate_type == SBOM
        },
    }
    return Evidence(**facts | changes)


def replaced(*statements: SignedStatement) -> list[SignedStatement]:
    """The good statements, with those given in the place of theirs."""
    good = good_statements()
    for each in statements:
        good[each.statement.predicate_type] = each
    return list(good.values())


def without(kind: str) -> list[SignedStatement]:
    return [each for each in good_statements().values() if each.statement.predicate_type != kind]


def judge(given: Evidence, under: VerificationPolicy | None = None) -> ReleaseVerdict:
    return judge_release(given, under or policy(), phase="test", at=NOW, inputs=INPUTS)


def failed(verdict: ReleaseVerdict) -> dict[str, str]:
    """The checks that did not pass: everything they say, by name."""
    return {check.name: "; ".join([check.why, *check.details]) for check in verdict.failed()}


def refused(code: str, detail: str = "") -> RefusedBundle:
    return RefusedBundle(digest=OTHER, code=code, detail=detail)
