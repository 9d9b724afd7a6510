"""What a release holds: its SBOM against the artifact, and what is known against the components."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from models.judge_signers import Accepted, missing_evidence
from models.package_names import sbom_doubts
from models.release_evidence import Evidence, KnownVulnerability, VulnerabilityReport
from models.release_verdict import Check, limited
from models.sbom import Component, Sbom
from models.sbom_compare import SbomComparison
from models.signed_statement import SignedStatement
from models.strict_json import EvidenceError
from models.verification_policy import SbomPolicy, VerificationPolicy, VulnerabilityPolicy

STRONG_HASHES = frozenset(
    {"SHA-256", "SHA-384", "SHA-512", "SHA3-256", "SHA3-384", "SHA3-512", "BLAKE2b-256"}
    | {"BLAKE2b-384", "BLAKE2b-512", "BLAKE3"}
)


def accepted_sboms(
    evidence: Evidence, accepted: Accepted
) -> list[tuple[SignedStatement, Sbom | EvidenceError]]:
    """The bills of materials that count; one that cannot be read is its error."""
    return [(each, evidence.sboms[each.digest]) for each in accepted.by_kind["sbom"]]


def check_sbom(evidence: Evidence, accepted: Accepted, policy: VerificationPolicy) -> Check:
    """The bill is attested, about this release, not empty, and lists what the artifact holds."""
    missing = missing_evidence(evidence, accepted, "sbom")
    if missing is not None:
        return missing
    faults: list[str] = []
    errors: list[str] = []
    count = 0
    for signed, sbom in accepted_sboms(evidence, accepted):
        label = accepted.label(signed)
        if isinstance(sbom, EvidenceError):
            faults.append(f"{label}: {sbom}")
            continue
        count = max(count, len(sbom.components))
        faults += [f"{label}: {fault}" for fault in _faults(sbom, evidence.release, policy.sbom)]
        compared = evidence.comparisons.get(signed.digest)
        if isinstance(compared, SbomComparison):
            faults += [f"{label}: {fault}" for fault in _differences(compared, policy.sbom)]
        else:
            errors.append(
                compared.why if compared else f"{label} was not compared with the artifact"
            )
    if faults:
        return Check(name="sbom", outcome="fail", why=faults[0], details=limited(faults))
    if errors:
        return Check(name="sbom", outcome="error", why=errors[0], details=limited(errors))
    why = f"{count} components, as the artifact holds them"
    return Check(name="sbom", outcome="pass", why=why)


def _faults(sbom: Sbom, release: str, policy: SbomPolicy) -> Iterator[str]:
    if sbom.subject_digest != release:
        yield f"says that it is about {sbom.subject_digest or 'nothing'}"
    if len(sbom.components) < policy.minimum_components:
        least = policy.minimum_components
        yield f"lists {len(sbom.components)} components, at least {least} are due"
    if policy.require_hashes:
        yield from (
            f"{each.label!a:.200} has no hash" for each in sbom.components if _unhashed(each)
        )
    for component in sbom.packages:
        if component.purl is None and component.kind == "library":
            yield f"{component.label!a:.200} has no package URL, so nothing can be looked up"
    for doubt in sbom_doubts(sbom.components):
        if doubt.code not in policy.allow_doubtful_names:
            yield f"{doubt.component!a:.200}: {doubt.code}: {doubt.detail}"


def _unhashed(component: Component) -> bool:
    return component.scope == "required" and not STRONG_HASHES & set(component.hashes)


def _differences(compared: SbomComparison, policy: SbomPolicy) -> Iterator[str]:
    if compared.covers and (policy.allow_overstated or not compared.overstates):
        return
    yield from compared.reasons()


def check_vulnerabilities(
    evidence: Evidence, accepted: Accepted, policy: VerificationPolicy, at: datetime
) -> Check:
    """Nothing that the policy blocks is known; and what is known is complete and fresh."""
    name = "vulnerabilities"
    if not accepted.by_kind["sbom"] and evidence.listing is None:
        why = "there is no SBOM that counts to look up"
        return Check(name=name, outcome="fail", why=why)
    report = evidence.vulnerabilities if accepted.by_kind["sbom"] else evidence.listing
    if not isinstance(report, VulnerabilityReport):
        why = report.why if report else "nothing was looked up"
        return Check(name=name, outcome="error", why=why)
    return _check_report(report, policy, at)


def _check_report(report: VulnerabilityReport, policy: VerificationPolicy, at: datetime) -> Check:
    name = "vulnerabilities"
    blocking = [found for found in report.found if _blocks(found, policy.vulnerabilities)]
    if blocking:
        lines = [
            _line(found) for found in sorted(blocking, key=lambda one: (one.id, one.component))
        ]
        why = f"{len(blocking)} that the policy blocks: {lines[0]}"
        return Check(name=name, outcome="fail", why=why, details=limited(lines))
    stale = list(_stale(report, policy.vulnerabilities, policy.ages.clock_skew_seconds, at))
    if stale:
        return Check(name=name, outcome="error", why=stale[0], details=limited(stale))
    notes = [f"nothing is known of {component}" for component in report.unmatched]
    uncovered = list(_uncovered(report, policy.vulnerabilities))
    if uncovered:
        why = f"{uncovered[0]}; a feed that covers it is needed, or vulnerabilities.allow_uncovered"
        return Check(name=name, outcome="fail", why=why, details=limited(uncovered))
    cleared = [
        f"{found.id} in {found.component}: {found.cleared_by}"
        for found in report.found
        if found.cleared_by
    ]
    why = f"{report.components} components looked up in {report.records} advisories; "
    why += f"{len(report.found)} found, none blocks"
    return Check(name=name, outcome="pass", why=why, details=limited([*cleared, *notes]))


def _blocks(found: KnownVulnerability, policy: VulnerabilityPolicy) -> bool:
    if found.cleared_by:
        return False
    if found.known_exploited and policy.block_known_exploited:
        return True
    bound = policy.block_epss_from
    if bound is not None and found.epss is not None and found.epss >= bound:
        return True
    rule: str = getattr(policy.severities, found.severity)
    return rule == "block"


def _uncovered(report: VulnerabilityReport, policy: VulnerabilityPolicy) -> Iterator[str]:
    """Components of which nothing can be known, and which the policy does not let pass so."""
    if policy.uncovered == "allow":
        return
    for component in report.unmatched:
        bare = component.partition("?")[0].partition("#")[0].rpartition("@")
        if (bare[0] or bare[2]) not in policy.allow_uncovered:
            yield f"nothing can be known of {component!a:.300}"


def _line(found: KnownVulnerability) -> str:
    exploited = ", known to be exploited" if found.known_exploited else ""
    fixed = f", fixed in {', '.join(found.fixed_in)}" if found.fixed_in else ""
    ignored = f" ({'; '.join(found.not_cleared)})" if found.not_cleared else ""
    return f"{found.id} ({found.severity}{exploited}) in {found.component}{fixed}{ignored}"


def _stale(
    report: VulnerabilityReport, policy: VulnerabilityPolicy, skew: float, at: datetime
) -> Iterator[str]:
    if report.records == 0:
        yield "the vulnerability database is empty"
    if not policy.required_sources:
        yield "no vulnerability feed is required, so none was waited for"
    for name in policy.required_sources:
        loaded = report.sources.get(name)
        if loaded is None:
            yield f"vulnerability feed {name} was never loaded"
        elif loaded - at > timedelta(seconds=skew):
            yield f"vulnerability feed {name} is from the future: {loaded:%Y-%m-%d %H:%M:%SZ}"
        elif at - loaded > timedelta(hours=policy.max_data_age_hours):
            hours = (at - loaded).total_seconds() / 3600
            yield (
                f"vulnerability feed {name} is {hours:.0f} hours old, the limit is "
                f"{policy.max_data_age_hours:g}"
            )
