"""The sections of the configuration and what each key alone may hold.

The names of keys and their defaults are those of the source document, sections 1 and 2. A key that
describes what Chainring always does admits only that value: a configuration that asks for less
isolation is refused, not ignored. What keys must agree on together is in `models.config_rules`.
"""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from models.gate_policy import KNOWN_METRICS
from models.ids import RegionCode

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)%\Z", re.ASCII)


class Section(BaseModel):
    """Base of every section: an unknown key is an error, and so is a number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _whole(value: object) -> object:
    """Take 100.0 for 100: a template's division gives a float even where the quotient is whole."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _always(value: bool) -> bool:
    if not value:
        raise ValueError("must be true: Chainring has no mode without it")
    return value


def _known_metrics(names: list[str]) -> list[str]:
    """The names that [gates] itself admits."""
    for name in names:
        if name not in KNOWN_METRICS:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(KNOWN_METRICS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError("must name at least one metric, and each one once")
    return names


def _concurrency(value: object) -> object:
    """A number of shards from 1 on, or a share of a ring as ``"25%"``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and (match := _PERCENT.match(value)) and 0 < float(match[1]) <= 100:
        return value
    raise ValueError('must be a number of shards from 1 on, or a percentage as "25%" (up to 100%)')


def _one_or_each(value: object) -> object:
    """Seconds for every ring alike, or a list with the seconds of each."""
    each: list[Any] = value if isinstance(value, list) else [value]
    for seconds in each:
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds <= MAX_SECONDS:
            raise ValueError(f"must be seconds from 0 to {MAX_SECONDS}, or a list of them by ring")
    return value


def _one_table(value: object) -> object:
    """Unwrap ``[[regions.eu]]``, as the source document writes it, to the table it means."""
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"is described {len(value)} times; a region has one table")
        return value[0]
    return value


MAX_SECONDS = 30 * 86400

WholeNumber = Annotated[int, BeforeValidator(_whole)]
Always = Annotated[bool, AfterValidator(_always)]
Percent = Annotated[float, Field(gt=0, le=100)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
Concurrency = Annotated[int | str, BeforeValidator(_concurrency)]
SecondsByRing = Annotated[float | list[float], BeforeValidator(_one_or_each)]
RingGates = Annotated[list[str], AfterValidator(_known_metrics)]
FleetName = Annotated[str, Field(pattern=r"^[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?$")]


class Fleet(Section):
    """Which fleet this is; one rollout at a time runs on it."""

    name: FleetName = "main"


class Tenants(Section):
    """How many tenants the fleet has, and in how many shards."""

    total_tenants: Annotated[WholeNumber, Field(ge=1, le=100_000_000)] = 10_000
    shards: Annotated[WholeNumber, Field(ge=1, le=1_000_000)] = 100
    tenants_per_shard: Annotated[WholeNumber, Field(ge=1)] | None = Field(
        default=None, description="total_tenants / shards when absent, rounded up"
    )


class Isolation(Section):
    """What keeps tenants apart."""

    per_tenant_kv: Always = True
    zone_affinity: Always = True
    cross_tenant_isolation: Literal["strict"] = "strict"


class Rollout(Section):
    """Rings, their gates, and what a rollout does when it meets an obstacle."""

    canary_percentage: Percent = Field(default=2.0, description="share of tenants in the canary")
    ring_gates: RingGates | None = Field(
        default=None, description="metrics that a gate judges; those of [gates] when absent"
    )
    rollout_rings: list[Percent] = Field(
        default=[5.0, 25.0, 100.0], min_length=1, description="cumulative shares of tenants"
    )
    max_blast_radius_percent: Percent = Field(
        default=5.0, description="most tenants on a release that no gate has passed"
    )
    max_concurrent_shards: Concurrency = Field(
        default="25%", description="shards switched at once in a region: a number, or a share"
    )
    region_down: Literal["wait", "skip", "stop"] = Field(
        default="wait", description="what a ring does about a region that does not answer"
    )
    region_down_after_seconds: Seconds = Field(
        default=60.0, description="silence after which a region counts as down"
    )
    when_busy: Literal["wait", "supersede", "refuse"] = Field(
        default="wait", description="what a rollout does when another one has the fleet"
    )
    bake_seconds: SecondsByRing | None = Field(
        default=None,
        description="bake of every ring, or a list: the canary's, then each ring's; "
        "that of [gates] when absent",
    )
    hold_seconds: Seconds | None = Field(
        default=None,
        description="wait for a person before rolling back; that of [gates] when absent",
    )

    def concurrent_shards(self, shards: int) -> int:
        """How many of ``shards`` may be switched at once; at least one.

        A percentage is rounded down, so that no more than the share is ever in motion.
        """
        wanted = self.max_concurrent_shards
        if isinstance(wanted, str):
            wanted = math.floor(shards * float(wanted.removesuffix("%")) / 100)
        return max(1, min(wanted, shards))


class CostControl(Section):
    """Metering and budgets."""

    real_time_burn: bool = True
    budget_enforcement: Literal["hard_quota"] = "hard_quota"
    tenant_visibility: Literal["own_costs_only"] = "own_costs_only"


class Region(Section):
    """One region: a namespace, a database, a ledger and keys of its own."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    compliance: list[Annotated[str, Field(min_length=1, max_length=50)]] = []
    data_residency: Literal["required"] = "required"
    catalog_shard: Annotated[WholeNumber, Field(ge=1)]
    receipt_partition: Annotated[WholeNumber, Field(ge=1)]
    audit_retention_days: Annotated[WholeNumber, Field(ge=1)] = 2555


class Enforcement(Section):
    """What holds data within its region."""

    geo_lock: bool = True
    cross_region_transit: Literal["forbidden"] = "forbidden"
    per_region_isolation: Always = True
    access_origin_validation: bool = True


class Failover(Section):
    """How regions fail and come back."""

    independent_regions: Always = True
    no_global_consensus: Always = True
    recovery_chain_validation: bool = True
    automatic_failover_enabled: bool = True
    buffer_max_requests: Annotated[WholeNumber, Field(ge=1, le=10_000_000)] = 100_000
    buffer_max_memory_mb: Annotated[WholeNumber, Field(ge=1, le=10_000)] = 50
    failover_timeout_seconds: Annotated[WholeNumber, Field(ge=1, le=86_400)] = 300
    notify_tenants: bool = True


Regions = dict[RegionCode, Annotated[Region, BeforeValidator(_one_table)]]

_DEFAULT_REGIONS: dict[str, tuple[str, list[str]]] = {
    "eu": ("Europe", ["GDPR"]),
    "us-east": ("US East", ["CCPA"]),
    "us-west": ("US West", ["CCPA"]),
    "apac": ("Asia Pacific", []),
    "latam": ("Latin America", []),
}


def default_regions() -> dict[str, Region]:
    """The five regions of the source document, numbered in its order."""
    return {
        code: Region(name=name, compliance=laws, catalog_shard=number, receipt_partition=number)
        for number, (code, (name, laws)) in enumerate(_DEFAULT_REGIONS.items(), start=1)
    }
