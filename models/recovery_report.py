"""What recoveries and drills took, by their certificates, against what was promised."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from models.config_recovery import Sla
from models.restore_certificate import Kind, Verdict
from models.restore_certificate_check import HEALING, Certificate


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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

    def __str__(self) -> str:
        return _words(self.sla, self.seconds, self.limit)


class RecoveryReport(_Part):
    """All recoveries, oldest first, and every miss."""

    recoveries: tuple[Recovery, ...]
    misses: tuple[Miss, ...]


def recovery_report(certificates: Sequence[Certificate], sla: Sla) -> RecoveryReport:
    """The report on verified certificates; the same one given twice counts once."""
    unique = {each.digest: each for each in certificates}
    recoveries = sorted(
        (_recovery(each, sla) for each in unique.values()),
        key=lambda each: (each.finished_at, each.certificate),
    )
    misses = [miss for recovery in recoveries for miss in _misses(recovery)]
    return RecoveryReport(recoveries=tuple(recoveries), misses=tuple(misses))


def failover_misses(
    started: datetime, degraded_at: datetime, normal_at: datetime, sla: Sla
) -> list[str]:
    """What a failover took longer than promised, in words; it counts from its own start."""
    limits = _limits(sla)
    realised = {"failover": degraded_at - started, "RTO": normal_at - started}
    return [
        _words(name, took.total_seconds(), limits[name])
        for name, took in realised.items()
        if took.total_seconds() > limits[name]
    ]


def _recovery(certificate: Certificate, sla: Sla) -> Recovery:
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
            for name, limit in _limits(sla).items()
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


def _words(sla: str, seconds: float, limit: float) -> str:
    return f"{sla} took {seconds:.1f} s, promised {limit:g} s"


def _limits(sla: Sla) -> dict[str, float]:
    """Seconds by the measure's name, in the order of a recovery."""
    return {
        "detect": sla.detect_failure_seconds,
        "failover": sla.initiate_failover_seconds,
        "restore": sla.restore_from_backup_seconds,
        "healing": sla.full_healing_seconds,
        "RPO": sla.rpo_minutes * 60,
        "RTO": sla.rto_minutes * 60,
    }
