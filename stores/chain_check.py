"""Bulk verification of a ledger, from its database or from an export.

The fast check hashes each receipt once and decodes only ``ledger``, ``prev`` and ``seq``, with a
real JSON parser, so that nothing inside ``body`` can pose as them; both go by the batch, where a
batch is a block of the file or a page of rows. That is enough to find every
change of bytes that were once good: the hash at the end stands for all bytes before it. It does not
ask whether a receipt was canonical and complete when it was written; the strict check does, and it
is `models.verifier`, the same code that outsiders run. Whatever the fast check refuses is handed to
the strict one, which names the first bad receipt and why.

A large export is cut in two, and two processes check one half each; the halves join where the
second one's first ``prev`` is the first one's last hash. (A database is read by one process:
SQLite's connections do not survive a fork, and reading the rows is most of the time there.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain
from mmap import ACCESS_READ, mmap
from multiprocessing import get_context
from pathlib import Path

import msgspec
from sqlalchemy import Connection, select
from sqlmodel import SQLModel

from models.merkle import HASH_BYTES, Frontier
from models.receipts import GENESIS
from models.tables_receipts import ReceiptRow
from models.verifier import (
    REPAIR_KIND,
    Checkpoint,
    PublicKey,
    Refused,
    Repair,
    Report,
    read_lines,
    read_receipt,
    read_repairs,
    verify_chain,
)
from stores.ledger import Head, Ledger
from stores.sql import read

PARALLEL_FROM = 16 << 20
"""Size of an export in bytes from which on a second process is worth its start."""

_RECEIPTS = SQLModel.metadata.tables[str(ReceiptRow.__tablename__)]
_BLOCK = 1 << 20
_ROWS_AT_ONCE = 2_000
_REPAIR = REPAIR_KIND.encode()


class _Broken(Exception):
    """The fast check refuses; the strict check is to say why."""


class _Link(msgspec.Struct, gc=False):
    """What makes a receipt part of a chain."""

    ledger: str
    prev: str
    seq: int


@dataclass(frozen=True)
class _Segment:
    """A run of receipts that hold together: where it starts, what it follows, how it ends."""

    start: int
    prev: str
    size: int
    head: str
    hashes: bytes  # 32 a receipt, or none when nobody needs them


def check_ledger(
    ledger: Ledger,
    *,
    checkpoints: Sequence[Checkpoint] = (),
    keys: Sequence[PublicKey] = (),
    branches: Sequence[Sequence[bytes]] = (),
    strict: bool = False,
) -> Report:
    """Verify a ledger in its database, against its head row and signed checkpoints.

    Args:
        keys: of the ledger; without them no repair is believed.
        branches: see `models.verifier.verify_chain`.
        strict: parse every receipt fully, and compare the index columns with it.

    Raises:
        Refused: the first bad receipt and why; see `models.verifier.verify_chain`, and code
            head-mismatch when receipts and the ledger's head row disagree.
        StoreUnavailable: the database cannot serve now.
    """
    with read(ledger.engine) as connection:
        head = ledger.head(connection=connection)
        batches = partial(_database_lines, connection, ledger.name)
        part = partial(_database_segment, batches, ledger.name, keep=bool(checkpoints))

        def lines() -> Iterator[bytes]:
            return chain.from_iterable(batches())

        repairs = read_repairs(
            [each.data for each in ledger.read(kinds=[REPAIR_KIND], connection=connection)], keys
        )
        explain = _strict(ledger.name, checkpoints, repairs, branches)
        report = _check([part], lines, ledger.name, checkpoints, explain, strict or bool(repairs))
        _check_head(connection, ledger.name, head, report)
        if strict:
            _check_columns(connection, ledger.name, report)
    return report


def check_export(
    path: Path,
    *,
    ledger: str,
    checkpoints: Sequence[Checkpoint] = (),
    keys: Sequence[PublicKey] = (),
    branches: Sequence[Sequence[bytes]] = (),
    strict: bool = False,
    processes: int = 1,
) -> Report:
    """Verify an export file.

    Args:
        keys, branches: as for `check_ledger`.
        strict: parse every receipt fully.
        processes: 2 halves the time of a large file. The second one is forked, so this is only for
            a process without other threads, such as a command.

    Raises:
        Refused: as for `check_ledger`.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    cut = _line_start(path, size // 2) if processes > 1 and size >= PARALLEL_FROM else size
    bounds = [(0, cut), (cut, size)] if cut < size else [(0, size)]
    keep = bool(checkpoints)
    parts = [partial(_file_segment, path, ledger, *bound, keep=keep) for bound in bounds]
    repairs = read_repairs(_marked_lines(path), keys)
    explain = _strict(ledger, checkpoints, repairs, branches)
    lines = partial(read_lines, path)
    return _check(parts, lines, ledger, checkpoints, explain, strict or bool(repairs))


def _strict(
    ledger: str,
    checkpoints: Sequence[Checkpoint],
    repairs: Sequence[Repair],
    branches: Sequence[Sequence[bytes]],
) -> Callable[[Iterable[bytes]], Report]:
    return partial(
        verify_chain, ledger=ledger, checkpoints=checkpoints, repairs=repairs, branches=branches
    )


def _check(
    parts: "Sequence[partial[_Segment]]",
    lines: Callable[[], Iterator[bytes]],
    ledger: str,
    checkpoints: Sequence[Checkpoint],
    explain: Callable[[Iterable[bytes]], Report],
    strict: bool,
) -> Report:
    if strict or any(checkpoint.ledger != ledger for checkpoint in checkpoints):
        return explain(lines())
    try:
        return _join(_run(parts), ledger, checkpoints)
    except _Broken as broken:
        explain(lines())
        raise Refused("altered", f"{broken}, which a full reading does not confirm") from None


def _run(parts: "Sequence[partial[_Segment]]") -> list[_Segment]:
    if len(parts) == 1:
        return [parts[0]()]
    with ProcessPoolExecutor(len(parts) - 1, mp_context=get_context("fork")) as pool:
        others = [pool.submit(part) for part in parts[1:]]
        return [parts[0](), *(other.result() for other in others)]


def _join(segments: Sequence[_Segment], ledger: str, checkpoints: Sequence[Checkpoint]) -> Report:
    size, head = 0, GENESIS
    for segment in segments:
        if segment.size and (segment.start, segment.prev) != (size, head):
            raise _Broken(f"receipt {segment.start} does not follow the one before it")
        size, head = size + segment.size, segment.head if segment.size else head
    if not checkpoints:
        return Report(ledger, size, head, None)
    hashes = b"".join(segment.hashes for segment in segments)
    return Report(ledger, size, head, *_compare(hashes, checkpoints))


def _compare(hashes: bytes, checkpoints: Sequence[Checkpoint]) -> tuple[bytes, list[int]]:
    """Grow the Merkle tree from checkpoint to checkpoint; the last root and the sizes met."""
    frontier, met = Frontier(), list[int]()
    for checkpoint in sorted(checkpoints, key=lambda checkpoint: checkpoint.size):
        end = checkpoint.size * HASH_BYTES
        if end > len(hashes):
            raise _Broken(f"fewer receipts than were signed at size {checkpoint.size}")
        starts = range(frontier.size * HASH_BYTES, end, HASH_BYTES)
        frontier.extend(hashes[start : start + HASH_BYTES] for start in starts)
        head = hashes[end - HASH_BYTES : end].hex() if end else GENESIS
        if (frontier.root(), head) != (checkpoint.root, checkpoint.head):
            raise _Broken(f"not what was signed at size {checkpoint.size}")
        met.append(checkpoint.size)
    return frontier.root(), met


def _segment(
    batches: Iterable[list[bytes]], ledger: str, start: int | None, *, keep: bool
) -> _Segment:
    """Check receipts that follow each other; a ``start`` of None is what the first one says."""
    decode = msgspec.json.Decoder(_Link).decode
    begin, follows, seq, prev = start, GENESIS, start or 0, GENESIS
    kept, empty = bytearray(), True
    for lines in batches:
        if not lines:
            continue
        try:
            links = [decode(line) for line in lines]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _Broken(f"not a receipt: {error}") from None
        if empty:  # what the first one follows is for whoever joins the segments to judge
            seq = links[0].seq if begin is None else begin
            begin, follows, prev, empty = seq, links[0].prev, links[0].prev, False
        hashes = b"".join([sha256(line).digest() for line in lines])
        _check_links(links, ledger, seq, prev, hashes)
        seq, prev = seq + len(lines), hashes[-HASH_BYTES:].hex()
        if keep:
            kept += hashes
    return _Segment(begin or 0, follows, seq - (begin or 0), prev, bytes(kept))


def _check_links(links: list[_Link], ledger: str, seq: int, prev: str, hashes: bytes) -> None:
    """Whether a batch of links goes on from ``prev``: as a whole, which is what makes it fast."""
    named = [link.prev for link in links]
    # Of one length each: else a digit could be missing here and too many there.
    same_length = {len(each) for each in named} == {2 * HASH_BYTES}
    if not same_length or "".join(named) != prev + hashes[:-HASH_BYTES].hex():
        raise _Broken(f"one of the receipts from {seq} on does not follow the one before it")
    if [link.seq for link in links] != list(range(seq, seq + len(links))):
        raise _Broken(f"one of the receipts from {seq} on has another number")
    if {link.ledger for link in links} != {ledger}:
        raise _Broken(f"one of the receipts from {seq} on is of another ledger")


# --- An export file ---


def _file_segment(path: Path, ledger: str, start: int, end: int, *, keep: bool) -> _Segment:
    batches = _file_lines(path, start, end)
    return _segment(batches, ledger, None if start else 0, keep=keep)


def _file_lines(path: Path, start: int, end: int) -> Iterator[list[bytes]]:
    """The lines between two offsets, block by block."""
    with path.open("rb") as file:
        file.seek(start)
        rest, left = b"", end - start
        while left > 0:
            block = file.read(min(_BLOCK, left))
            if not block:
                raise _Broken("the file became shorter")
            left -= len(block)
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            yield lines
    if rest:
        raise _Broken("the file ends in the middle of a line")


def _marked_lines(path: Path) -> Iterator[bytes]:
    """Lines that may be repairs, found without reading the others line by line."""
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        at = data.find(_REPAIR)
        while at >= 0:
            end = data.find(b"\n", at)
            end = len(data) if end < 0 else end
            yield data[data.rfind(b"\n", 0, at) + 1 : end]
            at = data.find(_REPAIR, end)


def _line_start(path: Path, offset: int) -> int:
    """The first offset after ``offset`` where a line starts."""
    with path.open("rb") as file:
        file.seek(offset)
        file.readline()
        return file.tell()


# --- A database ---


def _database_segment(
    batches: Callable[[], Iterator[list[bytes]]], ledger: str, *, keep: bool
) -> _Segment:
    return _segment(batches(), ledger, 0, keep=keep)


def _database_lines(connection: Connection, ledger: str) -> Iterator[list[bytes]]:
    query = select(_RECEIPTS.c.data).where(_RECEIPTS.c.ledger == ledger)
    streamed = query.order_by(_RECEIPTS.c.seq).execution_options(yield_per=_ROWS_AT_ONCE)
    for rows in connection.execute(streamed).partitions():
        yield [row[0] for row in rows]


def _check_head(connection: Connection, ledger: str, head: Head, report: Report) -> None:
    """The head row must agree with the receipts, and count all of them."""
    if report.size < head.size:
        raise Refused(
            "truncated", f"missing up to {head.size - 1}, which the head counts", report.size
        )
    if report.size > head.size:
        raise Refused("head-mismatch", "the head does not count it", head.size)
    if head.hash != report.head:
        raise Refused("head-mismatch", "the head names another hash", max(head.size - 1, 0))


def _check_columns(connection: Connection, ledger: str, report: Report) -> None:
    """The index columns must say what the receipts say, where these are not lost."""
    query = select(_RECEIPTS).where(_RECEIPTS.c.ledger == ledger).order_by(_RECEIPTS.c.seq)
    for row in connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        if row.seq in report.damaged:
            continue
        receipt = read_receipt(row.data)
        receipt["prev"] = bytes.fromhex(receipt["prev"])
        for column in ("seq", "prev", "kind", "subject", "idempotency_key"):
            if getattr(row, column) != receipt[column]:
                raise Refused("altered", f"its column {column} says otherwise", receipt["seq"])
