"""What of a configuration Chainring acts on, and what it only accepts so far.

Every key of the source document is accepted, but some belong to parts that are still to come. Those
are listed here, so that ``chainring config check`` can say so: nobody shall believe in a protection
that a key merely spells. A key that is in neither table fails the tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from models.config import Config
from models.config_sections import Region

ENFORCED: dict[str, str] = {
    "fleet.name": "one rollout at a time has the fleet of this name",
    "tenants.total_tenants": "seeding creates as many",
    "tenants.shards": "seeding spreads the tenants over as many shards",
    "tenants.tenants_per_shard": "checked against total_tenants and shards",
    "isolation.per_tenant_kv": "every tenant has a namespace of its own in the region's KV store",
    "isolation.zone_affinity": "the gateway of a region routes to that region's releases alone",
    "isolation.cross_tenant_isolation": "no KV request can name another tenant's key",
    "rollout.canary_percentage": "size of the first ring",
    "rollout.ring_gates": "metrics that the gates judge",
    "rollout.rollout_rings": "cumulative sizes of the rings",
    "rollout.max_blast_radius_percent": "a plan above it is refused",
    "rollout.max_concurrent_shards": "bound of the shards switched at once in a region",
    "rollout.region_down": "what a ring does about a region that does not answer",
    "rollout.region_down_after_seconds": "silence after which a region counts as down",
    "rollout.when_busy": "what a rollout does while another one has the fleet",
    "rollout.bake_seconds": "how long each ring serves traffic before its gate decides",
    "rollout.hold_seconds": "deadline for a person, after which the rollout goes back",
    "gates": "the policy of every ring's gate",
    "calendar": "no ring starts in a freeze window",
    "regions": "one namespace, database, ledger and key for each region",
    "regions.*.name": "how the region is shown",
    "regions.*.data_residency": "tenants, state and receipts are in the region's database alone",
    "enforcement.cross_region_transit": "what crosses a border carries no tenant data",
    "enforcement.per_region_isolation": "a region's processes hold that region's keys alone",
    "failover.independent_regions": "no step of a rollout needs two regions to agree",
    "failover.no_global_consensus": "each region has a ledger and an order of its own",
    "failover.buffer_max_requests": "a fuller buffer answers 503, and drops nothing",
    "failover.buffer_max_memory_mb": "a fuller buffer answers 503, and drops nothing",
    "sbom.format": "the format of SBOMs that builds write and verification reads",
    "sbom.vulnerability_databases": "a verdict needs each of them, loaded and fresh",
    "sbom.feeds": "where the workflow RefreshVulnerabilities loads them from",
    "sbom.block_critical_cves": "no verification policy can let a critical finding pass",
    "sbom.archive_with_image": "the SBOM is a referrer of the release in its registry",
    "signing.provider": "signatures have the form that cosign writes and verifies",
    "signing.mode": "whether builds sign with a key, by a KMS, or keyless by an OIDC identity",
    "signing.oidc_provider": "keyless, builds sign with tokens of this issuer and no other",
    "signing.key_rotation_days": "a builder's key signs for as long, and then there is a new one",
    "provenance.format": "the format of provenance that builds write and verification reads",
    "provenance.include_git_commit": "provenance without a commit is refused",
    "provenance.include_test_results": "a release without test results is refused",
    "provenance.include_builder_id": "a builder that the policy does not name is refused",
    "provenance.store_in_registry": "provenance is a referrer of the release in its registry",
    "deployment_verification.verify_image_signature": "before a rollout and before each ring",
    "deployment_verification.validate_sbom": "before a rollout and before each ring",
    "deployment_verification.validate_provenance": "before a rollout and before each ring",
    "deployment_verification.fail_on_verification_error": "an error is never taken for a pass",
    "deployment_verification.follow_up": "what follows when a release that runs is refused",
    "audit_trail.store": "receipts are in the ledgers' own databases; see the note on firestore",
    "audit_trail.immutable_receipts": "a receipt's bytes are written once and hashed",
    "audit_trail.receipt_chain_enabled": "each receipt names the hash of the one before it",
    "audit_trail.forensics_enabled": "`chainring forensics` answers from the receipts",
    "failure_detection.checksum_validation": "every read of a tenant's value checks its SHA-256",
    "failover.automatic_failover_enabled": "the watch of a region starts its failover",
    "failover.notify_tenants": "a failover puts notices into the inbox that each tenant has",
    "failover.failover_timeout_seconds": "a verdict that writes are not buffered on by then is "
    "too old: the store is probed again",
    "failure_detection.heartbeat_interval_seconds": "how often the watch probes a region's store",
    "failure_detection.heartbeat_timeout_seconds": "a failure has its verdict in five sixths of it",
    "failure_detection.read_latency_threshold_ms": "a probe whose reads take longer is a bad one",
    "backup.snapshot_interval_hours": "`chainring schedules` has each region snapshotted as often",
    "backup.snapshot_work_percent": "a snapshot pauses after each piece of its work",
    "backup.changelog_enabled": "triggers log every change in its own transaction",
    "backup.changelog_format": "a segment of the changelog is written once",
    "backup.changelog_interval_seconds": "how often a region's worker ships its changelog",
    "backup.retention_days": "what no moment of as many days needs is removed, each day",
    "backup.backup_validation_sampling_percent": "as many documents are restored each week at "
    "random, and compared with what was signed",
    "restore.validate_chain_head": "a restore reaches the signed head from outside the backup, or "
    "names the gap",
    "restore.detect_forks": "a history that the signed head does not continue is refused",
    "restore.replay_transactions": "the changelog is replayed from the snapshot to the goal",
    "restore.verify_consistency": "every document is checked against its table's schema",
    "restore.healing_check_enabled": "the state root is rebuilt from every restored document",
    "sla": "recoveries and drills are held against it; a miss is an incident",
    "testing": "which drills `chainring schedules` starts, and in how many regions a week",
    "audit_trail.retention_years": "no command removes a receipt or archived evidence at all",
}
"""Keys that are acted on, and by what. A section's name stands for all of its keys."""

NOT_ENFORCED: dict[str, str] = {
    "cost_control.real_time_burn": "nothing is metered yet",
    "cost_control.budget_enforcement": "there are no budgets yet",
    "cost_control.tenant_visibility": "there is no cost report yet",
    "regions.*.compliance": "no rule of these laws is checked yet",
    "regions.*.catalog_shard": "checked to be unique; a region's catalog goes by the region's code",
    "regions.*.receipt_partition": "checked to be unique; a ledger goes by the region's code",
    "regions.*.audit_retention_days": "receipts are never deleted, however old",
    "enforcement.geo_lock": "requests are not checked against the region's border yet",
    "enforcement.access_origin_validation": "the origin of a request is not looked at yet",
    "failover.recovery_chain_validation": "a region that comes back is not made to verify its "
    "chain first; `chainring receipts verify` does",
}
"""Keys that are accepted and checked in form, but that nothing acts on yet, and what is missing."""


_FIRESTORE = "receipts are in the ledgers' own databases all the same, and not in Firestore"


@dataclass(frozen=True)
class Finding:
    """One remark about a configuration that holds."""

    level: Literal["note", "not enforced"]
    key: str
    text: str


def check_config(config: Config) -> list[Finding]:
    """Remarks on a configuration: what is odd about it, and what of it is not enforced yet.

    The latter do not depend on the values, as a default that nothing acts on protects nobody
    either; but for a value that nothing acts on of a key that is otherwise acted on.
    """
    unenforced = [Finding("not enforced", key, missing) for key, missing in NOT_ENFORCED.items()]
    if config.audit_trail.store == "firestore":
        unenforced.append(Finding("not enforced", "audit_trail.store", _FIRESTORE))
    return [*_notes(config), *unenforced]


def config_keys() -> list[str]:
    """Every key of the configuration; ``*`` stands for a region's code.

    [gates], [calendar], [sla] and [testing] are one entry each: what is said of one key of theirs
    holds for all.
    """
    keys: list[str] = []
    for section, field in Config.model_fields.items():
        if section in ("gates", "calendar", "sla", "testing"):
            keys.append(section)
            continue
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            keys += [f"{section}.{key}" for key in model.model_fields]
        else:
            keys += [section, *(f"{section}.*.{key}" for key in Region.model_fields)]
    return keys


def _notes(config: Config) -> Iterator[Finding]:
    tenants, rollout = config.tenants, config.rollout
    total, shards = tenants.total_tenants, tenants.shards
    if total % shards:
        text = f"{total} tenants do not divide by {shards}: some shards have one tenant more"
        yield Finding("note", "tenants.shards", text)
    if shards < len(config.regions):
        text = f"{shards} shards for {len(config.regions)} regions: some regions have none"
        yield Finding("note", "tenants.shards", text)
    share = 100 / shards
    if share > rollout.max_blast_radius_percent:
        text = (
            f"one shard of {shards} is about {share:.3g} % of the tenants: unless a smaller one "
            "exists, every plan will be refused"
        )
        yield Finding("note", "rollout.max_blast_radius_percent", text)
    elif share > rollout.canary_percentage:
        text = f"a canary of whole shards is at least about {share:.3g} % of the tenants"
        yield Finding("note", "rollout.canary_percentage", text)
    if rollout.canary_percentage == rollout.rollout_rings[0]:
        text = "the canary is as large as the first ring, which adds nothing to it"
        yield Finding("note", "rollout.rollout_rings", text)
