"""The supply chain's part of a home: what releases are judged by, and the verifier that judges."""

from datetime import datetime
from pathlib import Path

from activities.evidence import EvidenceActivities
from activities.release_verifier import RegistryVerifier, VulnerabilitySource
from activities.verification import Heartbeat, Judgement, ReleaseVerifier
from activities.vulnerabilities import VulnerabilityActivities
from models.addresses import ControlAddresses, VerificationAddress
from models.release_verdict import Check, ReleaseVerdict, VerdictInputs
from models.verification_policy import load_policy
from stores.evidence_archive import EvidenceArchive
from stores.files import write_atomic
from stores.ledger import Ledger
from stores.oci import ImageLayout
from stores.templates import render_policy
from stores.vulnerabilities import VulnerabilityStore
from stores.vulnerability_report import VulnerabilityReports, Words
from workers.release_store import evidence_registry


def prepare_verification(root: Path, issuer: str | None = None) -> VerificationAddress:
    """Where a home keeps what releases are judged by; a policy that is there is left as it is.

    The trust root and the vulnerability data are not made up here: until they are there, every
    verdict is an error.

    Args:
        issuer: whose OIDC identities may sign under the policy of a new home; by default a key may.
    """
    folder = root / "verification"
    folder.mkdir(parents=True, exist_ok=True)
    address = VerificationAddress(
        policy=folder / "policy.toml",
        trust_root=folder / "trust.json",
        vulnerabilities=folder / "vulnerabilities.db",
        vex=folder / "vex",
        exceptions=folder / "exceptions.toml",
        archive=root / "evidence",
    )
    if not address.policy.exists():
        text = render_policy(issuer=issuer) if issuer else render_policy()
        load_policy(text)
        write_atomic(address.policy, text.encode())
    return address


def release_verifier(addresses: ControlAddresses, layout: ImageLayout) -> ReleaseVerifier:
    """The verifier that the addresses describe."""
    address = addresses.verification
    if address is None:
        return NoVerifier()
    return RegistryVerifier(
        layout=layout,
        registry=evidence_registry(layout),
        archive=EvidenceArchive(address.archive),
        vulnerabilities=vulnerability_source(address),
        policy=address.policy,
        trust_root=address.trust_root,
        config=addresses.config,
    )


def evidence_activities(addresses: ControlAddresses, ledger: Ledger) -> EvidenceActivities:
    """What looks after the archive that the addresses name."""
    address = addresses.verification
    return EvidenceActivities(ledger, EvidenceArchive(address.archive) if address else None)


def vulnerability_source(address: VerificationAddress) -> VulnerabilitySource:
    """The database of known vulnerabilities that the address names."""
    beside = address.policy.parent
    words = Words(
        vex=address.vex or beside / "vex",
        exceptions=address.exceptions or beside / "exceptions.toml",
    )
    return VulnerabilityReports(VulnerabilityStore(address.vulnerabilities), words)


def vulnerability_activities(addresses: ControlAddresses) -> list[VulnerabilityActivities]:
    """What loads vulnerability data; nothing where the addresses name no database."""
    address = addresses.verification
    if address is None:
        return []
    store = VulnerabilityStore(address.vulnerabilities)
    return [VulnerabilityActivities(store, addresses.config)]


class NoVerifier:
    """Stands where nobody said what to judge by: its every verdict is an error."""

    def verify(self, release: str, *, phase: str, at: datetime, heartbeat: Heartbeat) -> Judgement:
        """An error, which lets nothing through."""
        why = "the control worker's addresses name no verification policy (`verification`)"
        verdict = ReleaseVerdict(
            release=release,
            phase=phase,
            at=at,
            outcome="error",
            why=why,
            checks=[Check(name="policy", outcome="error", why=why)],
            inputs=VerdictInputs(policy=None, trust_root=None, artifact=None, bundles=[]),
        )
        return Judgement(verdict, None)
