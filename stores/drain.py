"""Bringing a spool's writes into a live store, each exactly once, however often that is begun.

A write's mark commits together with the write, so a drain that was killed goes on where it was. A
write whose key is not as the buffer saw it is not made: it is kept whole in ``buffer_conflict`` and
reported. The spool is cleared only when every record in it has its mark.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine, Row, delete, func, insert, select

from models.buffer import (
    BufferedWrite,
    Conflict,
    DrainReport,
    conflict,
    read_write,
    superseded,
    versions_end,
)
from models.spool import Record, outage_proof, span
from models.tables_buffer import BufferConflictRow, BufferMarkRow
from stores.kv import ABSENT, Placed, TenantKV
from stores.spool import Spool
from stores.spool_files import Contents, open_spool
from stores.sql import read, table, write

_MARKS = table(BufferMarkRow)
_CONFLICTS = table(BufferConflictRow)
_PART = 500
"""Writes of one tenant that are made in one transaction."""
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
        SpoolDamaged: a record is none that this release wrote; nothing was made.
        StoreUnavailable: call again; what was made has its marks.
        DrainIncomplete: a mark is missing at the end.
    """
    spool = contents.headers[0].spool.hex()
    by_tenant = _by_tenant(contents.records)
    if by_tenant:
        _forget(engine, spool, contents.drained)
    done = repeated = 0
    for tenant, writes in by_tenant.items():
        for start in range(0, len(writes), _PART):
            part = writes[start : start + _PART]
            repeated += _make(TenantKV(engine, tenant), spool, part, rebuilt=rebuilt)
            done += len(part)
            progress(done, len(contents.records))
    return _report(engine, contents, repeated)


def drain_and_clear(
    engine: Engine,
    spool: Spool,
    *,
    rebuilt: bool,
    progress: Progress = lambda _done, _of: None,
    secure: Callable[[DrainReport], None] = lambda _report: None,
) -> DrainReport:
    """`drain` by the spool's owner, who then clears it; also raises what `Spool.clear` does.

    Args:
        secure: called before the spool is cleared, which keeps the writes until then; what it
            raises is raised here, and nothing is cleared.
    """
    contents = open_spool(spool.directory)
    assert contents is not None
    report = drain(engine, contents, rebuilt=rebuilt, progress=progress)
    cleared = contents.headers[-1]._replace(first=contents.last + 1, chain=contents.chain)
    proof = outage_proof(cleared, cleared, contents.last, contents.chain)
    report = report.model_copy(update={"proof": proof})
    secure(report)
    spool.clear(contents.last, contents.chain)
    return report


def conflicts_of(engine: Engine, spool: str, *, limit: int = 1000) -> list[Conflict]:
    """The conflicts of a spool (hex id) in the records' order."""
    query = select(_CONFLICTS).where(_CONFLICTS.c.spool == spool)
    with read(engine) as connection:
        rows = connection.execute(query.order_by(_CONFLICTS.c.number).limit(limit))
        return [_conflict_of(row) for row in rows]


def _by_tenant(records: Sequence[Record]) -> dict[str, list[Numbered]]:
    found: dict[str, list[Numbered]] = {}
    for record in records:
        each = read_write(record.payload, number=record.number)
        found.setdefault(each.tenant, []).append((record.number, each))
    return found


def _make(kv: TenantKV, spool: str, writes: list[Numbered], *, rebuilt: bool) -> int:
    """Make some of a tenant's writes in one transaction; how many were made before.

    A write that a later one of these replaces counts as made, and only the last reaches the table.
    """
    with kv.transaction() as connection:
        known = select(_MARKS.c.id).where(_MARKS.c.id.in_([each.id for _, each in writes]))
        marked = set(connection.execute(known).scalars())
        fresh = [(number, each) for number, each in writes if each.id not in marked]
        versions = kv.versions_in(connection, {each.key for _, each in fresh})
        placed: dict[bytes, Placed] = {}
        marks, conflicts = [], []
        for number, each in fresh:
            found = versions.get(each.key, ABSENT)
            why = conflict(each, found, rebuilt=rebuilt)
            if found == each.version or superseded(each, found):
                why = None  # it is there, or was: by a drain whose marks are lost
            elif why is None:
                placed[each.key] = Placed(each.value, each.version)
                versions[each.key] = ABSENT if each.value is None else each.version
            else:
                conflicts.append(_row(spool, number, each) | {"found": found, "why": why})
            mark = {"id": each.id, "spool": spool, "number": number, "applied": why is None}
            marks.append(mark)
        if placed:
            kv.place(connection, placed, clock=max(versions_end(e.version) for _, e in fresh))
        for into, rows in ((_CONFLICTS, conflicts), (_MARKS, marks)):
            if rows:
                connection.execute(insert(into), rows)
    return len(marked)


def _row(spool: str, number: int, each: BufferedWrite) -> dict[str, Any]:
    kept = {name: getattr(each, name) for name in BufferedWrite.__struct_fields__}
    return {**kept, "spool": spool, "number": number}


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
