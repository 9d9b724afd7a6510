"""What recoveries and drills took, by their certificates, against what was promised."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from models.restore_certificate import Kind, Verdict
from models.restore_certificate_check import HEALING, Certificate


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Slas(_Part):
    """The most that each step may take; the defaults are the configuration's (`[sla]`)."""

    detect_seconds: float = Field(default=30, gt=0)
    failover_seconds: float = Field(default=300, gt=0)
    restore_seconds: float = Field(default=900, gt=0)
    healing_seconds: float = Field(default=1800, gt=0)
    rpo_minutes: float = Field(default=60, gt=0)
    rto_minutes: float = Field(default=30, gt=0)

    def limits(self) -> dict[str, float]:
        """Seconds by the measure's name, in the order of a recovery."""
        return {
            "detect": self.detect_seconds,
            "failover": self.failover_seconds,
            "restore": self.restore_seconds,
            "healing": self.healing_seconds,
            "RPO": self.rpo_minutes * 60,
            "RTO": self.rto_minutes * 60,
        }


class Measure(_Part):
    """One realised time, in seconds; None where the recovery had no such step or none can tell."""

    name: str
    seconds: float | None
    limit: float

    @property
    def missed(self) -> bool:
        """Whether it took longer than promised."""
        return self.seconds is not None and self.seconds > self.limit


class Recovery(_Part):
    """One restore or drill."""

    certificate: str
    kind: Kind
    region: str
    store: str
    finished_at: datetime
    verdict: Verdict
    missing: int
    measures: tuple[Measure, ...]


class Miss(_Part):
    """A promise that one recovery did not keep."""

    certificate: str
    finished_at: datetime
    region: str
    sla: str
    seconds: float
    limit: float


class RecoveryReport(_Part):
    """All recoveries, oldest first, and every miss."""

    recoveries: tuple[Recovery, ...]
    misses: tuple[Miss, ...]


def recovery_report(certificates: Sequence[Certificate], slas: Slas) -> RecoveryReport:
    """The report on verified certificates; the same one given twice counts once."""
    unique = {each.digest: each for each in certificates}
    recoveries = sorted(
        (_recovery(each, slas) for each in unique.values()),
        key=lambda each: (each.finished_at, each.certificate),
    )
    misses = [miss for recovery in recoveries for miss in _misses(recovery)]
    return RecoveryReport(recoveries=tuple(recoveries), misses=tuple(misses))


def _recovery(certificate: Certificate, slas: Slas) -> Recovery:
    said = certificate.predicate
    realised = {
        "detect": said.times.detection_seconds,
        "failover": said.times.failover_seconds,
        "restore": said.times.restore_seconds,
        "healing": said.phase_seconds(HEALING),
        "RPO": said.rpo_seconds,
        "RTO": said.rto_seconds,
    }
    return Recovery(
        certificate=certificate.digest,
        kind=said.kind,
        region=said.region,
        store=said.restored_store,
        finished_at=said.times.finished_at,
        verdict=said.verdict,
        missing=said.missing,
        measures=tuple(
            Measure(name=name, seconds=realised[name], limit=limit)
            for name, limit in slas.limits().items()
        ),
    )


def _misses(recovery: Recovery) -> list[Miss]:
    return [
        Miss(
            certificate=recovery.certificate,
            finished_at=recovery.finished_at,
            region=recovery.region,
            sla=each.name,
            seconds=each.seconds,
            limit=each.limit,
        )
        for each in recovery.measures
        if each.missed and each.seconds is not None
    ]
