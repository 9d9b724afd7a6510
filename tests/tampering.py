"""What somebody who owns the database can do: take the guard off the receipts and change them."""

from sqlalchemy import Connection, Engine, text

from stores.changelog_sql import removal_sql
from stores.retention import lift
from stores.sql import write


def tamper(connection: Connection, statement: str) -> None:
    """Run a statement on tables that refuse it to everybody else."""
    lift(connection)
    connection.execute(text(statement))


def damage(engine: Engine, statement: str) -> None:
    """The same in a transaction of its own."""
    with write(engine) as connection:
        tamper(connection, statement)


def rot(engine: Engine, *statements: str) -> None:
    """Change documents as damage does: past the triggers that would log it."""
    with write(engine) as connection:
        for each in removal_sql(engine.dialect.name):
            connection.exec_driver_sql(each)
        for each in statements:
            tamper(connection, each)
