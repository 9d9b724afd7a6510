"""The database of known vulnerabilities: one SQLite file, loaded feed by feed.

A load replaces a feed in one transaction: readers see the old feed or the new one, and a feed that
breaks off, or is empty, leaves the old one. What was loaded is named by its digest; a snapshot's
digest stands for all feeds together.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import msgspec

from models.advisory import Advisory, Affected
from models.matching import base_ecosystem, normal_name
from models.vulnerability_data import Feed, LoadedFeed, Snapshot
from stores.consulted import Relevant
from stores.sql import BUSY_TIMEOUT_MS, StoreUnavailable
from stores.vulnerability_feeds import (
    FeedError,
    epss_scores,
    kev_ids,
    nvd_records,
    osv_records,
)

_BATCH = 2_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS feed (
    name TEXT PRIMARY KEY, loaded_at TEXT NOT NULL, as_of TEXT NOT NULL,
    records INTEGER NOT NULL, digest TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS advisory (
    key INTEGER PRIMARY KEY, source TEXT NOT NULL, id TEXT NOT NULL, withdrawn INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS advisory_source ON advisory (source);
CREATE TABLE IF NOT EXISTS affected (
    ecosystem TEXT NOT NULL, name TEXT NOT NULL, key INTEGER NOT NULL,
    PRIMARY KEY (ecosystem, name, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alias (
    name TEXT NOT NULL, key INTEGER NOT NULL, PRIMARY KEY (name, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exploited (cve TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epss (cve TEXT PRIMARY KEY, score REAL NOT NULL) WITHOUT ROWID;
"""
_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(Advisory).decode


class VulnerabilityStore:
    """Loads feeds and looks advisories up. One process writes at a time; readers are never held."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(
        self,
        feed: Feed,
        source: Path,
        *,
        now: datetime,
        heartbeat: Callable[[str], None] = lambda _: None,
    ) -> LoadedFeed:
        """Replace a feed by what ``source`` holds.

        The same bytes again change nothing but ``loaded_at``.

        Raises:
            FeedError: it cannot be read to its end, or is empty; the old one stays.
            StoreUnavailable: the database cannot be written.
        """
        with self._connect() as connection, _transaction(connection):
            if feed == "kev":
                return self._load_kev(connection, source, now)
            if feed == "epss":
                return self._load_epss(connection, source, now)
            read = osv_records if feed == "osv" else nvd_records
            return self._load_advisories(connection, feed, read(source), now, heartbeat)

    def load_records(
        self, feed: Feed, records: Iterable[tuple[bytes, Advisory]], *, now: datetime
    ) -> LoadedFeed:
        """Replace a feed by records that are there already, each with the bytes it came from.

        Raises:
            FeedError: there are none; the old ones stay.
            StoreUnavailable: the database cannot be written.
        """
        with self._connect() as connection, _transaction(connection):
            return self._load_advisories(connection, feed, records, now, lambda _: None)

    def snapshot(self) -> Snapshot:
        """What is loaded; no feeds when there is no database yet."""
        if not self.path.exists():
            return Snapshot(feeds=[])
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT name, loaded_at, as_of, records, digest FROM feed ORDER BY name"
            )
            return Snapshot(feeds=[_feed(row) for row in rows])

    @contextmanager
    def reading(self) -> "Iterator[AdvisoryReader]":
        """Several look-ups in one state of the database.

        Raises:
            StoreUnavailable: there is no database, or it cannot be read.
        """
        if not self.path.exists():
            raise StoreUnavailable("unreachable", f"no vulnerability data at {self.path}")
        with self._connect() as connection:
            connection.execute("BEGIN")
            yield AdvisoryReader(connection)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable("unreachable", f"{self.path}: {error}") from error

    def _load_advisories(
        self,
        connection: sqlite3.Connection,
        feed: Feed,
        records: Iterable[tuple[bytes, Advisory]],
        now: datetime,
        heartbeat: Callable[[str], None],
    ) -> LoadedFeed:
        for table in ("affected", "alias"):
            connection.execute(
                f"DELETE FROM {table} WHERE key IN (SELECT key FROM advisory WHERE source = ?)",  # noqa: S608  # two names of our own
                (feed,),
            )
        connection.execute("DELETE FROM advisory WHERE source = ?", (feed,))
        [(key,)] = connection.execute("SELECT coalesce(max(key), 0) FROM advisory")
        digests: list[bytes] = []
        as_of = ""
        batch: list[tuple[int, Advisory]] = []
        for data, advisory in records:
            key += 1
            digests.append(sha256(data).digest())
            as_of = max(as_of, advisory.modified)
            batch.append((key, advisory))
            if len(batch) == _BATCH:
                _insert(connection, feed, batch)
                batch.clear()
                heartbeat(f"{feed}: {len(digests)} records")
        _insert(connection, feed, batch)
        return _publish(connection, feed, digests, as_of, now)

    def _load_kev(self, connection: sqlite3.Connection, source: Path, now: datetime) -> LoadedFeed:
        connection.execute("DELETE FROM exploited")
        cves = sorted(set(kev_ids(source)))
        connection.executemany("INSERT INTO exploited VALUES (?)", ((cve,) for cve in cves))
        return _publish(
            connection, "kev", [sha256(each.encode()).digest() for each in cves], "", now
        )

    def _load_epss(self, connection: sqlite3.Connection, source: Path, now: datetime) -> LoadedFeed:
        connection.execute("DELETE FROM epss")
        scores = dict(epss_scores(source))
        connection.executemany("INSERT INTO epss VALUES (?, ?)", scores.items())
        digests = [sha256(f"{cve} {score!r}".encode()).digest() for cve, score in scores.items()]
        return _publish(connection, "epss", digests, "", now)


class AdvisoryReader:
    """Look-ups in one state of the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def snapshot(self) -> Snapshot:
        """What is loaded in this state."""
        rows = self._connection.execute(
            "SELECT name, loaded_at, as_of, records, digest FROM feed ORDER BY name"
        )
        return Snapshot(feeds=[_feed(row) for row in rows])

    def about(
        self, packages: Sequence[tuple[str, str]], relevant: Relevant
    ) -> dict[tuple[str, str], list[Advisory]]:
        """Advisories that are not withdrawn, by (base ecosystem, normal name) of a package.

        Args:
            relevant: says which are wanted; of a name that has thousands, hardly any are in memory.
        """
        self._connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS wanted (ecosystem TEXT, name TEXT, "
            "PRIMARY KEY (ecosystem, name)) WITHOUT ROWID"
        )
        self._connection.execute("DELETE FROM wanted")
        self._connection.executemany("INSERT OR IGNORE INTO wanted VALUES (?, ?)", packages)
        rows = self._connection.execute(
            "SELECT w.ecosystem, w.name, a.data FROM wanted w "
            "CROSS JOIN affected f ON f.ecosystem = w.ecosystem AND f.name = w.name "
            "CROSS JOIN advisory a ON a.key = f.key WHERE NOT a.withdrawn"
        )
        found: dict[tuple[str, str], list[Advisory]] = {}
        for ecosystem, name, data in rows:
            advisory = _DECODE(data)
            if relevant((ecosystem, name), advisory):
                found.setdefault((ecosystem, name), []).append(advisory)
        return found

    def ecosystems(self, names: Iterable[str]) -> set[str]:
        """Those of the ecosystems about which anything is known at all."""
        query = "SELECT 1 FROM affected WHERE ecosystem = ? LIMIT 1"
        return {name for name in names if self._connection.execute(query, (name,)).fetchone()}

    def called(self, names: Iterable[str]) -> list[Advisory]:
        """Advisories with one of these ids or aliases, withdrawn ones included."""
        query = "SELECT a.data FROM alias l JOIN advisory a ON a.key = l.key WHERE l.name = ?"
        found = {data for name in names for (data,) in self._connection.execute(query, (name,))}
        return [_DECODE(data) for data in sorted(found)]

    def exploited(self, names: Iterable[str]) -> bool:
        """Whether one of these is in the catalogue of known exploited vulnerabilities."""
        query = "SELECT 1 FROM exploited WHERE cve = ?"
        return any(self._connection.execute(query, (name,)).fetchone() for name in names)

    def epss(self, names: Iterable[str]) -> float | None:
        """The highest probability of exploitation that one of these has."""
        query = "SELECT score FROM epss WHERE cve = ?"
        found = [self._connection.execute(query, (name,)).fetchone() for name in names]
        return max((row[0] for row in found if row), default=None)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _insert(connection: sqlite3.Connection, feed: Feed, batch: list[tuple[int, Advisory]]) -> None:
    connection.executemany(
        "INSERT INTO advisory VALUES (?, ?, ?, ?, ?)",
        ((key, feed, each.id, bool(each.withdrawn), _ENCODE(each)) for key, each in batch),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO affected VALUES (?, ?, ?)",
        ((*_name(of), key) for key, each in batch for of in each.affected),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO alias VALUES (?, ?)",
        ((name, key) for key, each in batch for name in each.names()),
    )


def _name(affected: Affected) -> tuple[str, str]:
    ecosystem = affected.ecosystem
    return base_ecosystem(ecosystem), normal_name(ecosystem, affected.name)


def _publish(
    connection: sqlite3.Connection, feed: Feed, digests: list[bytes], as_of: str, now: datetime
) -> LoadedFeed:
    if not digests:
        raise FeedError(f"feed {feed}: holds no record, which no such database does")
    digest = "sha256:" + sha256(b"".join(sorted(digests))).hexdigest()
    connection.execute(
        "INSERT OR REPLACE INTO feed VALUES (?, ?, ?, ?, ?)",
        (feed, now.isoformat(), as_of, len(digests), digest),
    )
    return LoadedFeed(name=feed, loaded_at=now, as_of=as_of, records=len(digests), digest=digest)


def _feed(row: tuple[str, str, str, int, str]) -> LoadedFeed:
    name, loaded_at, as_of, records, digest = row
    return LoadedFeed.model_validate(
        {
            "name": name,
            "loaded_at": loaded_at,
            "as_of": as_of,
            "records": records,
            "digest": digest,
        }
    )
