"""From the bytes that were archived to a verdict: the same today and whenever it is replayed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from models.canonical import canonical
from models.judge_contents import accepted_sboms
from models.judge_signers import accept
from models.release_evidence import (
    Artifact,
    Evidence,
    RefusedBundle,
    Unread,
    VulnerabilityReport,
    read_sboms,
)
from models.release_judge import judge_release
from models.release_verdict import Check, ReleaseVerdict, VerdictInputs, conclude
from models.sbom import Component, Sbom
from models.sbom_compare import Contents, SbomComparison, compare
from models.signed_statement import SignatureRefused, SignedStatement
from models.strict_json import EvidenceError, read_object
from models.trust import TrustRoot, read_trust_root
from models.verification_policy import PolicyError, VerificationPolicy, read_policy
from stores.bundle_verifier import verify_bundle
from stores.consulted import Consulted
from stores.evidence_archive import ArchiveError, EvidenceArchive, digest_of
from stores.vulnerability_report import Spoken, make_report

_CONTENTS = TypeAdapter(Contents)
DAMAGED = "damaged"
"""The problem that is the evidence's own fault; all others say what could not be read."""


@dataclass(frozen=True)
class Inputs:
    """All that a verdict is given on, as bytes; what could not be had is in ``problems``.

    Attributes:
        problems: why, by what is missing: ``policy``, ``trust root``, ``artifact``, ``listing``,
            ``damaged``, ``contents``, ``vulnerabilities``.
        vulnerabilities: the report, which is made of ``advisories`` and ``spoken``.
    """

    policy: bytes | None = None
    trust_root: bytes | None = None
    artifact: bytes | None = None
    bundles: tuple[bytes, ...] = ()
    contents: bytes | None = None
    vulnerabilities: bytes | None = None
    advisories: bytes | None = None
    spoken: Spoken = field(default_factory=Spoken)
    problems: Mapping[str, str] = field(default_factory=dict)

    def digests(self) -> VerdictInputs:
        """What a verdict names them by."""
        return VerdictInputs(
            policy=_digest(self.policy),
            trust_root=_digest(self.trust_root),
            artifact=_digest(self.artifact),
            bundles=sorted({digest_of(bundle) for bundle in self.bundles}),
            contents=_digest(self.contents),
            vulnerabilities=_digest(self.vulnerabilities),
            advisories=_digest(self.advisories),
            vex={name: digest_of(content) for name, content in sorted(self.spoken.vex.items())},
            exceptions=_digest(self.spoken.exceptions),
            problems=_digest(_problems(self.problems)),
        )

    def keep(self, archive: EvidenceArchive) -> None:
        """Archive every part; raises OSError and `ArchiveError`."""
        parts = (self.policy, self.trust_root, self.artifact, self.contents, self.vulnerabilities)
        said = (self.advisories, *self.spoken.vex.values(), self.spoken.exceptions)
        for part in (*parts, *said, *self.bundles, _problems(self.problems)):
            if part is not None:
                archive.put(part)


def from_archive(archive: EvidenceArchive, named: VerdictInputs) -> Inputs:
    """The inputs that a verdict names.

    Raises:
        ArchiveError: one of them is not in the archive, or no longer what it was.
    """

    def get(digest: str | None) -> bytes | None:
        return None if digest is None else archive.get(digest)

    problems = get(named.problems)
    return Inputs(
        policy=get(named.policy),
        trust_root=get(named.trust_root),
        artifact=get(named.artifact),
        bundles=tuple(archive.get(digest) for digest in named.bundles),
        contents=get(named.contents),
        vulnerabilities=get(named.vulnerabilities),
        advisories=get(named.advisories),
        spoken=Spoken(
            vex={name: archive.get(digest) for name, digest in named.vex.items()},
            exceptions=get(named.exceptions),
        ),
        problems={} if problems is None else _read_problems(problems),
    )


def judge_inputs(inputs: Inputs, *, release: str, phase: str, at: datetime) -> ReleaseVerdict:
    """The verdict on ``inputs`` as of ``at``. It depends on nothing else."""
    named = inputs.digests()
    try:
        policy, trust = rules(inputs)
    except (PolicyError, EvidenceError) as error:
        return no_verdict(str(error), named, release=release, phase=phase, at=at)
    evidence = gathered(inputs, policy, trust, release=release, at=at)
    return judge_release(evidence, policy, phase=phase, at=at, inputs=named)


def report_doubt(inputs: Inputs, *, release: str, at: datetime) -> str:
    """Why the report on vulnerabilities does not follow from what it says it was made of.

    Empty where it does, and where there is no report.
    """
    if inputs.vulnerabilities is None:
        return ""
    if inputs.advisories is None:
        return "the advisories that the report was made of were not archived"
    try:
        policy, trust = rules(inputs)
        parts = components(gathered(inputs, policy, trust, release=release, at=at), policy)
        again = make_report(
            Consulted(inputs.advisories), inputs.spoken, release, parts or [], at=at
        )
    except (PolicyError, EvidenceError) as error:
        return str(error)
    same = report_bytes(again) == inputs.vulnerabilities
    return "" if same else "the archived advisories and statements give another report"


def no_verdict(
    why: str, named: VerdictInputs, *, release: str, phase: str, at: datetime
) -> ReleaseVerdict:
    """The verdict where there is nothing to judge by: an error."""
    checks = [Check(name="policy", outcome="error", why=why)]
    outcome, reason = conclude(checks)
    return ReleaseVerdict(
        release=release,
        phase=phase,
        at=at,
        outcome=outcome,
        why=reason,
        checks=checks,
        inputs=named,
    )


def rules(inputs: Inputs) -> tuple[VerificationPolicy, TrustRoot]:
    """The policy and the trust root.

    Raises:
        PolicyError, EvidenceError: one of them cannot be had; the message says which and why.
    """
    if inputs.policy is None:
        raise PolicyError(inputs.problems.get("policy", "there is no verification policy"))
    if inputs.trust_root is None:
        raise EvidenceError(inputs.problems.get("trust root", "there is no trust root"))
    return read_policy(inputs.policy), read_trust_root(inputs.trust_root)


def gathered(
    inputs: Inputs, policy: VerificationPolicy, trust: TrustRoot, *, release: str, at: datetime
) -> Evidence:
    """Verify every bundle, and put together what is judged."""
    listing = inputs.problems.get("listing")
    statements, refused = _verified(inputs.bundles, trust, at)
    evidence = Evidence(
        release=release,
        artifact=_artifact(inputs),
        vulnerabilities=_report(inputs),
        listing=None if listing is None else Unread(why=listing),
        damaged=inputs.problems.get(DAMAGED, ""),
        statements=statements,
        refused=refused,
        sboms=read_sboms(statements, release),
    )
    return replace(evidence, comparisons=_compared(inputs, evidence, policy))


def components(evidence: Evidence, policy: VerificationPolicy) -> list[Component] | None:
    """The packages that the SBOMs which count name, each once; None where no SBOM counts."""
    sboms = [sbom for _, sbom in accepted_sboms(evidence, accept(evidence, policy))]
    if not any(isinstance(sbom, Sbom) for sbom in sboms):
        return None
    found = {
        (each.purl, each.name, each.version): each
        for sbom in sboms
        if isinstance(sbom, Sbom)
        for each in sbom.packages
    }
    return list(found.values())


def artifact_bytes(artifact: Artifact) -> bytes:
    """An artifact's facts for the archive."""
    return canonical(artifact.model_dump(mode="json"))


def contents_bytes(contents: Contents) -> bytes:
    """An artifact's contents for the archive."""
    return _CONTENTS.dump_json(contents)


def report_bytes(report: VulnerabilityReport) -> bytes:
    """What is known against the components, for the archive."""
    return canonical(report.model_dump(mode="json"))


def _verified(
    bundles: tuple[bytes, ...], trust: TrustRoot, at: datetime
) -> tuple[tuple[SignedStatement, ...], tuple[RefusedBundle, ...]]:
    statements: dict[str, SignedStatement] = {}
    refused: dict[str, RefusedBundle] = {}
    for bundle in bundles:
        digest = digest_of(bundle)
        try:
            statements[digest] = verify_bundle(bundle, trust, now=at)
        except SignatureRefused as error:
            refused[digest] = RefusedBundle(digest=digest, code=error.code, detail=error.detail)
    return (
        tuple(statements[digest] for digest in sorted(statements)),
        tuple(refused[digest] for digest in sorted(refused)),
    )


def _artifact(inputs: Inputs) -> Artifact | Unread:
    if inputs.artifact is None:
        return Unread(why=inputs.problems.get("artifact", "the artifact was not read"))
    return Artifact.model_validate_json(inputs.artifact)


def _report(inputs: Inputs) -> VulnerabilityReport | Unread:
    if inputs.vulnerabilities is None:
        why = inputs.problems.get("vulnerabilities", "no vulnerability database was asked")
        return Unread(why=why)
    return VulnerabilityReport.model_validate_json(inputs.vulnerabilities)


def _compared(
    inputs: Inputs, evidence: Evidence, policy: VerificationPolicy
) -> dict[str, SbomComparison | Unread]:
    contents = _contents(inputs)
    return {
        signed.digest: contents
        if isinstance(contents, Unread)
        else compare(sbom, contents, digest=evidence.release)
        for signed, sbom in accepted_sboms(evidence, accept(evidence, policy))
        if isinstance(sbom, Sbom)
    }


def _contents(inputs: Inputs) -> Contents | Unread:
    if inputs.contents is None:
        return Unread(why=inputs.problems.get("contents", "the artifact was not looked into"))
    return _CONTENTS.validate_json(inputs.contents)


def _digest(content: bytes | None) -> str | None:
    return None if content is None else digest_of(content)


def _problems(problems: Mapping[str, str]) -> bytes | None:
    return canonical(dict(problems)) if problems else None


def _read_problems(data: bytes) -> dict[str, str]:
    try:
        return TypeAdapter(dict[str, str]).validate_python(read_object(data, what="problems"))
    except (ValidationError, EvidenceError) as error:
        raise ArchiveError(f"problems: {error}") from None
