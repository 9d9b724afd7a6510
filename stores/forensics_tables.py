"""The tables of the forensics index: a file of its own, derived from the ledgers, never the truth.

Times are microseconds since 1970. ``since`` is the receipt's time, or that of an earlier receipt of
the ledger if that was later: order is by ``seq``, and a clock that went back changes no order.
"""

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, String, Table

METADATA = MetaData()
LAYOUT = 1
"""Counts on when the tables change; an index of another layout is built anew."""

INDEXED = Table(
    "indexed",
    METADATA,
    Column("ledger", String, primary_key=True),
    Column("layout", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("head", String, nullable=False),
    Column("since", Integer, nullable=False),
    sqlite_with_rowid=False,
)

ACTIVATION = Table(
    "activation",
    METADATA,
    Column("ledger", String, primary_key=True),
    Column("shard", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("since", Integer, nullable=False),
    Column("release", String, nullable=False),
    Column("rollout", String, nullable=False),
    Column("verdict", String, nullable=False),
    Index("activation_release", "release", "ledger", "seq"),
    Index("activation_since", "ledger", "shard", "since", "seq"),
    sqlite_with_rowid=False,
)

STAY = Table(
    "stay",
    METADATA,
    Column("release", String, primary_key=True),
    Column("ledger", String, primary_key=True),
    Column("times", Integer, nullable=False),
    Column("since", Integer, nullable=False),
    sqlite_with_rowid=False,
)
"""How often a release was activated in a region, and since when."""

CURRENT = Table(
    "current",
    METADATA,
    Column("ledger", String, primary_key=True),
    Column("shard", String, primary_key=True),
    Column("release", String, nullable=False),
    Column("seq", Integer, nullable=False),
    Index("current_release", "release"),
    sqlite_with_rowid=False,
)

PLACEMENT = Table(
    "placement",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("ledger", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("since", Integer, nullable=False),
    Column("shard", String, nullable=False),
    sqlite_with_rowid=False,
)

SEEDING = Table(
    "seeding",
    METADATA,
    Column("ledger", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("since", Integer, nullable=False),
    Column("tenants", Integer, nullable=False),
    Column("shards", Integer, nullable=False),
    Column("regions", String, nullable=False),
)

FACT = Table(
    "fact",
    METADATA,
    Column("release", String, primary_key=True),
    Column("ledger", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("since", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("verdict", String, nullable=False),
    Column("source", String, nullable=False),
    Column("builder", String, nullable=False),
    sqlite_with_rowid=False,
)

KNOWN_RELEASE = Table(
    "known_release",
    METADATA,
    Column("release", String, primary_key=True),
    sqlite_with_rowid=False,
)
"""Every release that a receipt names."""

TILES = Table(
    "tile",
    METADATA,
    Column("ledger", String, primary_key=True),
    Column("level", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("hashes", LargeBinary, nullable=False),
)

BILL = Table(
    "bill",
    METADATA,
    Column("release", String, primary_key=True),
    Column("bundles", String, nullable=False),
    Column("problem", String, nullable=False),
    sqlite_with_rowid=False,
)
"""The bills (digests of bundles) that a release's components are from, and what was wrong."""

COMPONENT = Table(
    "component",
    METADATA,
    Column("release", String, primary_key=True),
    Column("purl", String, primary_key=True),
    Column("package", String, nullable=False),
    Column("version", String, nullable=False),
    Column("scope", String, nullable=False),
    Index("component_package", "package", "version"),
    sqlite_with_rowid=False,
)
"""``package`` is the package URL without version and qualifiers."""
