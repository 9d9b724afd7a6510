"""Recovery figures, each against a floor in the same run: restore, and the cost of a write.

    scripts/bench recovery [--documents 100000] [--changes 50000] [--postgres]

Restore is timed with all its checks against loading the same rows raw. A write is timed with
changelog, digests and the share of the state tree against the same durable write without.
"""

import argparse
import os
import resource
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Engine

from models.restore import Goal, RestoreReport
from stores.bulk import insert_rows
from stores.changelog import identity, protect
from stores.collections import BY_NAME
from stores.keys import SigningKey, ensure_key
from stores.kv import TenantKV, value_digest
from stores.objects_local import LocalObjects
from stores.restore import Restorer, Target
from stores.restore_plan import BackupReader
from stores.shipping import Shipper
from stores.snapshots import Snapshotter
from stores.sql import create_all, open_engine, open_scratch, settle, write
from stores.state_tree import StateTree
from stores.witness import Witness

REGION = "eu"
VALUE_BYTES = 500
KEYS_A_TENANT = 100

Row = tuple[str, bytes, bytes, bytes, int]


def _opened(_tenant: str, data: bytes, _bound_to: bytes) -> bytes:
    return data


class Bench:
    """One store with its backup, in a directory."""

    def __init__(self, directory: Path, url: str) -> None:
        self.engine = open_engine(url)
        self.directory = directory
        self.key: SigningKey = ensure_key(directory / "key.pem")
        self.objects = LocalObjects(directory / "objects")
        self.witness = Witness(directory / "witness")
        protect(self.engine, REGION)

    @contextmanager
    def shipper(self) -> Iterator[Shipper]:
        tree = StateTree(self.directory / "tree.db")
        yield Shipper(self.engine, REGION, self.objects, tree, self.key, self.witness, _opened)
        tree.close()

    def back_up(self, rows: list[Row], changes: list[Row]) -> None:
        """Fill the store, snapshot it, make the changes and ship them."""
        _insert(self.engine, rows)
        with self.shipper() as shipper:
            Snapshotter(self.engine, shipper).snapshot()
            for start in range(0, len(changes), 1_000):
                _update(self.engine, changes[start : start + 1_000])
            shipper.ship_all()

    def restore(self, target: Engine) -> RestoreReport:
        store = identity(self.engine, REGION).id
        note = self.witness.head(REGION, store)
        assert note is not None
        reader = BackupReader(self.objects, REGION, store, [self.key.public(REGION)], _opened)
        goal = Target(target, secrets.token_hex(16), 2)
        return Restorer(reader).restore(goal, note, Goal())


def _rows(count: int) -> list[Row]:
    rows = []
    for number in range(count):
        tenant = f"t{number // KEYS_A_TENANT:06d}"
        key = f"order/{number % KEYS_A_TENANT:04d}".encode()
        value = secrets.token_hex(VALUE_BYTES // 2).encode()
        rows.append((tenant, key, value, value_digest(tenant, key, value), 1))
    return rows


def _changed(rows: list[Row], count: int) -> list[Row]:
    changed = []
    for tenant, key, _value, _digest, version in rows[:: max(1, len(rows) // count)][:count]:
        value = secrets.token_hex(VALUE_BYTES // 2).encode()
        digest = value_digest(tenant, key, value)
        changed.append((tenant, key, value, digest, version + 1))
    return changed


def _insert(engine: Engine, rows: list[Row]) -> None:
    columns = ("tenant", "key", "value", "sha256", "version")
    with write(engine) as connection:
        insert_rows(connection, BY_NAME["kv_entry"].table, columns, rows)


def _update(engine: Engine, rows: list[Row]) -> None:
    mark = "?" if engine.dialect.name == "sqlite" else "%s"
    statement = (
        f"UPDATE kv_entry SET value = {mark}, sha256 = {mark}, version = {mark} "
        f"WHERE tenant = {mark} AND key = {mark}"
    )
    values = [(value, digest, version, tenant, key) for tenant, key, value, digest, version in rows]
    with write(engine) as connection:
        connection.exec_driver_sql(statement, values)


@contextmanager
def _databases(postgres: bool, directory: Path) -> Iterator[Callable[[str], str]]:
    """Addresses of fresh databases."""
    if not postgres:
        yield lambda name: f"sqlite:///{directory / name}.db"
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from postgres import fresh_database  # noqa: PLC0415 - brings a server with it

    with ExitStack() as stack:
        yield lambda _name: stack.enter_context(fresh_database())


def _restore(postgres: bool, documents: int, changes: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name, _databases(postgres, Path(name)) as database:
        bench = Bench(Path(name), database("source"))
        rows = _rows(documents)
        changed = _changed(rows, changes)
        bench.back_up(rows, changed)
        raw, full = [], []
        for number in range(rounds):
            raw.append(_raw(database(f"raw{number}"), rows, changed))
            url = database(f"target{number}")
            started = time.perf_counter()
            target = open_scratch(url)
            report = bench.restore(target)
            target.dispose()
            settle(url)
            full.append(time.perf_counter() - started)
        assert report.complete and report.documents == documents
        kind = "PostgreSQL" if postgres else "SQLite"
        print(f"| restore {documents:,} documents, {changes:,} changes, {kind} | |")
        print("|---|--:|")
        print(f"| raw load of the same rows | {statistics.median(raw):.2f} s |")
        print(f"| restore with all checks (target 2 s or less) | {statistics.median(full):.2f} s |")
        ratio = statistics.median(f / r for f, r in zip(full, raw, strict=True))
        print(f"| ratio (target 1.5 or less) | {ratio:.2f} |")
        for phase in report.phases:
            print(f"| {phase.name} | {phase.seconds:.2f} s |")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| peak memory of this process, the rows to load included | {peak:.0f} MiB |\n")


def _raw(url: str, rows: list[Row], changed: list[Row]) -> float:
    engine = open_engine(url)
    create_all(engine)
    started = time.perf_counter()
    _insert(engine, rows)
    if changed:
        _update(engine, changed)
    taken = time.perf_counter() - started
    engine.dispose()
    return taken


def _writes(postgres: bool, count: int) -> None:
    with tempfile.TemporaryDirectory() as name, _databases(postgres, Path(name)) as database:
        bare = open_engine(database("bare"))
        create_all(bare)
        bench = Bench(Path(name), database("logged"))
        pairs = []
        with bench.shipper() as shipper:
            shipper.ship()
            for number in range(5):
                plain = _put(bare, f"p{number}", count)
                logged = _put(bench.engine, f"p{number}", count)
                started = time.perf_counter()
                shipper.ship_all()
                pairs.append((plain, logged, time.perf_counter() - started))
        bare.dispose()
        kind = "PostgreSQL" if postgres else "SQLite"
        print(f"| durable writes by one writer, {kind} | |\n|---|--:|")
        print(f"| bare | {1e6 * statistics.median(p[0] for p in pairs) / count:.0f} us |")
        print(f"| with changelog | {1e6 * statistics.median(p[1] for p in pairs) / count:.0f} us |")
        print(
            f"| shipping, a write | {1e6 * statistics.median(p[2] for p in pairs) / count:.0f} us |"
        )
        ratio = statistics.median((logged + ship) / plain for plain, logged, ship in pairs)
        print(f"| ratio, shipping included (target 2 or less) | {ratio:.2f} |\n")


def _put(engine: Engine, prefix: str, count: int) -> float:
    kv = TenantKV(engine, "acme")
    value = os.urandom(VALUE_BYTES)
    started = time.perf_counter()
    for number in range(count):
        kv.put(f"{prefix}/{number}", value)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", action="store_true", help="both databases, not SQLite alone")
    asked = parser.parse_args()
    for postgres in (False, True) if asked.postgres else (False,):
        _restore(postgres, asked.documents, asked.changes, asked.rounds)
        _writes(postgres, 500)


if __name__ == "__main__":
    main()
