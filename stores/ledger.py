"""The receipt ledger: append in one transaction, read back in order.

An append compares and sets the ledger's head row, so that two writers can never follow the same
receipt; the table's unique keys stand behind that. A writer whose epoch is lower than the head's
is fenced. An idempotency key that is there already returns its receipt instead of a second one.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from sqlalchemy import Connection, Engine, Select, bindparam, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from models.ids import RegionCode
from models.receipts import (
    GENESIS,
    Draft,
    StoredReceipt,
    parse_receipt,
    receipt_hash,
    seal,
    timestamp,
)
from models.tables_receipts import LedgerHeadRow, ReceiptRow
from stores.sql import read, write

PAGE = 1000
"""Receipts fetched at once; reading a ledger holds no transaction open between two pages."""

CAS_ATTEMPTS = 20

_KEYS_PER_QUERY = 500
_HEADS = SQLModel.metadata.tables[str(LedgerHeadRow.__tablename__)]
_RECEIPTS = SQLModel.metadata.tables[str(ReceiptRow.__tablename__)]
_NEW_HEAD = text(
    "INSERT INTO ledger_head (ledger, size, hash, epoch) VALUES (:ledger, 0, :hash, 0) "
    "ON CONFLICT DO NOTHING"
)
# The statements of an append, built once: putting one together costs as much as running it.
_HEAD = select(_HEADS.c.size, _HEADS.c.hash, _HEADS.c.epoch).where(
    _HEADS.c.ledger == bindparam("name")
)
_LOCKED_HEAD = _HEAD.with_for_update()
_SWAP = (
    update(_HEADS)
    .where(
        _HEADS.c.ledger == bindparam("name"),
        _HEADS.c.size == bindparam("old_size"),
        _HEADS.c.hash == bindparam("old_hash"),
        _HEADS.c.epoch == bindparam("old_epoch"),
    )
    .values(size=bindparam("new_size"), hash=bindparam("new_hash"), epoch=bindparam("new_epoch"))
)
_KNOWN = select(
    _RECEIPTS.c.seq, _RECEIPTS.c.kind, _RECEIPTS.c.data, _RECEIPTS.c.idempotency_key
).where(
    _RECEIPTS.c.ledger == bindparam("name"),
    _RECEIPTS.c.idempotency_key.in_(bindparam("keys", expanding=True)),
)
_INSERT = insert(_RECEIPTS)
_NAME: TypeAdapter[str] = TypeAdapter(RegionCode)


class LedgerError(Exception):
    """Base of what a ledger refuses."""


class FencedError(LedgerError):
    """A writer with a higher epoch has appended since: this one must stop."""


class IdempotencyConflict(LedgerError):
    """The key already belongs to a receipt that says something else."""


class HeadMoved(LedgerError):
    """Another writer appended between the look at the head and the swap; nothing was written."""


class Appended(BaseModel):
    """Where a draft is in the ledger; ``replayed``: it was there already."""

    model_config = ConfigDict(frozen=True)

    seq: int
    hash: str
    replayed: bool


@dataclass(frozen=True)
class Head:
    """The end of a ledger: how many receipts, the last one's hash (hex), the highest epoch."""

    size: int
    hash: str
    epoch: int


def utc_now() -> datetime:
    """The clock of a ledger that is given no other."""
    return datetime.now(UTC)


class Ledger:
    """One named ledger in one database.

    Every reading method takes the caller's ``connection`` too, and then sees what its transaction
    sees.

    Raises:
        ValueError: the name is not a ledger's name.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        epoch: int = 0,
    ) -> None:
        try:
            self.name = _NAME.validate_python(name)
        except ValidationError:
            raise ValueError(f"ledger: {name!r} is not a ledger's name") from None
        self.engine = engine
        self._clock = clock
        self._epoch = epoch

    def append(
        self, drafts: Sequence[Draft], *, connection: Connection | None = None
    ) -> list[Appended]:
        """Append receipts, in order; all of them or none.

        Without ``connection`` this is a transaction of its own and durable on return. With it the
        receipts become durable when the caller commits.

        Raises:
            FencedError: the ledger has seen a higher epoch.
            IdempotencyConflict: a key is there with another kind, subject, actor or body.
            HeadMoved: another writer got between, in the caller's transaction or too many times.
            StoreUnavailable: the database cannot serve now.
        """
        if not drafts:
            return []
        if connection is not None:
            return self._append(connection, drafts)
        for _ in range(CAS_ATTEMPTS - 1):
            try:
                return self._append_alone(drafts)
            except HeadMoved:
                continue
        return self._append_alone(drafts)

    def head(self, *, connection: Connection | None = None) -> Head:
        """The end of the ledger now; size 0 and `GENESIS` when nothing was ever appended."""
        with self._reading(connection) as reader:
            return self._head(reader, lock=False) or Head(0, GENESIS, 0)

    def read(
        self,
        start: int = 0,
        *,
        limit: int | None = None,
        kinds: Collection[str] | None = None,
        subject: str | None = None,
        connection: Connection | None = None,
    ) -> Iterator[StoredReceipt]:
        """Receipts from ``start`` on in order of ``seq``, fetched in pages as they are taken."""
        query = self._select().order_by(_RECEIPTS.c.seq)
        if kinds is not None:
            query = query.where(_RECEIPTS.c.kind.in_(list(kinds)))
        if subject is not None:
            query = query.where(_RECEIPTS.c.subject == subject)
        while limit is None or limit > 0:
            want = PAGE if limit is None else min(PAGE, limit)
            page = self._fetch(query.where(_RECEIPTS.c.seq >= start).limit(want), connection)
            yield from page
            if len(page) < want:
                return
            start = page[-1].seq + 1
            limit = None if limit is None else limit - want

    def history(
        self, *, kind: str, subject: str, connection: Connection | None = None
    ) -> Iterator[StoredReceipt]:
        """Receipts of one kind about one subject, newest first, fetched in pages."""
        query = (
            self._select()
            .where(_RECEIPTS.c.subject == subject, _RECEIPTS.c.kind == kind)
            .order_by(_RECEIPTS.c.seq.desc())
        )
        page = self._fetch(query.limit(PAGE), connection)
        while page:
            yield from page
            query_below = query.where(_RECEIPTS.c.seq < page[-1].seq)
            page = self._fetch(query_below.limit(PAGE), connection) if len(page) == PAGE else []

    def latest(
        self, *, kind: str, subject: str, connection: Connection | None = None
    ) -> StoredReceipt | None:
        """The newest receipt of one kind about one subject."""
        query = (
            self._select()
            .where(_RECEIPTS.c.subject == subject, _RECEIPTS.c.kind == kind)
            .order_by(_RECEIPTS.c.seq.desc())
        )
        return self._first(query, connection)

    def get(self, seq: int, *, connection: Connection | None = None) -> StoredReceipt | None:
        """The receipt with this sequence number."""
        return self._first(self._select().where(_RECEIPTS.c.seq == seq), connection)

    def get_many(
        self, seqs: Collection[int], *, connection: Connection | None = None
    ) -> dict[int, StoredReceipt]:
        """The receipts with these sequence numbers, by number; one that is not there is not."""
        wanted, found = sorted(set(seqs)), {}
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            some = wanted[start : start + _KEYS_PER_QUERY]
            query = self._select().where(_RECEIPTS.c.seq.in_(some))
            found.update({each.seq: each for each in self._fetch(query, connection)})
        return found

    def find(
        self, idempotency_key: str, *, connection: Connection | None = None
    ) -> StoredReceipt | None:
        """The receipt that an idempotency key wrote."""
        found = self._select().where(_RECEIPTS.c.idempotency_key == idempotency_key)
        return self._first(found, connection)

    def _append_alone(self, drafts: Sequence[Draft]) -> list[Appended]:
        with write(self.engine) as connection:
            return self._append(connection, drafts)

    def _append(self, connection: Connection, drafts: Sequence[Draft]) -> list[Appended]:
        head = self._open_head(connection)
        if self._epoch < head.epoch:
            raise FencedError(
                f"ledger {self.name}: epoch {self._epoch} is fenced, {head.epoch} has appended"
            )
        known = self._known(connection, drafts)
        answers, rows, last = self._chain(drafts, head, known)
        if rows or self._epoch > head.epoch:
            self._swap_head(connection, head, Head(head.size + len(rows), last, self._epoch))
        if rows:
            self._insert(connection, rows)
        return answers

    def _chain(
        self, drafts: Sequence[Draft], head: Head, known: dict[str, StoredReceipt]
    ) -> tuple[list[Appended], list[dict[str, Any]], str]:
        """Seal what is new after ``head``: an answer a draft, the new rows, the last hash."""
        answers: list[Appended] = []
        rows: list[dict[str, Any]] = []
        seq, prev, at = head.size, head.hash, timestamp(self._clock())
        for draft in drafts:
            same = known.get(draft.idempotency_key)
            if same is not None:
                answers.append(self._replayed(draft, same))
                continue
            data = seal(draft, ledger=self.name, seq=seq, prev=prev, at=at)
            rows.append(self._row(draft, seq, prev, data))
            known[draft.idempotency_key] = StoredReceipt(seq, draft.kind, data)
            prev = receipt_hash(data)
            answers.append(Appended(seq=seq, hash=prev, replayed=False))
            seq += 1
        return answers, rows, prev

    def _replayed(self, draft: Draft, stored: StoredReceipt) -> Appended:
        if not parse_receipt(stored.data).says(draft):
            raise IdempotencyConflict(
                f"ledger {self.name}: idempotency_key {draft.idempotency_key!r} is receipt "
                f"{stored.seq}, which has another kind, subject, actor or body"
            )
        return Appended(seq=stored.seq, hash=stored.hash, replayed=True)

    def _row(self, draft: Draft, seq: int, prev: str, data: bytes) -> dict[str, Any]:
        return {
            "ledger": self.name,
            "seq": seq,
            "prev": bytes.fromhex(prev),
            "kind": draft.kind,
            "subject": draft.subject,
            "idempotency_key": draft.idempotency_key,
            "data": data,
        }

    def _open_head(self, connection: Connection) -> Head:
        head = self._head(connection, lock=True)
        if head is None:
            row = {"ledger": self.name, "hash": bytes.fromhex(GENESIS)}
            connection.execute(_NEW_HEAD, row)
            head = self._head(connection, lock=True)
            assert head is not None
        return head

    def _head(self, connection: Connection, *, lock: bool) -> Head | None:
        row = connection.execute(_LOCKED_HEAD if lock else _HEAD, {"name": self.name}).first()
        return None if row is None else Head(row.size, row.hash.hex(), row.epoch)

    def _swap_head(self, connection: Connection, old: Head, new: Head) -> None:
        values = {
            "name": self.name,
            "old_size": old.size,
            "old_hash": bytes.fromhex(old.hash),
            "old_epoch": old.epoch,
            "new_size": new.size,
            "new_hash": bytes.fromhex(new.hash),
            "new_epoch": new.epoch,
        }
        swapped = connection.execute(_SWAP, values)
        if swapped.rowcount != 1:
            raise HeadMoved(f"ledger {self.name}: the head moved on from {old.size}")

    def _insert(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        try:
            connection.execute(_INSERT, rows)
        except IntegrityError as error:
            raise LedgerError(
                f"ledger {self.name}: receipt {rows[0]['seq']} or one after it is there already, "
                "though the head does not count it: the store is damaged"
            ) from error

    def _known(self, connection: Connection, drafts: Sequence[Draft]) -> dict[str, StoredReceipt]:
        """Receipts that the drafts' idempotency keys have written before."""
        keys = list({draft.idempotency_key for draft in drafts})
        known: dict[str, StoredReceipt] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = {"name": self.name, "keys": keys[start : start + _KEYS_PER_QUERY]}
            for row in connection.execute(_KNOWN, some):
                known[row.idempotency_key] = StoredReceipt(row.seq, row.kind, row.data)
        return known

    def _select(self) -> Select[Any]:
        return select(_RECEIPTS.c.seq, _RECEIPTS.c.kind, _RECEIPTS.c.data).where(
            _RECEIPTS.c.ledger == self.name
        )

    def _first(self, query: Select[Any], connection: Connection | None) -> StoredReceipt | None:
        return next(iter(self._fetch(query.limit(1), connection)), None)

    def _fetch(self, query: Select[Any], connection: Connection | None) -> list[StoredReceipt]:
        with self._reading(connection) as reader:
            return [StoredReceipt(row.seq, row.kind, row.data) for row in reader.execute(query)]

    def _reading(self, connection: Connection | None) -> AbstractContextManager[Connection]:
        return read(self.engine) if connection is None else nullcontext(connection)
