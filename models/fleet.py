"""The fleet as plain data: tenants, shards, what the gateway routes, and classes of size."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class FleetError(ValueError):
    """A change of the fleet, or a question about it, that cannot be: names the field and why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type["FleetError"], tuple[str, str]]:
        return FleetError, (self.field, self.message)


class TenantState(StrEnum):
    """A suspended tenant is refused with 403 at the gateway; its data and its place stay."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True)
class Tenant:
    """One tenant. It lives in one shard, in that shard's region and zone."""

    id: str
    shard: str
    region: str
    zone: str
    size: int  # weight, 1 is the smallest; what it counts is the operator's choice
    state: TenantState
    created_at: datetime


@dataclass(frozen=True)
class Shard:
    """One shard as its region's database has it."""

    id: str
    region: str
    zone: str
    release: str | None
    epoch: int  # fencing epoch of its last activation, 0 before the first
    rolling: bool
    activated_at: datetime | None


@dataclass(frozen=True)
class ShardRoute:
    """Where a shard's requests go: to ``release``, or nowhere yet when it is None."""

    shard: str
    release: str | None
    tenants: list[str]  # active ones only, sorted


@dataclass(frozen=True)
class RouteTable:
    """All routes of a region at one generation; a later generation supersedes an earlier one.

    Every tenant is in exactly one place: in its shard's list, or in ``suspended``.
    """

    generation: int
    shards: list[ShardRoute]
    suspended: list[str]


class SizeClass(StrEnum):
    """How large a shard's tenants are on average, compared with the other shards'."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Terciles(NamedTuple):
    """The mean tenant sizes up to which a shard is small, and up to which it is medium."""

    small: float
    medium: float

    def classify(self, mean_size: float) -> SizeClass:
        if mean_size <= self.small:
            return SizeClass.SMALL
        return SizeClass.MEDIUM if mean_size <= self.medium else SizeClass.LARGE


def terciles(mean_sizes: Sequence[float]) -> Terciles:
    """The thirds of ``mean_sizes`` (not empty): the values of rank n/3 and 2n/3, rounded up.

    Equal values always fall in one class, so that fewer than three classes may be in use.
    """
    ordered = sorted(mean_sizes)
    count = len(ordered)
    return Terciles(ordered[-(-count // 3) - 1], ordered[-(-2 * count // 3) - 1])
