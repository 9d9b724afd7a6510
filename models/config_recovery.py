"""The sections of the configuration about disaster recovery: names and defaults as in section 5 of
the source document.
"""

from typing import Annotated, Literal

from pydantic import Field

from models.config_sections import Always, Section, WholeNumber

_Seconds = Annotated[WholeNumber, Field(ge=1, le=86_400)]


class FailureDetection(Section):
    """When a region's store counts as down, corrupted or slow."""

    heartbeat_interval_seconds: _Seconds = 10
    heartbeat_timeout_seconds: _Seconds = 30
    checksum_validation: Literal["sha256"] = "sha256"
    read_latency_threshold_ms: Annotated[WholeNumber, Field(ge=1, le=600_000)] = 10_000


class Backup(Section):
    """What is kept of a region's store outside of it, and for how long."""

    snapshot_interval_hours: Annotated[WholeNumber, Field(ge=1, le=168)] = 1
    snapshot_work_percent: Annotated[WholeNumber, Field(ge=1, le=100)] = Field(
        default=10, description="share of the time that a snapshot works, writes have the rest"
    )
    changelog_enabled: Always = True
    changelog_format: Literal["append_only"] = "append_only"
    changelog_interval_seconds: Annotated[WholeNumber, Field(ge=1, le=300)] = Field(
        default=2, description="how often the changelog is shipped"
    )
    retention_days: Annotated[WholeNumber, Field(ge=1, le=3650)] = 30
    backup_validation_sampling_percent: Annotated[WholeNumber, Field(ge=1, le=100)] = 5


class Restore(Section):
    """What a restore does and checks; none of it can be left out."""

    validate_chain_head: Always = True
    detect_forks: Always = True
    replay_transactions: Always = True
    verify_consistency: Always = True
    healing_check_enabled: Always = True


class Sla(Section):
    """How long a recovery may take, and how much it may lose."""

    detect_failure_seconds: _Seconds = 30
    initiate_failover_seconds: _Seconds = 300
    restore_from_backup_seconds: _Seconds = 900
    full_healing_seconds: _Seconds = 1800
    rpo_minutes: Annotated[WholeNumber, Field(ge=1, le=10_080)] = 60
    rto_minutes: Annotated[WholeNumber, Field(ge=1, le=10_080)] = 30


class Testing(Section):
    """How recovery is rehearsed."""

    annual_disaster_recovery_drill: bool = True
    monthly_backup_validation: bool = True
    backup_restore_test_sample: Annotated[WholeNumber, Field(ge=1)] = Field(
        default=5, description="how many regions a rehearsal restores"
    )
