"""What somebody who owns the database can do: take the guard off the receipts and change them."""

from sqlalchemy import Connection, Engine, text

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
