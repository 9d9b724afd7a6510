"""Whose evidence counts: statements about this very digest, by signers that the policy names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from models.ids import short
from models.release_evidence import PREDICATES, Evidence, kind_of
from models.release_verdict import Check, limited
from models.signed_statement import SignedStatement
from models.verification_policy import EVIDENCE_KINDS, EvidenceKind, VerificationPolicy


@dataclass(frozen=True)
class Accepted:
    """The statements that count, by kind. All of them must hold, not the best one."""

    by_kind: Mapping[EvidenceKind, list[SignedStatement]]

    def all(self) -> list[SignedStatement]:
        """Every statement that counts."""
        return [each for statements in self.by_kind.values() for each in statements]

    def label(self, signed: SignedStatement) -> str:
        """How a message names a statement."""
        kind = kind_of(signed.statement.predicate_type) or "statement"
        return f"{kind} {short(signed.digest)}"


def accept(evidence: Evidence, policy: VerificationPolicy) -> Accepted:
    """The statements that count under a policy."""
    return Accepted(
        {
            kind: [
                signed
                for signed in evidence.of_kind(kind)
                if signed.statement.is_about(evidence.release) and _is_allowed(signed, kind, policy)
            ]
            for kind in EVIDENCE_KINDS
        }
    )


def check_identity(evidence: Evidence, accepted: Accepted, policy: VerificationPolicy) -> Check:
    """Wherever a kind of evidence is there about this release, one who may has signed it."""
    faults: list[str] = []
    for kind in EVIDENCE_KINDS:
        if accepted.by_kind[kind]:
            continue
        allowed = "; ".join(each.words() for each in policy.signers(kind)) or "nobody"
        for signed in evidence.of_kind(kind):
            if signed.statement.is_about(evidence.release):
                signer = signer_words(signed)
                faults.append(f"{kind} is signed by {signer}; the policy allows {allowed}")
    if faults:
        return Check(name="identity", outcome="fail", why=faults[0], details=limited(faults))
    if not accepted.all() and evidence.listing is not None:
        return Check(name="identity", outcome="error", why=evidence.listing.why)
    if not accepted.all():
        return Check(
            name="identity", outcome="fail", why="nobody whom the policy names has signed anything"
        )
    who = sorted({signer_words(signed) for signed in accepted.all()})
    return Check(name="identity", outcome="pass", why=f"signed by {', '.join(who)}")


def check_kind(evidence: Evidence, accepted: Accepted, kind: EvidenceKind) -> Check:
    """Evidence of a kind is there; an attestation of another kind does not stand in for it."""
    missing = missing_evidence(evidence, accepted, kind)
    if missing is not None:
        return missing
    who = sorted({signer_words(signed) for signed in accepted.by_kind[kind]})
    return Check(name=kind, outcome="pass", why=f"by {', '.join(who)}")


def missing_evidence(evidence: Evidence, accepted: Accepted, kind: EvidenceKind) -> Check | None:
    """The check that says why no evidence of a kind counts; None where some does."""
    if accepted.by_kind[kind]:
        return None
    if evidence.listing is not None:
        return Check(name=kind, outcome="error", why=evidence.listing.why)
    details = list(_near_misses(evidence, kind))
    why = f"nothing that counts as {kind} is kept with the release"
    return Check(name=kind, outcome="fail", why=why, details=limited(details))


def signer_words(signed: SignedStatement) -> str:
    """Who signed, in words; letters that could pass for others are shown as what they are."""
    signer = signed.signer
    of = f" of {signer.issuer!a}" if signer.issuer else ""
    return f"{signer.kind} {signer.identity!a}{of}"


def _near_misses(evidence: Evidence, kind: EvidenceKind) -> Iterator[str]:
    """What is there instead: it is the first thing that a person wants to know."""
    for signed in evidence.of_kind(kind):
        subjects = signed.statement.subject
        if signed.statement.is_about(evidence.release):
            yield f"{short(signed.digest)} is signed by {signer_words(signed)}, who may not"
        elif len(subjects) > 1:
            yield f"{short(signed.digest)} is about {len(subjects)} artifacts, not this one alone"
        else:
            yield f"{short(signed.digest)} is about {subjects[0].sha256}"
    for signed in evidence.statements:
        found = signed.statement.predicate_type
        if kind_of(found) is None:
            wanted = PREDICATES[kind]
            yield f"{short(signed.digest)} has predicate type {found!a:.120}, not {wanted}"
    for refused in evidence.refused:
        yield f"{short(refused.digest)} is refused: {refused.code}: {refused.detail:.300}"


def _is_allowed(signed: SignedStatement, kind: EvidenceKind, policy: VerificationPolicy) -> bool:
    signer = signed.signer
    return any(
        each.allows(signer.kind, signer.identity, signer.issuer) for each in policy.signers(kind)
    )
