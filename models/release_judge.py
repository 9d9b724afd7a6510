"""The judgement over a release's evidence: one verdict over all of it together.

Pure: the same evidence, policy and time give the same verdict, today and in seven years. The checks
look at signatures and identities, provenance, tests, contents and vulnerabilities, and at whether
all of them speak of one digest, one source and one builder.
"""

from collections.abc import Iterator
from datetime import datetime

from models.ids import short
from models.judge_contents import check_sbom, check_vulnerabilities
from models.judge_origin import Origin, check_provenance, check_tests, contradictions
from models.judge_signers import Accepted, accept, check_identity, check_kind
from models.oci import INDEX_TYPE, MANIFEST_TYPE
from models.release_evidence import Evidence, Unread
from models.release_verdict import Check, ReleaseVerdict, VerdictInputs, conclude, limited
from models.verification_policy import VerificationPolicy


def judge_release(
    evidence: Evidence,
    policy: VerificationPolicy,
    *,
    phase: str,
    at: datetime,
    inputs: VerdictInputs,
) -> ReleaseVerdict:
    """One verdict over everything.

    Args:
        phase: why it is judged; it does not change the verdict.
        at: the time by which ages are judged.
        inputs: digests of what went in, for the verdict to name.
    """
    accepted = accept(evidence, policy)
    origin = check_provenance(evidence, accepted, policy)
    checks = [
        check_artifact(evidence),
        check_listing(evidence),
        check_identity(evidence, accepted, policy),
        check_kind(evidence, accepted, "signature"),
        origin.check,
        check_tests(evidence, accepted, policy),
        check_sbom(evidence, accepted, policy),
        check_vulnerabilities(evidence, accepted, policy, at),
        check_agreement(evidence, origin, accepted),
        check_ages(accepted, policy, at),
    ]
    outcome, why = conclude(checks)
    return ReleaseVerdict(
        release=evidence.release,
        phase=phase,
        at=at,
        outcome=outcome,
        why=why,
        checks=checks,
        inputs=inputs,
        source=_only(origin.sources),
        builder=_only(origin.builders),
    )


def _only(named: list[str]) -> str:
    """The one thing that all name; nothing where they differ."""
    return named[0] if len(named) == 1 else ""


def check_artifact(evidence: Evidence) -> Check:
    """The bytes are those of the digest, all of them, and they are one image and not a choice."""
    artifact = evidence.artifact
    if isinstance(artifact, Unread):
        return Check(name="artifact", outcome="error", why=artifact.why)
    faults = list(artifact.problems)
    if artifact.digest != evidence.release:
        faults.append(f"the registry's bytes are {artifact.digest}, not the digest asked about")
    if artifact.media_type == INDEX_TYPE:
        faults.append("is an index of several images: name the one that is to run")
    elif artifact.media_type != MANIFEST_TYPE:
        faults.append(f"is no image: {artifact.media_type}")
    if faults:
        return Check(name="artifact", outcome="fail", why=faults[0], details=limited(faults))
    return Check(name="artifact", outcome="pass", why="every byte is the digest's")


def check_listing(evidence: Evidence) -> Check:
    """All that the registry keeps with the release could be read, and is about the release."""
    if evidence.damaged:
        return Check(name="evidence", outcome="fail", why=evidence.damaged)
    if evidence.listing is not None:
        return Check(name="evidence", outcome="error", why=evidence.listing.why)
    said = [f"{short(each.digest)}: {each.code}: {each.detail:.300}" for each in evidence.refused]
    why = f"{len(evidence.statements)} signed statements, {len(said)} bundles that do not count"
    return Check(name="evidence", outcome="pass", why=why, details=limited(said))


def check_agreement(evidence: Evidence, origin: Origin, accepted: Accepted) -> Check:
    """All of the evidence that counts speaks of one source and one builder."""
    if not accepted.all() and evidence.listing is not None:
        return Check(name="agreement", outcome="error", why=evidence.listing.why)
    faults: list[str] = []
    if not origin.named:
        faults.append("no evidence that counts says where the release comes from")
    if len(origin.sources) > 1:
        faults.append(f"the evidence names several sources: {', '.join(origin.sources)}")
    if len(origin.builders) > 1:
        faults.append(f"the evidence names several builders: {', '.join(origin.builders)}")
    faults += contradictions(accepted, origin)
    if faults:
        return Check(name="agreement", outcome="fail", why=faults[0], details=limited(faults))
    why = "one digest, one source, one builder"
    return Check(name="agreement", outcome="pass", why=why)


def check_ages(accepted: Accepted, policy: VerificationPolicy, at: datetime) -> Check:
    """Nothing is older than it may be, or from the future, by the clocks that are trusted."""
    faults = list(_ages(accepted, policy, at))
    if faults:
        return Check(name="age", outcome="fail", why=faults[0], details=limited(faults))
    return Check(name="age", outcome="pass", why="nothing is too old")


def _ages(accepted: Accepted, policy: VerificationPolicy, at: datetime) -> Iterator[str]:
    ages = policy.ages
    for signed in accepted.all():
        if (signed.signed_at - at).total_seconds() > ages.clock_skew_seconds:
            yield f"{accepted.label(signed)} was signed in the future"
    for kind, statements in accepted.by_kind.items():
        if not statements:
            continue
        newest = max(each.signed_at for each in statements)
        if (days := (at - newest).total_seconds() / 86400) > ages.max_evidence_days:
            yield (
                f"the newest {kind} is {days:.0f} days old, the limit is {ages.max_evidence_days:g}"
            )
    built = [each.signed_at for each in accepted.by_kind["provenance"]]
    if built and (days := (at - min(built)).total_seconds() / 86400) > ages.max_artifact_days:
        yield (
            f"the release was built {days:.0f} days ago, the limit is {ages.max_artifact_days:g}"
        )
