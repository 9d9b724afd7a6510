"""The empty database that a restore builds in, beside the one that it is to replace."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from stores.sql import StoreUnavailable

_SUFFIXES = ("", "-wal", "-shm", "-journal")


def target_url(database: str, store: str) -> str:
    """The address of the database of a restored store: a name of its own beside the first one's."""
    url = make_url(database)
    assert url.database
    short = store[:12]
    if url.drivername == "sqlite":
        path = Path(url.database)
        stem = path.stem.split("-restored-")[0]
        return f"sqlite:///{path.with_name(f'{stem}-restored-{short}{path.suffix}')}"
    name = f"{url.database.split('_restored_')[0]}_restored_{short}"
    return url.set(database=name).render_as_string(hide_password=False)


def create_target(url: str) -> None:
    """Make the database, empty: what an interrupted restore left there is thrown away.

    Raises:
        StoreUnavailable: the server does not answer, or the disk is not writable.
    """
    drop_target(url)
    parsed = make_url(url)
    if parsed.drivername != "sqlite":
        with _administration(parsed) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(_name(parsed)))


def drop_target(url: str) -> None:
    """Remove a database that a restore made; one that is not there is none."""
    parsed = make_url(url)
    assert parsed.database and "restored" in parsed.database
    if parsed.drivername == "sqlite":
        for suffix in _SUFFIXES:
            Path(parsed.database + suffix).unlink(missing_ok=True)
        return
    with _administration(parsed) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(_name(parsed)))


@contextlib.contextmanager
def thrown_away_on_error(url: str) -> Iterator[None]:
    """Remove a database whose building fails: it may have filled the disk that others live on."""
    try:
        yield
    except Exception:
        with contextlib.suppress(StoreUnavailable, OSError):  # why it failed is what counts
            drop_target(url)
        raise


def without_password(url: str) -> str:
    """An address that may be shown."""
    return make_url(url).render_as_string(hide_password=True)


def _name(url: URL) -> sql.Identifier:
    assert url.database
    return sql.Identifier(url.database)


@contextlib.contextmanager
def _administration(url: URL) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    """A connection to the server's own database: a database cannot be made from within itself."""
    plain = url.set(drivername="postgresql", database="postgres")
    try:
        with psycopg.connect(
            plain.render_as_string(hide_password=False), autocommit=True, connect_timeout=5
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise StoreUnavailable("unreachable", str(error).strip()) from error
