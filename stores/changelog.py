"""A protected store: its identity and fence, and the changes that its triggers have logged."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    bindparam,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)

from models.changelog import ABSENT, ENDS, Change, ChangelogBroken, Entry, Op
from models.documents import document_digest, key_digest
from models.tables_backup import ChangelogRow, StoreIdentityRow
from stores.changelog_sql import logged_tables, removal_sql, trigger_digest, trigger_sql
from stores.collections import BY_CODE, COLLECTIONS
from stores.sql import create_all, read, table, write

_CHANGES = table(ChangelogRow)
_IDENTITY = table(StoreIdentityRow)
_AFTER = (
    select(_CHANGES)
    .where(_CHANGES.c.seq > bindparam("seq"))
    .order_by(_CHANGES.c.seq)
    .limit(bindparam("limit"))
)

_REST = (
    select(_CHANGES)
    .where(_CHANGES.c.seq > bindparam("seq"), _CHANGES.c.txn == bindparam("txn"))
    .order_by(_CHANGES.c.seq)
)


class NotProtected(Exception):
    """The store logs no changes, or is another region's."""


@dataclass(frozen=True)
class StoreIdentity:
    """Which store this is; ``fenced``: it refuses every write, for the reason given."""

    id: str
    region: str
    epoch: int
    fenced: bool
    fenced_why: str


def protect(engine: Engine, region: str) -> StoreIdentity:
    """Log every change of the region's documents from now on; does nothing where that is so.

    Raises:
        NotProtected: the store is another region's.
        StoreUnavailable: the database does not answer.
    """
    create_all(engine)
    with read(engine) as connection:
        row = connection.execute(select(_IDENTITY)).first()
    digest = trigger_digest(engine.dialect.name)
    if row is None or row.triggers != digest:
        with write(engine, lock="schema") as connection:
            _install(connection, region, StoreIdentity(secrets.token_hex(16), region, 1, False, ""))
    return identity(engine, region)


def adopt(connection: Connection, identity: StoreIdentity, *, seq: int) -> None:
    """Make a restored database a store of its own, whose changes count on from ``seq``."""
    _install(connection, identity.region, identity, seq=seq)


def identity(engine: Engine, region: str) -> StoreIdentity:
    """Which store this is.

    Raises:
        NotProtected: it has no identity, or is another region's.
    """
    with read(engine) as connection:
        return identity_in(connection, region)


def identity_in(connection: Connection, region: str) -> StoreIdentity:
    """`identity`, as the caller's transaction sees it."""
    if not inspect(connection).has_table(_IDENTITY.name):
        raise NotProtected(
            f"region {region}: its database has no tables: it is another one, or new"
        )
    row = connection.execute(select(_IDENTITY)).first()
    if row is None:
        raise NotProtected(f"region {region}: its database logs no changes; start its worker once")
    if row.region != region:
        raise NotProtected(f"this database is region {row.region}'s, not {region}'s")
    return StoreIdentity(row.id, row.region, row.epoch, bool(row.fenced), row.fenced_why)


def fence(engine: Engine, region: str, *, epoch: int, why: str) -> None:
    """Make the store refuse every write from now on: ``epoch`` is another store's.

    Doing so again changes nothing. A store whose epoch is higher is not fenced: the call is late.

    Raises:
        StoreUnavailable: the database does not answer; the fence is not there.
    """
    # The triggers read the row that this changes, so no write commits after the fence is there.
    with write(engine) as connection:
        found = identity_in(connection, region)
        if found.epoch < epoch and not found.fenced:
            connection.execute(update(_IDENTITY).values(fenced=True, fenced_why=why))


def last_seq(connection: Connection) -> int:
    """The number of the newest change that the caller's transaction sees; 0: none yet."""
    if connection.dialect.name == "sqlite":
        query = text("SELECT seq FROM sqlite_sequence WHERE name = 'changelog'")
    else:
        query = text("SELECT seq FROM store_identity")
    return int(connection.execute(query).scalar() or 0)


def changes_after(engine: Engine, seq: int, *, limit: int) -> list[Entry]:
    """The next changes in order: ``limit`` of them, and what is left of the last's transaction.

    Raises:
        ChangelogBroken: the next one is missing.
    """
    with read(engine) as connection:
        rows = list(connection.execute(_AFTER, {"seq": seq, "limit": limit}))
        if rows:
            rest = {"seq": rows[-1].seq, "txn": rows[-1].txn}
            rows += connection.execute(_REST, rest).all()
        last = last_seq(connection)
    if not rows and last > seq:
        raise ChangelogBroken(f"change {seq + 1} is not in the changelog, which goes to {last}")
    entries = []
    for expected, row in enumerate(rows, start=seq + 1):
        if row.seq != expected:
            raise ChangelogBroken(f"change {expected} is missing; the next is {row.seq}")
        following = rows[expected - seq] if expected - seq < len(rows) else None
        entries.append(_entry(row, following is None or following.txn != row.txn))
    return entries


def forget_changes(engine: Engine, seq: int) -> int:
    """Remove the changes up to ``seq``, which are in the backup; how many there were."""
    with write(engine, lock="changelog") as connection:
        return connection.execute(delete(_CHANGES).where(_CHANGES.c.seq <= seq)).rowcount


def waiting(engine: Engine, seq: int) -> tuple[int, int | None]:
    """How many changes come after ``seq``, and when the first of them was made (Unix ms)."""
    query = select(func.count(), func.min(_CHANGES.c.at)).where(_CHANGES.c.seq > seq)
    with read(engine) as connection:
        count, oldest = connection.execute(query).one()
    return int(count), None if oldest is None else int(oldest)


def _entry(row: Row[Any], ends: bool) -> Entry:
    collection = BY_CODE.get(row.collection)
    if collection is None:
        raise ChangelogBroken(f"change {row.seq}: there is no collection {row.collection}")
    if (row.op == Op.DELETE) != (row.image is None):
        raise ChangelogBroken(f"change {row.seq}: its image does not go with what it did")
    change = Change(
        seq=row.seq,
        collection=row.collection,
        kind=row.op | ENDS if ends else row.op,
        key=key_digest(collection.name, row.key),
        before=row.before or ABSENT,
        after=ABSENT if row.image is None else document_digest(row.image),
        epoch=row.epoch,
        at=row.at,
    )
    return Entry(change, row.key, row.image, row.payload)


@contextmanager
def _logged_anew(connection: Connection) -> Iterator[None]:
    """Log the rows of tables that are protected for the first time in a store that has a backup.

    They were never logged, so the backup does not know them: they are put again after the block.
    """
    logged = logged_tables(connection)
    rows: dict[str, list[dict[str, Any]]] = {}
    for each in COLLECTIONS:
        if each.name not in logged:
            found = connection.execute(select(each.table)).mappings()
            rows[each.name] = [dict(row) for row in found]
            connection.execute(delete(each.table))
    yield
    for each in COLLECTIONS:
        if rows.get(each.name):
            connection.execute(insert(each.table), rows[each.name])


def _install(connection: Connection, region: str, fresh: StoreIdentity, *, seq: int = 0) -> None:
    """Give the store an identity if it has none, and the triggers that this release wants."""
    found = connection.execute(select(_IDENTITY)).first()
    if found is not None and found.region != region:
        raise NotProtected(f"this database is region {found.region}'s, not {region}'s")
    dialect = connection.dialect.name
    with _logged_anew(connection) if found is not None else nullcontext():
        for statement in (*removal_sql(dialect), *trigger_sql(dialect)):
            connection.exec_driver_sql(statement)
    digest = trigger_digest(dialect)
    if found is not None:
        connection.execute(update(_IDENTITY).values(triggers=digest))
        return
    row = {"id": fresh.id, "region": region, "epoch": fresh.epoch, "seq": seq}
    connection.execute(
        insert(_IDENTITY), {**row, "fenced": False, "fenced_why": "", "triggers": digest}
    )
    if dialect == "sqlite":
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'changelog'")
        connection.exec_driver_sql(
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('changelog', ?)", (seq,)
        )
