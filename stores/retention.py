"""Receipts and checkpoints stay: the database itself refuses to change or remove one.

The source document asks for 7 years. Nothing in Chainring removes a receipt at all; triggers make
sure that no command, query or mistake does. Who owns the database can drop a trigger, and is found
by the hash chain and the signed checkpoints; whoever only uses it cannot.

Appending is an INSERT, which no trigger here is asked about.
"""

from sqlalchemy import Connection, text

from models.tables_receipts import CheckpointRow, ReceiptRow

GUARDED = (str(ReceiptRow.__tablename__), str(CheckpointRow.__tablename__))
REFUSAL = "receipts and checkpoints are kept: this database changes and removes none"

_NAME = "kept"
_FUNCTION = f"""
CREATE OR REPLACE FUNCTION chainring_{_NAME}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '{REFUSAL}' USING ERRCODE = 'restrict_violation'; END $$
"""


def guards(connection: Connection) -> set[str]:
    """The names of the guards that are in the database."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'"
    return set(connection.execute(text(query)).scalars()) & expected_guards(connection)


def expected_guards(connection: Connection) -> set[str]:
    """The names of the guards that should be there."""
    events = ("update", "delete") if connection.dialect.name == "sqlite" else ("row", "truncate")
    return {f"{table}_{_NAME}_{event}" for table in GUARDED for event in events}


def guard(connection: Connection) -> None:
    """Put the guards into a database that has the tables; those that are there stay."""
    if connection.dialect.name == "sqlite":
        for table in GUARDED:
            for event in ("update", "delete"):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER IF NOT EXISTS {table}_{_NAME}_{event} "
                    f"BEFORE {event.upper()} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
                )
        return
    connection.execute(text(_FUNCTION))
    for table in GUARDED:
        for event, when in (("row", "UPDATE OR DELETE"), ("truncate", "TRUNCATE")):
            each = "ROW" if event == "row" else "STATEMENT"
            connection.execute(
                text(
                    f"CREATE OR REPLACE TRIGGER {table}_{_NAME}_{event} BEFORE {when} ON {table} "
                    f"FOR EACH {each} EXECUTE FUNCTION chainring_{_NAME}()"
                )
            )


def lift(connection: Connection) -> None:
    """Take the guards away, as only the database's owner can; no command does."""
    for name in sorted(guards(connection)):
        on = "" if connection.dialect.name == "sqlite" else f" ON {name.partition('_')[0]}"
        connection.execute(text(f"DROP TRIGGER {name}{on}"))
