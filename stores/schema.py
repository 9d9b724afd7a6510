"""Bringing an older home's database up to date, by adding and never by changing.

Releases of Chainring only ever add tables, columns with a default, and indexes. So an older
database is completed in place, and one that a newer release has made is refused: what a column
means that this code does not know is not for it to guess.
"""

from collections.abc import Iterator

from sqlalchemy import Column, Connection, Table, inspect, text
from sqlalchemy.schema import ColumnDefault, CreateIndex
from sqlmodel import SQLModel


class SchemaMismatch(Exception):
    """The database was made by another release of Chainring and cannot be brought up to date."""


def lacks(connection: Connection) -> bool:
    """Whether a table that is there lacks a column or an index.

    Raises:
        SchemaMismatch: it has a column that this release does not know.
    """
    return any(True for _ in _additions(connection))


def complete(connection: Connection) -> None:
    """Add what `lacks` found, within the caller's transaction.

    Raises:
        SchemaMismatch: a column is missing that has no default, or one is there that is unknown.
    """
    for statement in list(_additions(connection)):
        connection.execute(text(statement))


def _additions(connection: Connection) -> Iterator[str]:
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    tables = [each for each in SQLModel.metadata.sorted_tables if each.name in present]
    names = [each.name for each in tables]
    columns = inspector.get_multi_columns(filter_names=names)
    indexes = inspector.get_multi_indexes(filter_names=names)
    for table in tables:
        there = {column["name"] for column in columns.get((None, table.name), [])}
        _refuse_unknown(table, there)
        for column in table.columns:
            if column.name not in there:
                yield _add_column(connection, table, column)
        known = {index["name"] for index in indexes.get((None, table.name), [])}
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            if index.name not in known:
                yield str(CreateIndex(index).compile(connection))


def _refuse_unknown(table: Table, there: set[str]) -> None:
    unknown = there - {column.name for column in table.columns}
    if unknown:
        raise SchemaMismatch(
            f"table {table.name} has {', '.join(sorted(unknown))}, which this release does not "
            "know: a newer release of Chainring made this database"
        )


def _add_column(connection: Connection, table: Table, column: "Column[object]") -> str:
    dialect = connection.dialect
    name = dialect.identifier_preparer.quote(column.name)
    kind = column.type.compile(dialect)
    added = f"ALTER TABLE {dialect.identifier_preparer.quote(table.name)} ADD COLUMN {name} {kind}"
    chosen = column.default
    default = chosen.arg if isinstance(chosen, ColumnDefault) and chosen.is_scalar else None
    if default is None:
        if not column.nullable:
            raise SchemaMismatch(
                f"table {table.name} lacks {column.name}, for which old rows have no value: "
                "this home must be made anew"
            )
        return added
    literal = column.type.literal_processor(dialect)
    value = literal(default) if literal is not None else str(int(default))
    return f"{added} DEFAULT {value}" + ("" if column.nullable else " NOT NULL")
