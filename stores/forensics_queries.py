"""Looking things up in the forensics index: each query follows an index, however long the ledgers.

What comes back are rows of the index; `stores.forensics` holds them against the receipts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text

from models.seeding import FleetLayout

_STAY = """
SELECT a.ledger, a.shard, a.seq, a.since, a.release, a.rollout, a.verdict,
  (SELECT min(n.seq) FROM activation n
    WHERE n.ledger = a.ledger AND n.shard = a.shard AND n.seq > a.seq) AS next
"""
"""An activation with the one that ended it."""

# CROSS JOIN: SQLite, which has no statistics here, keeps to the order that is written.
_AT = text(
    _STAY  # noqa: S608
    + """
FROM current c CROSS JOIN activation a ON a.ledger = c.ledger AND a.shard = c.shard
  AND a.seq = (SELECT b.seq FROM activation b INDEXED BY activation_since
    WHERE b.ledger = c.ledger AND b.shard = c.shard AND b.since <= :at
    ORDER BY b.since DESC, b.seq DESC LIMIT 1)
WHERE (:ledger = '' OR c.ledger = :ledger) AND (:shard = '' OR c.shard = :shard)
ORDER BY c.ledger, c.shard
"""
)
_RUNNING = text(
    _STAY
    + """
FROM current c CROSS JOIN activation a
  ON a.ledger = c.ledger AND a.shard = c.shard AND a.seq = c.seq
WHERE c.release IN :releases ORDER BY a.ledger, a.shard LIMIT :limit
"""
).bindparams(bindparam("releases", expanding=True))
_PAST = text(
    _STAY  # noqa: S608
    + """
FROM activation a
WHERE a.release = :release AND a.ledger = :ledger
  AND NOT EXISTS (SELECT 1 FROM current c
    WHERE c.ledger = a.ledger AND c.shard = a.shard AND c.seq = a.seq)
ORDER BY a.seq DESC LIMIT :limit
"""
)
_STAYS = text(
    "SELECT release, ledger, times FROM stay WHERE release IN :releases "
    "ORDER BY since DESC, release, ledger"
).bindparams(bindparam("releases", expanding=True))
_COUNT_RUNNING = text("SELECT count(*) FROM current WHERE release IN :releases").bindparams(
    bindparam("releases", expanding=True)
)
_PLACED = text(
    "SELECT ledger, shard, seq, since FROM placement WHERE tenant = :tenant AND since <= :at "
    "ORDER BY since DESC, seq DESC LIMIT 1"
)
_SEEDED = text(
    "SELECT ledger, seq, tenants, shards, regions FROM seeding WHERE since <= :at ORDER BY ledger"
)
_JUDGED = text(
    "SELECT * FROM fact WHERE release = :release AND kind = 'release.judged' "
    "AND (:verdict = '' OR verdict = :verdict) AND since <= :at "
    "ORDER BY since DESC, seq DESC LIMIT 1"
)
_FACTS = text(
    "SELECT * FROM fact WHERE release = :release AND (:kind = '' OR kind = :kind) "
    "ORDER BY since, ledger, seq LIMIT :limit"
)
_WITHOUT_BILL = text(
    "SELECT k.release FROM known_release k LEFT JOIN bill b ON b.release = k.release "
    "WHERE b.release IS NULL OR b.problem != '' ORDER BY k.release"
)
_COMPONENTS = text(
    "SELECT release, purl FROM component WHERE package = :package "
    "AND (:version = '' OR version = :version) ORDER BY release, purl"
)
_BY_PURL = text("SELECT release, purl FROM component WHERE purl IN :purls").bindparams(
    bindparam("purls", expanding=True)
)

FOREVER = 2**62
_AT_ONCE = 500


@dataclass(frozen=True)
class StayRow:
    """An activation in the index; ``next`` is the seq of the one that ended it."""

    ledger: str
    shard: str
    seq: int
    since: int
    release: str
    rollout: str
    verdict: str
    next: int | None


@dataclass(frozen=True)
class Home:
    """Where a tenant lived, and the receipt that says so."""

    ledger: str
    shard: str
    seq: int


@dataclass(frozen=True)
class FactRow:
    """A receipt that names a release."""

    release: str
    ledger: str
    seq: int
    since: int
    kind: str
    outcome: str
    verdict: str
    source: str
    builder: str


def running_at(
    connection: Connection, at: int, *, ledger: str = "", shard: str = ""
) -> list[StayRow]:
    """What each shard ran at a time (microseconds since 1970)."""
    rows = connection.execute(_AT, {"at": at, "ledger": ledger, "shard": shard})
    return [StayRow(*row) for row in rows]


def tenant_home(connection: Connection, tenant: str, at: int) -> Home | None:
    """Where a tenant lived at a time: where it was put last, or where the fleet began with it."""
    placed = connection.execute(_PLACED, {"tenant": tenant, "at": at}).first()
    if placed is not None:
        return Home(placed.ledger, placed.shard, placed.seq)
    for row in connection.execute(_SEEDED, {"at": at}):
        home = FleetLayout(row.tenants, row.shards, row.regions.split(",")).home_of(tenant)
        if home is not None and home[0] == row.ledger:
            return Home(row.ledger, home[1], row.seq)
    return None


def stays_of(
    connection: Connection, releases: Sequence[str], limit: int
) -> tuple[list[StayRow], int, int]:
    """Where releases run and ran: those that run first, then the newest of each; at most ``limit``.

    Returns:
        The stays, how many there are in all, and how many have not ended.
    """
    found: list[StayRow] = []
    total = running = 0
    groups: list[tuple[str, str]] = []
    for some in _some(releases):
        names = {"releases": list(some)}
        rows = connection.execute(_RUNNING, {**names, "limit": max(0, limit - len(found))})
        found += [StayRow(*row) for row in rows]
        running += connection.execute(_COUNT_RUNNING, names).scalar_one()
        for row in connection.execute(_STAYS, names):
            total += row.times
            groups.append((row.release, row.ledger))
    for release, ledger in groups:
        if len(found) >= limit:
            break
        wanted = {"release": release, "ledger": ledger, "limit": limit - len(found)}
        found += [StayRow(*row) for row in connection.execute(_PAST, wanted)]
    return found, total, running


def judged(connection: Connection, release: str, verdict: str, at: int) -> FactRow | None:
    """The receipt of a verdict by its digest, or the newest one on a release up to a time."""
    wanted = {"release": release, "verdict": verdict, "at": FOREVER if verdict else at}
    row = connection.execute(_JUDGED, wanted).first()
    return None if row is None else FactRow(*row)


def facts(connection: Connection, release: str, limit: int, *, kind: str = "") -> list[FactRow]:
    """The receipts that name a release, or those of one kind, the oldest first."""
    rows = connection.execute(_FACTS, {"release": release, "limit": limit, "kind": kind})
    return [FactRow(*row) for row in rows]


def releases_without_bill(connection: Connection) -> list[str]:
    """Releases that receipts name and whose components are not known."""
    return list(connection.execute(_WITHOUT_BILL).scalars())


def bill_problems(connection: Connection) -> list[tuple[str, str]]:
    """Releases whose components are not known, or not all of them, and why."""
    query = text("SELECT release, problem FROM bill WHERE problem != '' ORDER BY release")
    return [(row.release, row.problem) for row in connection.execute(query)]


def containing(connection: Connection, package: str, version: str) -> dict[str, list[str]]:
    """Package URLs of a package by the release that has them; all versions for none."""
    rows = connection.execute(_COMPONENTS, {"package": package, "version": version})
    return _grouped((row.release, row.purl) for row in rows)


def package_names(connection: Connection) -> list[str]:
    """Every package that a release has, as a package URL without a version."""
    return list(connection.execute(text("SELECT DISTINCT package FROM component")).scalars())


def purls_of(connection: Connection, package: str) -> list[str]:
    """The package URLs of a package, each once."""
    query = text("SELECT DISTINCT purl FROM component WHERE package = :package ORDER BY purl")
    return list(connection.execute(query, {"package": package}).scalars())


def containing_any(connection: Connection, purls: Sequence[str]) -> dict[str, list[str]]:
    """The same for exact package URLs as the bills have them."""
    pairs = []
    for some in _some(purls):
        rows = connection.execute(_BY_PURL, {"purls": list(some)})
        pairs += [(row.release, row.purl) for row in rows]
    return _grouped(sorted(pairs))


def _grouped(pairs: Any) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for release, purl in pairs:
        grouped.setdefault(release, []).append(purl)
    return grouped


def _some(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
