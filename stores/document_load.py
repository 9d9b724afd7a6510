"""Writing documents back into a database: whole chunks at once, and changes folded by document."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Boolean, Connection, DateTime

from models.backup_file import BackupDamaged
from models.changelog import ABSENT, Entry
from stores.bulk import insert_rows
from stores.bulk_packed import insert_packed
from stores.collections import BY_CODE, COLLECTIONS, Collection

Row = Sequence[Any]
_TIME = "%Y-%m-%d %H:%M:%S.%f"


def load_rows(connection: Connection, collection: Collection, rows: Iterable[Row]) -> None:
    """Insert documents that are not there yet, by their rows."""
    if connection.dialect.name == "sqlite":
        insert_packed(connection, collection.table, collection.row_columns, rows)
        return
    convert = _converter(connection, collection)
    insert_rows(connection, collection.table, collection.row_columns, map(convert, rows))


def row_of(entry: Entry) -> Row:
    """The row of a change that put a document.

    Raises:
        DocumentError: it does not fit its table.
    """
    assert entry.image is not None
    return BY_CODE[entry.change.collection].row(entry.image, entry.payload)


def replay(connection: Connection, entries: Iterable[Entry]) -> None:
    """Make these changes, one after the other in effect; each document is written once.

    Raises:
        BackupDamaged: a document to change is not there.
        DocumentError: one does not fit its table.
    """
    first: dict[bytes, Entry] = {}
    last: dict[bytes, Entry] = {}
    for entry in entries:
        first.setdefault(entry.change.key, entry)
        last[entry.change.key] = entry
    before = {key for key, entry in first.items() if entry.change.before != ABSENT}
    for collection in reversed(COLLECTIONS):  # what refers to a row goes before the row
        gone = [e for k, e in last.items() if e.image is None and k in before]
        _delete(connection, collection, [e for e in gone if e.change.collection == collection.code])
    for collection in COLLECTIONS:
        put = {
            key: row_of(entry)
            for key, entry in last.items()
            if entry.change.collection == collection.code and entry.image is not None
        }
        load_rows(connection, collection, [row for key, row in put.items() if key not in before])
        _update(connection, collection, [row for key, row in put.items() if key in before])


def _converter(connection: Connection, collection: Collection) -> Callable[[Row], Row]:
    """What makes of a row the values that the driver takes."""
    if connection.dialect.name == "sqlite":
        return lambda row: row
    places: list[tuple[int, Callable[[Any], Any]]] = []
    for index, column in enumerate(collection.columns):
        if isinstance(column.type, DateTime):
            places.append((index, _moment))
        elif isinstance(column.type, Boolean):
            places.append((index, bool))
    if not places:
        return lambda row: row

    def convert(row: Row) -> Row:
        values = list(row)
        for index, make in places:
            values[index] = None if values[index] is None else make(values[index])
        return values

    return convert


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def _update(connection: Connection, collection: Collection, rows: Sequence[Row]) -> None:
    if not rows:
        return
    names = collection.row_columns
    keys = [column.name for column in collection.keys]
    order = [name for name in names if name not in keys] + keys
    places = [names.index(name) for name in order]
    mark, convert = _mark(connection), _converter(connection, collection)
    statement = (
        f"UPDATE {collection.name} SET {_equal(order[: -len(keys)], mark, ', ')} "  # noqa: S608
        f"WHERE {_equal(keys, mark, ' AND ')}"
    )
    values = [tuple(converted[place] for place in places) for converted in map(convert, rows)]
    _all_there(collection, connection.exec_driver_sql(statement, values).rowcount, len(rows))


def _delete(connection: Connection, collection: Collection, gone: Sequence[Entry]) -> None:
    if not gone:
        return
    keys = [column.name for column in collection.keys]
    where = _equal(keys, _mark(connection), " AND ")
    statement = f"DELETE FROM {collection.name} WHERE {where}"  # noqa: S608
    values = [tuple(collection.key_row(entry.key)) for entry in gone]
    _all_there(collection, connection.exec_driver_sql(statement, values).rowcount, len(gone))


def _mark(connection: Connection) -> str:
    return "?" if connection.dialect.name == "sqlite" else "%s"


def _equal(names: Sequence[str], mark: str, between: str) -> str:
    return between.join(f'"{name}" = {mark}' for name in names)


def _all_there(collection: Collection, found: int, wanted: int) -> None:
    if found not in (wanted, -1):  # a driver that does not count says -1
        raise BackupDamaged(
            f"{collection.name}: {wanted - found} documents that should be changed are not there"
        )
