"""Bringing a spool's writes into a live store, each exactly once, however often that is begun.

A write's mark commits together with the write, so a drain that was killed goes on where it was. A
write whose key is not as the buffer saw it is not made: it is kept whole in ``buffer_conflict`` and
reported. The spool is cleared only when every record in it has its mark.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select

from models.buffer import (
    BufferedWrite,
    Conflict,
    DrainReport,
    conflict,
    read_write,
    versions_end,
)
from models.spool import Record, outage_proof, span
from models.tables_buffer import BufferConflictRow, BufferMarkRow
from stores.kv import TenantKV
from stores.spool import Spool
from stores.spool_files import Contents, open_spool
from stores.sql import read, table, write

_MARKS = table(BufferMarkRow)
_CONFLICTS = table(BufferConflictRow)
_PART = 256
"""Records that are grouped by tenant at a time, each tenant's in one transaction."""
_SHOWN = 100

Numbered = tuple[int, BufferedWrite]
Progress = Callable[[int, int], None]
"""Called after each part with how many records are dealt with, and how many there are."""


class DrainIncomplete(Exception):
    """The store does not have a mark for each record; nothing was cleared."""


def drain(
    engine: Engine,
    contents: Contents,
    *,
    rebuilt: bool,
    progress: Progress = lambda _done, _of: None,
) -> DrainReport:
    """Make the writes of a spool in a store that has its tables; the spool keeps them.

    Args:
        contents: of `stores.spool_files`; may be read while the spool's owner goes on.
        rebuilt: see `models.buffer.conflict`.

    Raises:
        SpoolDamaged: a record is none that this release wrote; those before it are made.
        StoreUnavailable: call again; what was made has its marks.
        DrainIncomplete: a mark is missing at the end.
    """
    spool = contents.headers[0].spool.hex()
    if contents.records:
        _forget(engine, spool, contents.drained)
    repeated = 0
    for start in range(0, len(contents.records), _PART):
        part = contents.records[start : start + _PART]
        for tenant, writes in _by_tenant(part):
            repeated += _make(TenantKV(engine, tenant), spool, writes, rebuilt=rebuilt)
        progress(start + len(part), len(contents.records))
    return _report(engine, contents, repeated)


def drain_and_clear(
    engine: Engine,
    spool: Spool,
    *,
    rebuilt: bool,
    progress: Progress = lambda _done, _of: None,
) -> DrainReport:
    """`drain` by the spool's owner, who then clears it; also raises what `Spool.clear` does."""
    contents = open_spool(spool.directory)
    assert contents is not None
    report = drain(engine, contents, rebuilt=rebuilt, progress=progress)
    spool.clear(contents.last, contents.chain)
    return report.model_copy(update={"proof": spool.proof()})


def conflicts_of(engine: Engine, spool: str, *, limit: int = 1000) -> list[Conflict]:
    """The conflicts of a spool (hex id) in the records' order."""
    query = select(_CONFLICTS).where(_CONFLICTS.c.spool == spool)
    with read(engine) as connection:
        rows = connection.execute(query.order_by(_CONFLICTS.c.number).limit(limit))
        return [_conflict_of(row) for row in rows]


def _by_tenant(part: Sequence[Record]) -> Iterator[tuple[str, list[Numbered]]]:
    found: dict[str, list[Numbered]] = {}
    for record in part:
        each = read_write(record.payload, number=record.number)
        found.setdefault(each.tenant, []).append((record.number, each))
    yield from found.items()


def _make(kv: TenantKV, spool: str, writes: list[Numbered], *, rebuilt: bool) -> int:
    """Make one tenant's writes in one transaction; how many were made before."""
    with kv.transaction() as connection:
        known = select(_MARKS.c.id).where(_MARKS.c.id.in_([each.id for _, each in writes]))
        marked = set(connection.execute(known).scalars())
        fresh = [(number, each) for number, each in writes if each.id not in marked]
        marks = [
            {
                "id": each.id,
                "spool": spool,
                "number": number,
                "applied": _apply(connection, kv, spool, number, each, rebuilt=rebuilt),
            }
            for number, each in fresh
        ]
        if marks:
            connection.execute(insert(_MARKS), marks)
    return len(marked)


def _apply(
    connection: Connection,
    kv: TenantKV,
    spool: str,
    number: int,
    each: BufferedWrite,
    *,
    rebuilt: bool,
) -> bool:
    found = kv.version_in(connection, each.key)
    if found == each.version:  # made by a drain whose marks are lost: a version is given once
        return True
    why = conflict(each, found, rebuilt=rebuilt)
    if why is None:
        clock = versions_end(each.version)
        kv.place(connection, each.key, each.value, each.version, clock=clock)
        return True
    kept = {name: getattr(each, name) for name in BufferedWrite.__struct_fields__}
    row = {**kept, "spool": spool, "number": number, "found": found, "why": why}
    connection.execute(insert(_CONFLICTS), row)
    return False


def _forget(engine: Engine, spool: str, drained: int) -> None:
    """Drop the marks of records that the spool no longer holds; their conflicts are kept."""
    old = delete(_MARKS).where(_MARKS.c.spool == spool, _MARKS.c.number <= drained)
    with write(engine, lock=f"drain/{spool}") as connection:
        connection.execute(old)


def _report(engine: Engine, contents: Contents, repeated: int) -> DrainReport:
    oldest = contents.headers[0]
    spool = oldest.spool.hex()
    counted = select(_MARKS.c.applied, func.count()).where(_MARKS.c.spool == spool)
    held = select(func.count()).where(_MARKS.c.spool == spool)
    here = held.where(_MARKS.c.number.between(contents.drained + 1, contents.last))
    with read(engine) as connection:
        outcomes = {
            bool(applied): int(count)
            for applied, count in connection.execute(counted.group_by(_MARKS.c.applied))
        }
        marked = connection.execute(here).scalar_one()
    if marked != len(contents.records):
        raise DrainIncomplete(
            f"spool {spool}: {len(contents.records)} records, {marked} of them have marks"
        )
    return DrainReport(
        applied=outcomes.get(True, 0),
        repeated=repeated,
        conflicts=outcomes.get(False, 0),
        first_conflicts=tuple(conflicts_of(engine, spool, limit=_SHOWN)),
        drained=span(contents.drained + 1, contents.last, oldest.chain, contents.chain),
        proof=outage_proof(contents.headers[-1], oldest, contents.last, contents.chain),
    )


def _conflict_of(row: Row[Any]) -> Conflict:
    return Conflict(
        id=row.id,
        number=row.number,
        tenant=row.tenant,
        key=row.key.decode(),
        removes=row.value is None,
        expected=row.expected,
        seen=row.seen,
        found=row.found,
        why=row.why,
    )
