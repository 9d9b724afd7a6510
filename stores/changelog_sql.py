"""The SQL that turns rows into documents, and the triggers that log every change of one.

Triggers see every change of a protected table, by whatever statement: nothing that changes a row
can forget to log it, and the log's entry commits with the row or not at all. They also refuse every
write to a store that is fenced.
"""

import hashlib

from sqlalchemy import Column, Connection, DateTime, LargeBinary
from sqlalchemy.sql.sqltypes import Boolean

from models.changelog import Op
from stores.collections import COLLECTIONS, Collection, is_text

FENCED = "this store is fenced: the region has another primary"
FENCED_STATE = "CR001"
"""SQLSTATE of a write that PostgreSQL refuses because the store is fenced."""

RENAMED = "a protected row keeps its key: delete it and insert another one"

_SQLITE_NOW = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
_POSTGRES_NOW = "(extract(epoch from clock_timestamp()) * 1000)::bigint"


def image_sql(dialect: str, collection: Collection, row: str) -> str:
    """An expression for the image of the row called ``row``; the same text in every dialect."""
    return _array(dialect, collection, collection.columns, row)


def key_sql(dialect: str, collection: Collection, row: str) -> str:
    """An expression for the key of the row called ``row``."""
    return _array(dialect, collection, collection.keys, row)


def row_sql(dialect: str, collection: Collection, row: str) -> str:
    """The columns of the row called ``row`` as `Collection.row` gives them, payload last."""
    names = {column.name: column for column in collection.table.columns}
    return ", ".join(_plain_column(dialect, names[name], row) for name in collection.row_columns)


def logged_tables(connection: Connection) -> set[str]:
    """The tables whose changes are logged now."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
    triggers = set(connection.exec_driver_sql(query).scalars())
    return {each.name for each in COLLECTIONS if f"{each.name}_logged_insert" in triggers}


def trigger_sql(dialect: str) -> list[str]:
    """The statements that install the triggers, or install them anew."""
    make = _sqlite_triggers if dialect == "sqlite" else _postgres_triggers
    return [statement for collection in COLLECTIONS for statement in make(collection)]


def removal_sql(dialect: str) -> list[str]:
    """The statements that take the triggers away, so that they can be installed anew."""
    return [
        f"DROP TRIGGER IF EXISTS {each.name}_logged_{event}"
        + ("" if dialect == "sqlite" else f" ON {each.name}")
        for each in COLLECTIONS
        for event in ("insert", "update", "delete")
    ]


def trigger_digest(dialect: str) -> str:
    """What tells one set of triggers from another: SHA-256, hex."""
    return hashlib.sha256("\n".join(trigger_sql(dialect)).encode()).hexdigest()


def _array(dialect: str, of: Collection, columns: tuple["Column[object]", ...], row: str) -> str:
    if dialect == "sqlite":
        return f"json_array({', '.join(_sqlite_column(of, each, row) for each in columns)})"
    parts = (
        f"coalesce(to_json({_postgres_column(of, each, row)})::text, 'null')" for each in columns
    )
    listed = " || ',' || ".join(parts)
    return f"('[' || {listed} || ']')"


def _sqlite_column(of: Collection, column: "Column[object]", row: str) -> str:
    name = f'{row}."{column.name}"'
    if isinstance(column.type, LargeBinary):
        if is_text(of.name, column.name):
            return f"CAST({name} AS TEXT)"
        hexed = f"lower(hex({name}))"
        return f"iif({name} IS NULL, NULL, {hexed})" if column.nullable else hexed
    return name


def _postgres_column(of: Collection, column: "Column[object]", row: str) -> str:
    name = f'{row}."{column.name}"'
    if isinstance(column.type, LargeBinary):
        text = is_text(of.name, column.name)
        return f"convert_from({name}, 'UTF8')" if text else f"encode({name}, 'hex')"
    if isinstance(column.type, DateTime):
        return _postgres_time(name)
    return f"{name}::int" if isinstance(column.type, Boolean) else name


def _plain_column(dialect: str, column: "Column[object]", row: str) -> str:
    name = f'{row}."{column.name}"'
    if dialect == "sqlite" or not isinstance(column.type, DateTime | Boolean):
        return name
    if isinstance(column.type, Boolean):
        return f"{name}::int"
    return _postgres_time(name)


def _postgres_time(name: str) -> str:
    return f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"


def _payload(of: Collection, row: str) -> str:
    return "NULL" if of.payload is None else f'{row}."{of.payload}"'


def _sqlite_triggers(of: Collection) -> list[str]:
    def one(event: str, op: Op, row: str, before: str, image: str, payload: str) -> str:
        # No identity, no epoch, no entry: the column must not be null, so the write is refused.
        renamed = (
            f"SELECT RAISE(ABORT, '{RENAMED}') "
            f"WHERE {key_sql('sqlite', of, 'OLD')} IS NOT {key_sql('sqlite', of, 'NEW')}; "
            if event == "update"
            else ""
        )
        key = key_sql("sqlite", of, row)
        return (  # all names are those of our own tables
            f"CREATE TRIGGER {of.name}_logged_{event} AFTER {event.upper()} ON {of.name} BEGIN "  # noqa: S608
            f"SELECT RAISE(ABORT, '{FENCED}') FROM store_identity WHERE fenced; "
            f"{renamed}"
            "INSERT INTO changelog (collection, op, txn, key, before, image, payload, "
            "epoch, at) "
            f"VALUES ({of.code}, {op.value}, transaction_id(), {key}, {before}, "
            f"{image}, {payload}, (SELECT epoch FROM store_identity), {_SQLITE_NOW}); END"
        )

    new, old = image_sql("sqlite", of, "NEW"), f"sha256({image_sql('sqlite', of, 'OLD')})"
    return [
        one("insert", Op.PUT, "NEW", "NULL", new, _payload(of, "NEW")),
        one("update", Op.PUT, "NEW", old, new, _payload(of, "NEW")),
        one("delete", Op.DELETE, "OLD", old, "NULL", "NULL"),
    ]


def _postgres_triggers(of: Collection) -> list[str]:
    """Triggers of whole statements: one number of the sequence taken for all their rows."""
    same = " AND ".join(f'o."{key.name}" = n."{key.name}"' for key in of.keys)
    digest = f"sha256(convert_to({image_sql('postgresql', of, 'o')}, 'UTF8'))"
    image = image_sql("postgresql", of, "n")
    new_rows, old_rows = "new_rows n", "old_rows o"
    both = f"new_rows n JOIN old_rows o ON {same}"
    return [
        *_postgres(of, "insert", Op.PUT, "n", "NULL", image, _payload(of, "n"), new_rows),
        *_postgres(of, "update", Op.PUT, "n", digest, image, _payload(of, "n"), both),
        *_postgres(of, "delete", Op.DELETE, "o", digest, "NULL", "NULL", old_rows),
    ]


def _postgres(
    of: Collection, event: str, op: Op, row: str, before: str, image: str, payload: str, source: str
) -> list[str]:
    counted = "old_rows" if event == "delete" else "new_rows"
    tables = {
        "insert": "NEW TABLE AS new_rows",
        "update": "NEW TABLE AS new_rows OLD TABLE AS old_rows",
        "delete": "OLD TABLE AS old_rows",
    }[event]
    name = f"chainring_log_{of.name}_{event}"
    function = f"""
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE amount bigint; base bigint; current_epoch bigint; is_fenced boolean; logged bigint;
BEGIN
  SELECT count(*) INTO amount FROM {counted};
  IF amount = 0 THEN RETURN NULL; END IF;
  UPDATE store_identity SET seq = seq + amount
    RETURNING seq - amount, epoch, fenced INTO STRICT base, current_epoch, is_fenced;
  IF is_fenced THEN RAISE EXCEPTION '{FENCED}' USING ERRCODE = '{FENCED_STATE}'; END IF;
  INSERT INTO changelog
      (seq, collection, op, txn, key, before, image, payload, epoch, at)
    SELECT base + row_number() OVER (), {of.code}, {op.value}, pg_current_xact_id()::text::bigint,
      {key_sql("postgresql", of, row)}, {before}, {image}, {payload}, current_epoch, {_POSTGRES_NOW}
    FROM {source};
  GET DIAGNOSTICS logged = ROW_COUNT;
  IF logged <> amount THEN RAISE EXCEPTION '{RENAMED}'; END IF;
  RETURN NULL;
END $$"""  # noqa: S608
    trigger = (
        f"CREATE OR REPLACE TRIGGER {of.name}_logged_{event} AFTER {event.upper()} ON {of.name} "
        f"REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
    )
    return [function, trigger]
