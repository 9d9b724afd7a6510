"""The forensics index: what the receipts of all ledgers say, laid out for looking up.

Its own SQLite file. It is derived and can be thrown away: each update goes on from the last receipt
it knows, checks that the chain holds on the way, and refuses a ledger that no longer contains what
was indexed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, select

from models.forensics_facts import (
    ACTIVATED,
    SEEDED,
    TENANT_KINDS,
    FactError,
    activation,
    microseconds,
    placement,
    release_facts,
    seeding,
)
from models.merkle_tiles import TileLoader, extend
from models.receipts import GENESIS, StoredReceipt
from models.verifier import leaf_hash
from stores.forensics_tables import (
    ACTIVATION,
    CURRENT,
    FACT,
    INDEXED,
    KNOWN_RELEASE,
    LAYOUT,
    METADATA,
    PLACEMENT,
    SEEDING,
    STAY,
    TILES,
)
from stores.ledger import Ledger
from stores.sql import open_engine, read, write

BATCH = 20_000
"""Receipts that are indexed in one transaction."""

CACHE_KIB = 64 * 1024
"""Memory for pages while indexing: with less, each batch writes the same pages many times."""

_OF_A_LEDGER = (INDEXED, ACTIVATION, STAY, CURRENT, PLACEMENT, SEEDING, FACT, TILES)


class ForensicsError(Exception):
    """The question cannot be answered from these ledgers; the message says why."""


@dataclass(frozen=True)
class Indexed:
    """How far a ledger is indexed: receipts, the last one's hash, and its time (microseconds)."""

    size: int = 0
    head: str = GENESIS
    since: int = 0


class _Line(msgspec.Struct, gc=False):
    """A receipt as far as the index reads it; the body is decoded only where it is needed."""

    at: str
    kind: str
    prev: str
    seq: int
    subject: str
    body: msgspec.Raw


@dataclass
class _Batch:
    """Rows to be written, by table, and what they leave behind."""

    position: Indexed
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    current: dict[str, tuple[str, int]] = field(default_factory=dict)
    stays: dict[str, list[int]] = field(default_factory=dict)
    leaves: list[bytes] = field(default_factory=list)

    def releases(self) -> set[str]:
        """The releases that the batch names."""
        return {*self.stays, *(row[0] for row in self.rows.get(FACT.name, ()))}

    def add(self, table: Table, *row: Any) -> None:
        """Add a row, values in the order of the table's columns."""
        self.rows.setdefault(table.name, []).append(row)


class ForensicsIndex:
    """The index in the file ``path``, which is made when it is not there."""

    def __init__(self, path: Path) -> None:
        self.engine = open_engine(f"sqlite:///{path}")
        with write(self.engine) as connection:
            METADATA.create_all(connection)

    def update(self, ledger: Ledger, *, batch: int = BATCH) -> Indexed:
        """Index what was appended to a ledger since the last time.

        Raises:
            ForensicsError: the ledger lost or changed receipts that are indexed, its chain is
                broken, or a receipt does not say what its kind should.
            StoreUnavailable: a database cannot serve now; what was indexed before stays.
        """
        while True:
            with write(self.engine) as connection:
                connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
                before = self._agreed(connection, ledger)
                found = ledger.read(before.size, limit=batch)
                after = _index(connection, ledger.name, before, found)
            if after.size - before.size < batch:
                return after

    def forget(self, ledger: str) -> None:
        """Throw away what is known of a ledger, so that `update` reads it from its start."""
        with write(self.engine) as connection:
            for table in _OF_A_LEDGER:
                connection.execute(delete(table).where(table.c.ledger == ledger))

    def position(self, ledger: str) -> Indexed:
        """How far a ledger is indexed."""
        with read(self.engine) as connection:
            return _position(connection, ledger) or Indexed()

    def tiles(self, ledger: str) -> TileLoader:
        """Reads the tiles of a ledger's tree, each once."""
        known: dict[tuple[int, int], bytes] = {}

        def load(level: int, number: int) -> bytes:
            if (level, number) not in known:
                with read(self.engine) as connection:
                    known[level, number] = _tile(connection, ledger, level, number)
            return known[level, number]

        return load

    def _agreed(self, connection: Connection, ledger: Ledger) -> Indexed:
        """Where to go on, after the ledger was found to still hold what was indexed."""
        position = _position(connection, ledger.name)
        if position is None:
            return Indexed()
        last = ledger.get(position.size - 1) if position.size else None
        if position.size and (last is None or last.hash != position.head):
            raise ForensicsError(
                f"ledger {ledger.name}: receipt {position.size - 1} is missing or is not the one "
                "that was indexed; verify it (`chainring receipts verify`), and if it holds, "
                "`chainring forensics rebuild`"
            )
        return position


def _position(connection: Connection, ledger: str) -> Indexed | None:
    row = connection.execute(select(INDEXED).where(INDEXED.c.ledger == ledger)).first()
    if row is not None and row.layout != LAYOUT:
        raise ForensicsError("the index is of another layout: `chainring forensics rebuild`")
    return None if row is None else Indexed(row.size, row.head, row.since)


def _index(
    connection: Connection, name: str, before: Indexed, receipts: Iterator[StoredReceipt]
) -> Indexed:
    """Index receipts that follow ``before``; returns where that ends."""
    batch = _Batch(before)
    decoder = msgspec.json.Decoder(_Line)
    for stored in receipts:
        _take(batch, name, stored, _decoded(decoder, name, stored))
    if batch.leaves:
        _store(connection, name, before, batch)
    return batch.position


def _decoded(decoder: "msgspec.json.Decoder[_Line]", name: str, stored: StoredReceipt) -> _Line:
    try:
        return decoder.decode(stored.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ForensicsError(f"{name}/{stored.seq}: not a receipt: {error}") from None


def _take(batch: _Batch, name: str, stored: StoredReceipt, line: _Line) -> None:
    position = batch.position
    where = f"{name}/{position.size}"
    if (line.seq, line.prev) != (position.size, position.head):
        raise ForensicsError(f"{where}: missing, or does not follow the receipt before it")
    try:
        since = max(position.since, microseconds(line.at, where))
        _facts(batch, name, since, line, where)
    except FactError as error:
        raise ForensicsError(str(error)) from None
    batch.leaves.append(leaf_hash(bytes.fromhex(stored.hash)))
    batch.position = Indexed(position.size + 1, stored.hash, since)


def _facts(batch: _Batch, name: str, since: int, line: _Line, where: str) -> None:
    """The rows of one receipt."""
    if line.kind == ACTIVATED:
        found = activation(_body(line), where)
        batch.add(
            ACTIVATION,
            name,
            found.shard,
            line.seq,
            since,
            found.release,
            found.rollout,
            found.verdict,
        )
        batch.current[found.shard] = (found.release, line.seq)
        batch.stays.setdefault(found.release, [0, since])[0] += 1
    elif line.kind in TENANT_KINDS:
        placed = placement(_body(line), where)
        batch.add(PLACEMENT, placed.tenant, name, line.seq, since, placed.shard)
    elif line.kind == SEEDED:
        fleet = seeding(_body(line), where)
        batch.add(
            SEEDING, name, line.seq, since, fleet.tenants, fleet.shards, ",".join(fleet.regions)
        )
    elif b"sha256:" in bytes(line.body) or line.subject.startswith("sha256:"):
        for fact in release_facts(line.kind, line.subject, _body(line)):
            batch.add(
                FACT,
                fact.release,
                name,
                line.seq,
                since,
                line.kind,
                fact.outcome,
                fact.verdict,
                fact.source,
                fact.builder,
            )


def _body(line: _Line) -> Mapping[str, Any]:
    value = msgspec.json.decode(line.body)
    return value if isinstance(value, dict) else {}


def _store(connection: Connection, name: str, before: Indexed, batch: _Batch) -> None:
    tables = {table.name: table for table in _OF_A_LEDGER}
    for table_name, rows in batch.rows.items():
        connection.exec_driver_sql(_insert(tables[table_name]), rows)
    after = batch.position
    current = [(name, shard, *value) for shard, value in batch.current.items()]
    stays = [(release, name, *value) for release, value in batch.stays.items()]
    tiles = extend(
        before.size, batch.leaves, lambda level, number: _tile(connection, name, level, number)
    )
    for statement, changed in (
        (_insert(CURRENT, "OR REPLACE"), current),
        (_insert(STAY) + " ON CONFLICT DO UPDATE SET times = times + excluded.times", stays),
        (_insert(KNOWN_RELEASE, "OR IGNORE"), [(release,) for release in sorted(batch.releases())]),
        (_insert(TILES, "OR REPLACE"), [(name, *key, data) for key, data in tiles.items()]),
    ):
        if changed:
            connection.exec_driver_sql(statement, changed)
    position = (name, LAYOUT, after.size, after.head, after.since)
    connection.exec_driver_sql(_insert(INDEXED, "OR REPLACE"), [position])


def _insert(table: Table, how: str = "") -> str:
    columns = [column.name for column in table.columns]
    names = ", ".join(f'"{name}"' for name in columns)
    places = ", ".join("?" for _ in columns)
    return f"INSERT {how} INTO {table.name} ({names}) VALUES ({places})"  # noqa: S608


def _tile(connection: Connection, ledger: str, level: int, number: int) -> bytes:
    query = select(TILES.c.hashes).where(
        TILES.c.ledger == ledger, TILES.c.level == level, TILES.c.number == number
    )
    return connection.execute(query).scalar() or b""
