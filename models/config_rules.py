"""What keys of the configuration must agree on together: combinations that cannot be meant.

Each rule names the key to change. A rule never looks beyond the configuration: whether a plan over
the real shards keeps within the blast radius is for `models.planning` to say.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from models.calendar import Calendar, CalendarError
from models.config_recovery import FailureDetection
from models.config_sections import Region, Rollout, Tenants
from models.gate_policy import GatePolicy

SHARED_KEYS = (
    ("ring_gates", "metrics"),
    ("bake_seconds", "bake_seconds"),
    ("hold_seconds", "hold_seconds"),
)
"""Keys of [rollout] that say the same as a key of [gates]; both may be set only if they agree."""

TIMEOUT_IN_INTERVALS = 2.4

_ANY_INSTANT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" if self.key else self.reason


def tenants_fit(tenants: Tenants) -> Iterator[Problem]:
    """Shards against tenants."""
    total, shards, each = tenants.total_tenants, tenants.shards, tenants.tenants_per_shard
    if shards > total:
        yield Problem("tenants.shards", f"{shards} shards are more than {total} tenants")
    elif each is not None and each not in (total // shards, -(-total // shards)):
        yield Problem(
            "tenants.tenants_per_shard",
            f"{each} contradicts {total} tenants in {shards} shards ({total / shards:g} each)",
        )


def rings_fit(rollout: Rollout) -> Iterator[Problem]:
    """Rings, canary and blast radius against each other."""
    rings, canary = rollout.rollout_rings, rollout.canary_percentage
    text = ", ".join(f"{ring:g}" for ring in rings)
    if any(later <= earlier for earlier, later in pairwise(rings)):
        yield Problem("rollout.rollout_rings", f"must increase from ring to ring: [{text}]")
    if rings[-1] != 100:
        yield Problem(
            "rollout.rollout_rings", f"must end at 100, so that all are reached: [{text}]"
        )
    if canary > rings[0]:
        yield Problem(
            "rollout.canary_percentage", f"{canary:g} % is above the first ring, {rings[0]:g} %"
        )
    if rollout.max_blast_radius_percent < canary:
        yield Problem(
            "rollout.max_blast_radius_percent",
            f"{rollout.max_blast_radius_percent:g} % is below the canary, {canary:g} %: "
            "no gate has passed before the canary runs",
        )
    bakes = rollout.bake_seconds
    if isinstance(bakes, list) and len(bakes) != len(rings) + 1:
        yield Problem(
            "rollout.bake_seconds",
            f"has {len(bakes)} entries for {len(rings) + 1} rings (the canary is the first)",
        )


def gates_agree(rollout: Rollout, gates: GatePolicy) -> Iterator[Problem]:
    """The keys that both [rollout] and [gates] may set."""
    for ours, theirs in SHARED_KEYS:
        value, other = getattr(rollout, ours), getattr(gates, theirs)
        if value is not None and theirs in gates.model_fields_set and value != other:
            yield Problem(
                f"rollout.{ours}", f"{value} and gates.{theirs} = {other} differ: set one of them"
            )


def regions_fit(regions: Mapping[str, Region]) -> Iterator[Problem]:
    """Numbers that no two regions may share."""
    if not regions:
        yield Problem("regions", "at least one region is needed")
    for key in ("catalog_shard", "receipt_partition"):
        owners: dict[int, str] = {}
        for code, region in regions.items():
            owner = owners.setdefault(getattr(region, key), code)
            if owner != code:
                yield Problem(
                    f"regions.{code}.{key}",
                    f"{getattr(region, key)} is already that of region {owner}",
                )


def calendar_fits(calendar: Calendar, regions: Iterable[str]) -> Iterator[Problem]:
    """Windows against the regions there are, and against a calendar that never opens."""
    known = set(regions)
    for kind, windows in (("freeze", calendar.freeze), ("weekly", calendar.weekly)):
        for index, window in enumerate(windows):
            for code in window.regions:
                if code not in known:
                    yield Problem(
                        f"calendar.{kind}.{index}.regions",
                        f"unknown region {code!r}; known: {', '.join(sorted(known))}",
                    )
    try:
        calendar.next_open(_ANY_INSTANT)
    except CalendarError as error:
        yield Problem("calendar.weekly", f"never opens: {error}")


def detection_fits(detection: FailureDetection) -> Iterator[Problem]:
    """Two probes must find their end before a failure has to be known."""
    interval, timeout = detection.heartbeat_interval_seconds, detection.heartbeat_timeout_seconds
    if timeout < TIMEOUT_IN_INTERVALS * interval:
        yield Problem(
            "failure_detection.heartbeat_timeout_seconds",
            f"{timeout} is below {TIMEOUT_IN_INTERVALS} times heartbeat_interval_seconds, "
            f"{interval}: one lost probe would have to count as an outage",
        )
