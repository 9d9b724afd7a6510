"""Checkpoints of a ledger: made, signed, and kept in the database and outside of it.

The copy outside, ``<directory>/<ledger>/<size>.checkpoint``, is what finds a database that lost its
end or was written anew. Before a new checkpoint is signed, the ledger must still go on from the
newest one outside: a signer that followed a rewritten ledger would lend it its name.
"""

from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from sqlalchemy import insert, select
from sqlmodel import SQLModel

from models.checkpoint import Checkpoint, origin, sign
from models.merkle import Frontier
from models.receipts import GENESIS
from models.tables_receipts import CheckpointRow
from models.verifier import PublicKey, Refused, open_checkpoint
from stores.files import sync_directory, write_atomic
from stores.keys import SigningKey
from stores.ledger import Ledger
from stores.sql import read, write

_CHECKPOINTS = SQLModel.metadata.tables[str(CheckpointRow.__tablename__)]


class CheckpointError(Exception):
    """The ledger does not agree with what was signed before; nothing was signed."""


class CheckpointFiles:
    """The checkpoints of one ledger that are kept outside its database."""

    def __init__(self, directory: Path, ledger: str) -> None:
        self.ledger = ledger
        self.directory = directory / ledger

    def add(self, size: int, note: str) -> None:
        """Keep a note; raises `CheckpointError` when another one is there for the same size."""
        path = self.directory / f"{size}.checkpoint"
        if path.exists():
            if path.read_text() != note:
                raise CheckpointError(f"{path} says otherwise about size {size}")
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(path, note.encode())

    def paths(self) -> list[Path]:
        """The files, by size."""
        found = [path for path in self.directory.glob("*.checkpoint") if path.stem.isdecimal()]
        return sorted(found, key=lambda path: int(path.stem))

    def notes(self) -> Iterator[bytes]:
        for path in self.paths():
            yield path.read_bytes()

    def open(self, keys: Sequence[PublicKey]) -> list[Checkpoint]:
        """All of them, signatures checked; raises `models.verifier.Refused`."""
        return [open_checkpoint(note, keys) for note in self.notes()]

    def named_notes(self) -> Iterator[tuple[str, bytes]]:
        """All notes with a name for each, also those of branches that were left."""
        for path in (*self.paths(), *sorted(self._aside.glob("*.checkpoint"))):
            name = path.name if path.parent == self.directory else f"abandoned-{path.name}"
            yield name, path.read_bytes()

    def open_all(self, keys: Sequence[PublicKey]) -> list[Checkpoint]:
        """`open`, also those of branches that were left: only a repair excuses these."""
        return [open_checkpoint(note, keys) for _, note in self.named_notes()]

    def set_aside(self, left: Collection[tuple[int, str]], keys: Sequence[PublicKey]) -> None:
        """Keep what was signed on a branch that was left apart from what is signed of the ledger.

        Args:
            left: size and root (hex) of each.
        """
        for path in self.paths():
            note = path.read_bytes()
            signed = open_checkpoint(note, keys)
            if (signed.size, signed.root.hex()) in left:
                self._aside.mkdir(exist_ok=True)
                digest = sha256(note).hexdigest()[:16]
                path.replace(self._aside / f"{signed.size}-{digest}.checkpoint")
                sync_directory(self._aside)
                sync_directory(self.directory)

    @property
    def _aside(self) -> Path:
        return self.directory / "abandoned"


def default_directory(key: Path) -> Path:
    """Where checkpoints are kept when nobody says otherwise: beside the signing key."""
    return key.parent / "checkpoints"


class Notary:
    """Signs the state of one ledger."""

    def __init__(self, ledger: Ledger, key: SigningKey, *, directory: Path | None = None) -> None:
        self._ledger = ledger
        self._key = key
        self.files = CheckpointFiles(directory or default_directory(key.path), ledger.name)

    def checkpoint(self) -> Checkpoint:
        """Sign what the ledger holds now; the same size again gives the same checkpoint.

        Reads only the receipts since the last checkpoint, whose tree it goes on from.

        Raises:
            CheckpointError: the ledger contradicts an earlier checkpoint.
            StoreUnavailable: the database cannot serve now.
        """
        size = self._ledger.head().size
        frontier, head = self._start(size)
        for stored in self._ledger.read(frontier.size, limit=size - frontier.size):
            if stored.seq != frontier.size or stored.receipt.prev != head:
                raise CheckpointError(
                    f"ledger {self._ledger.name}: receipt {frontier.size} is missing or does not "
                    "follow the one before it"
                )
            frontier.extend([bytes.fromhex(stored.hash)])
            head = stored.hash
        return self._sign(frontier, head)

    def sign_whole(
        self, frontier: Frontier, head: str, contradicted: Sequence[Checkpoint]
    ) -> Checkpoint:
        """Sign a tree of all receipts, as where the bytes of one are lost and its hash is not.

        Args:
            contradicted: checkpoints that do not agree with it.

        Raises:
            CheckpointError: there are such.
        """
        if contradicted:
            sizes = ", ".join(str(each.size) for each in contradicted)
            raise CheckpointError(
                f"ledger {self._ledger.name}: it is not what was signed at size {sizes}"
            )
        return self._sign(frontier, head)

    def _sign(self, frontier: Frontier, head: str) -> Checkpoint:
        made = Checkpoint(origin(self._ledger.name), frontier.size, frontier.root(), head)
        note = sign(made, self._key.private)
        self.files.add(made.size, note)
        self._store(made, note, frontier)
        return made

    def _start(self, size: int) -> tuple[Frontier, str]:
        """The tree and head of the newest checkpoint outside, checked against the signature."""
        paths = self.files.paths()
        if not paths:
            return Frontier(), GENESIS
        last = self._open(paths[-1])
        if last.size > size:
            raise CheckpointError(
                f"ledger {self._ledger.name} has {size} receipts, but {last.size} are signed: "
                "its end is missing"
            )
        frontier = self._stored_frontier(last) or self._recompute(last.size)
        if frontier.root() != last.root:
            raise CheckpointError(
                f"ledger {self._ledger.name}: its first {last.size} receipts are not those that "
                "were signed"
            )
        return frontier, last.head

    def _open(self, path: Path) -> Checkpoint:
        try:
            last = open_checkpoint(path.read_bytes(), self._key.trusted(self._ledger.name))
        except Refused as refusal:
            raise CheckpointError(f"{path}: {refusal}") from None
        if last.size != int(path.stem):
            raise CheckpointError(f"{path} is about size {last.size}")
        return last

    def _stored_frontier(self, checkpoint: Checkpoint) -> Frontier | None:
        """The tree as the database remembers it; None when that cannot be what was signed."""
        query = select(_CHECKPOINTS.c.frontier).where(
            _CHECKPOINTS.c.ledger == self._ledger.name, _CHECKPOINTS.c.size == checkpoint.size
        )
        with read(self._ledger.engine) as connection:
            row = connection.execute(query).first()
        try:
            frontier = None if row is None else Frontier.from_bytes(checkpoint.size, row.frontier)
        except ValueError:
            return None
        return frontier if frontier and frontier.root() == checkpoint.root else None

    def _recompute(self, size: int) -> Frontier:
        frontier = Frontier()
        receipts = self._ledger.read(limit=size)
        frontier.extend(bytes.fromhex(stored.hash) for stored in receipts)
        return frontier

    def _store(self, made: Checkpoint, note: str, frontier: Frontier) -> None:
        key = (_CHECKPOINTS.c.ledger == self._ledger.name, _CHECKPOINTS.c.size == made.size)
        with write(self._ledger.engine) as connection:
            if connection.execute(select(_CHECKPOINTS.c.size).where(*key)).first() is None:
                row = CheckpointRow(
                    ledger=self._ledger.name,
                    size=made.size,
                    note=note,
                    frontier=frontier.to_bytes(),
                )
                connection.execute(insert(_CHECKPOINTS), row.model_dump())
