"""A region's store with its backup in a directory, for tests."""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from models.backup_file import BackupDamaged
from models.checkpoint import Checkpoint
from models.receipts import Draft
from models.restore import Goal, RestoreReport
from stores.changelog import identity, protect
from stores.collections import COLLECTIONS
from stores.document_scan import scan_images
from stores.keys import SigningKey, ensure_key
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.objects_local import LocalObjects
from stores.restore import Restorer, Target
from stores.restore_plan import BackupReader
from stores.shipping import Shipper
from stores.snapshots import Snapshotter
from stores.sql import read
from stores.state_tree import StateTree
from stores.witness import Witness

REGION = "eu"


class Seals:
    """Sealing that a test can look through: bound to tenant and place, but not secret."""

    def __init__(self) -> None:
        self.destroyed: set[str] = set()

    def seal(self, tenant: str, plain: bytes, bound_to: bytes) -> bytes:
        return _tag(tenant, plain, bound_to) + plain

    def unseal(self, tenant: str, sealed: bytes, bound_to: bytes) -> bytes | None:
        if tenant in self.destroyed:
            return None
        plain = sealed[32:]
        if _tag(tenant, plain, bound_to) != sealed[:32]:
            raise BackupDamaged(f"body of {tenant}: was changed, or comes from elsewhere")
        return plain


def _tag(tenant: str, plain: bytes, bound_to: bytes) -> bytes:
    return hashlib.sha256(b"|".join((tenant.encode(), bound_to, plain))).digest()


@dataclass
class Backup:
    """A protected store and where its backup goes."""

    engine: Engine
    directory: Path
    seals: Seals = field(default_factory=Seals)
    written: int = 0

    def __post_init__(self) -> None:
        self.identity = protect(self.engine, REGION)
        self.key: SigningKey = ensure_key(self.directory / "key.pem")
        self.objects = LocalObjects(self.directory / "objects")
        self.witness = Witness(self.directory / "witness")
        self.ledger = Ledger(self.engine, REGION)
        self.tree_file = self.directory / "tree.db"

    @contextmanager
    def shipper(self) -> Iterator[Shipper]:
        tree = StateTree(self.tree_file)
        try:
            yield Shipper(
                self.engine,
                REGION,
                self.objects,
                tree,
                self.key,
                self.witness,
                self.seals.seal,
            )
        finally:
            tree.close()

    def ship(self) -> int:
        with self.shipper() as shipper:
            return shipper.ship_all()

    def snapshot(self) -> None:
        with self.shipper() as shipper:
            Snapshotter(self.engine, shipper).snapshot()

    def work(self, rounds: int = 10) -> None:
        """Writes of every sort, in transactions of one and of several changes."""
        for _ in range(rounds):
            number = self.written
            self.written += 1
            kv = TenantKV(self.engine, f"tenant-{number % 3}")
            kv.put(f"key/{number % 7}/é", f"value {number}".encode() * (number % 5 + 1))
            if number % 4 == 3:
                kv.delete(f"key/{number % 7}/é")
            if number % 5 == 0:
                self.ledger.append(
                    [
                        Draft(
                            kind="test.done",
                            actor="test",
                            subject=f"s{number}",
                            idempotency_key=f"k{number}/{part}",
                            body={"n": part},
                        )
                        for part in range(2)
                    ]
                )

    def head(self) -> bytes:
        note = self.witness.head(REGION, self.identity.id)
        assert note is not None
        return note

    def reader(self) -> BackupReader:
        return BackupReader(
            self.objects, REGION, self.identity.id, [self.key.public(REGION)], self.seals.unseal
        )

    def restore(
        self,
        target: Engine,
        goal: Goal | None = None,
        *,
        head: bytes | None = None,
        checkpoints: Sequence[Checkpoint] = (),
    ) -> RestoreReport:
        goal = goal or Goal()
        restorer = Restorer(self.reader(), checkpoints=checkpoints)
        where = Target(target, secrets.token_hex(16), self.identity.epoch + 1)
        return restorer.restore(where, head or self.head(), goal)

    def documents(self) -> dict[tuple[str, str], tuple[str, bytes | None]]:
        return documents(self.engine)

    def seq(self) -> int:
        with self.shipper() as shipper:
            return shipper.position().seq


def documents(engine: Engine) -> dict[tuple[str, str], tuple[str, bytes | None]]:
    """Every document of a store: image and payload by collection and key."""
    found = {}
    with read(engine) as connection:
        for collection in COLLECTIONS:
            for part in scan_images(connection, collection):
                for key, image, payload in part:
                    value = None if payload is None else bytes(payload)
                    found[collection.name, key] = (image, value)
    return found


def store_of(engine: Engine) -> str:
    return identity(engine, REGION).id
