"""One probe of a region's primary: a canary through its write path, and some live documents.

Every probe connects anew, because a connection that is open goes on answering for a file that is
deleted. It says what it found, and never raises; how long it may take is for `stores.probing`.
"""

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, Row, insert, inspect, select, tuple_, update
from sqlalchemy import exc as sa_exc

from models.probe import Outcome, Probe, timed
from models.tables_kv import KvEntryRow
from models.tables_probe import CanaryRow
from models.tables_receipts import ReceiptRow
from stores.changelog import NotProtected, identity_in
from stores.kv import value_digest
from stores.pointer import Pointer
from stores.restore_target import without_password
from stores.sql import StoreUnavailable, create_all, open_existing, read, table, write

SAMPLE = 200
"""Live documents of each kind that a probe checks; the next one goes on behind them."""
SAMPLE_BYTES = 4 * 1024 * 1024

_CANARY = table(CanaryRow)
_VALUES = table(KvEntryRow)
_RECEIPTS = table(ReceiptRow)
_SLOW_KINDS = frozenset({"locked", "overloaded"})
_CORRUPT_SQLITE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_CORRUPT_POSTGRES = ("XX001", "XX002")  # data_corrupted, index_corrupted


class _Found(Exception):
    """The store is not as it must be."""

    def __init__(self, outcome: Outcome, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class Prober:
    """Probes whatever store is a region's primary.

    Args:
        primary: which that is.
        distrust: what others hold against the primary's documents; "" as long as nothing.
    """

    def __init__(
        self,
        region: str,
        primary: Callable[[], Pointer],
        *,
        distrust: Callable[[], str] = lambda: "",
        slow: float,
    ) -> None:
        self._region = region
        self._primary = primary
        self._distrust = distrust
        self.slow = slow

    def probe(self, at: datetime) -> Probe:
        """Look at the primary now; ``at`` names the probe."""
        began, store = time.monotonic(), ""
        took: list[float] = []
        try:
            pointer = self._primary()
            store = pointer.store
            self._look(pointer, lambda: took.append(time.monotonic() - began))
            outcome, why = timed(took[0], self.slow)
        except Exception as error:  # what is not known to be well is not
            outcome, why = _judged(error)
        seconds = took[0] if took else time.monotonic() - began
        return Probe(outcome=outcome, at=at, seconds=seconds, why=why[:500], store=store)

    def _look(self, pointer: Pointer, read_done: Callable[[], None]) -> None:
        """Read, check, write, read back.

        Raises:
            Exception: any; `_judged` says what it means.
        """
        engine = open_existing(pointer.database)
        try:
            with read(engine) as connection:
                self._require_identity(connection, pointer)
                there = inspect(connection).has_table(_CANARY.name)
                before = _canary(connection) if there else None
                read_done()
                place = _check_sample(connection, self._region, before)
            if distrusted := self._distrust():
                raise _Found("corrupted", distrusted)
            if not there:
                create_all(engine)
            nonce = secrets.token_bytes(32)
            _write_canary(engine, nonce, place)
            _read_back(engine, nonce, None if before is None else _raw(before.nonce))
        finally:
            engine.dispose()

    def _require_identity(self, connection: Connection, pointer: Pointer) -> None:
        found = identity_in(connection, self._region)
        if found.id != pointer.store:
            where = without_password(pointer.database)
            raise _Found("down", f"{where} is store {found.id}, the primary is {pointer.store}")
        if found.fenced:
            raise _Found("down", f"the primary is fenced: {found.fenced_why}")


def _judged(error: Exception) -> tuple[Outcome, str]:
    """What an error of a probe says of the store; one that nobody foresaw is no pass."""
    if isinstance(error, _Found):
        return error.outcome, str(error)
    if isinstance(error, StoreUnavailable):
        return ("slow" if error.kind in _SLOW_KINDS else "down"), str(error)
    if isinstance(error, NotProtected):
        return "down", str(error)
    original = error.orig if isinstance(error, sa_exc.DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", 0) & 0xFF
        return ("corrupted" if code in _CORRUPT_SQLITE else "down"), f"database: {original}"
    if isinstance(original, psycopg.Error):
        corrupt = original.sqlstate in _CORRUPT_POSTGRES
        return ("corrupted" if corrupt else "down"), f"database: {original}"
    return "down", f"{type(error).__name__}: {error}"


def _canary(connection: Connection) -> Row[Any] | None:
    """The canary that the last probe left.

    Raises:
        _Found: it was changed under its digest.
    """
    row = connection.execute(select(_CANARY)).first()
    if row is not None and hashlib.sha256(_raw(row.nonce)).digest() != _raw(row.sha256):
        raise _Found("corrupted", "the canary does not match its SHA-256")
    return row


def _write_canary(engine: Engine, nonce: bytes, place: dict[str, Any]) -> None:
    values = {"nonce": nonce, "sha256": hashlib.sha256(nonce).digest(), **place}
    with write(engine, lock="canary") as connection:
        if connection.execute(update(_CANARY).values(**values)).rowcount == 0:
            connection.execute(insert(_CANARY), {"id": 1, **values})


def _read_back(engine: Engine, nonce: bytes, before: bytes | None) -> None:
    """See that the canary is there; it may also be that of a probe beside this one, never the old.

    Raises:
        _Found: it is not there after its commit.
    """
    with read(engine) as connection:
        row = _canary(connection)
    if row is None or (_raw(row.nonce) != nonce and _raw(row.nonce) == before):
        raise _Found("corrupted", "the canary is not there after its commit")


def _check_sample(connection: Connection, region: str, before: Row[Any] | None) -> dict[str, Any]:
    """Check some live documents; where to go on next time.

    Raises:
        _Found: one is not what was written. The place stays, and the next probe finds it again.
    """
    tenant, key = ("", b"") if before is None else (before.tenant, _raw(before.key))
    receipt = -1 if before is None else before.receipt
    tenant, key = _check_values(connection, tenant, key)
    return {"tenant": tenant, "key": key, "receipt": _check_receipts(connection, region, receipt)}


def _check_values(connection: Connection, tenant: str, key: bytes) -> tuple[str, bytes]:
    query = (
        select(_VALUES)
        .where(tuple_(_VALUES.c.tenant, _VALUES.c.key) > (tenant, key))
        .order_by(_VALUES.c.tenant, _VALUES.c.key)
        .limit(SAMPLE)
        .execution_options(stream_results=True, max_row_buffer=20)
    )
    seen = size = 0
    with connection.execute(query) as rows:
        for row in rows:
            seen += 1
            size += len(_raw(row.value))
            tenant, key = row.tenant, _raw(row.key)
            if value_digest(tenant, key, _raw(row.value)) != _raw(row.sha256):
                name = hashlib.sha256(key).hexdigest()[:12]  # the key itself is the tenant's
                why = f"a value of {tenant} (key {name}) is not what was written"
                raise _Found("corrupted", why)
            if size > SAMPLE_BYTES:
                return tenant, key
    return ("", b"") if seen < SAMPLE else (tenant, key)


def _check_receipts(connection: Connection, region: str, after: int) -> int:
    """Each receipt is the one that the next names; -1: begin again next time."""
    query = (
        select(_RECEIPTS.c.seq, _RECEIPTS.c.prev, _RECEIPTS.c.data)
        .where(_RECEIPTS.c.ledger == region, _RECEIPTS.c.seq >= after)
        .order_by(_RECEIPTS.c.seq)
        .limit(SAMPLE)
    )
    rows = connection.execute(query).all()
    for row, following in pairwise(rows):
        named = hashlib.sha256(_raw(row.data)).digest() == _raw(following.prev)
        if following.seq != row.seq + 1 or not named:
            raise _Found("corrupted", f"receipt {row.seq} is not the one that the next one names")
    return int(rows[-1].seq) if len(rows) == SAMPLE else -1


def _raw(value: bytes | str) -> bytes:
    """A binary column as it is; damage in SQLite can make it another type."""
    return value.encode() if isinstance(value, str) else bytes(value)
