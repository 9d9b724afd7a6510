"""A durable spool: records are acknowledged when they are on disk, and kept until they are drained.

The directory holds segments (`models.spool`), each begun by one owner; ``owner.lock``, which the
owner holds; and ``acknowledged``, the number of the last durable record. That file is written after
each flush and not flushed itself: it may lag after a power loss, and is exact after ``kill -9``.
"""

import os
import secrets
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from models.spool import (
    CHAIN_START,
    FRAME_OVERHEAD,
    HEADER_SIZE,
    LARGEST_RECORD,
    Header,
    OutageProof,
    outage_proof,
    pack_header,
    pack_mark,
    pack_record,
)
from stores.files import file_lock, write_atomic
from stores.spool_files import MARK, open_spool, segment_name, segment_names

_LOCK = "owner.lock"


class SpoolError(Exception):
    """The spool does not take a record now; nothing was acknowledged."""


class SpoolFull(SpoolError):
    """A bound is reached; there is room again when the spool is drained."""


class SpoolUnavailable(SpoolError):
    """The disk is full or failed, or there are other records; what was acknowledged is kept."""


class SpoolClosed(SpoolError):
    """The owner has let go of the spool, so that it can be drained."""


class SpoolOwned(SpoolError):
    """Another one owns the spool now."""


class StaleOwner(SpoolError):
    """The spool has had an owner of a higher epoch: this one must stop."""


@dataclass(frozen=True)
class SpoolLimits:
    """Both bounds hold; ``bytes`` counts what is on disk, the frames' overhead included."""

    records: int = 100_000
    bytes: int = 50_000_000

    def fill(self, records: int, size: int) -> float:
        """How full, from 0 to 1: the bound that is nearer counts."""
        return max(records / self.records, size / self.bytes)


class Ticket:
    """A record's place in the order; `Spool.wait` must follow, or nobody writes the record."""

    def __init__(self, payload: bytes, settled: Callable[[bool], None]) -> None:
        self.payload = payload
        self.settled = settled
        self.error: Exception | None = None
        self.done = False
        self.turn = threading.Event()


class Spool:
    """The owner of a spool. Threads that append at once share one flush to disk.

    Args:
        epoch: this owner's; a higher one than any before begins a segment of its own.

    Raises:
        SpoolOwned: another owner is there.
        StaleOwner: one with a higher epoch was.
        SpoolDamaged: names the record or segment; nothing was changed.
        OSError: the directory is not writable.
    """

    def __init__(self, directory: Path, *, epoch: int, limits: SpoolLimits | None = None) -> None:
        self.directory = directory
        self.epoch = epoch
        self.limits = limits or SpoolLimits()
        self.lock = threading.RLock()
        """Held by a caller that decides what to submit by what was submitted before."""
        self._quiet = threading.Condition(self.lock)
        self._queue: list[Ticket] = []
        self._queued_bytes = 0
        self._flying = 0
        self._leading = False
        self._closed = self._failed = False
        with ExitStack() as opening:
            try:
                opening.enter_context(file_lock(directory / _LOCK, wait=False))
            except BlockingIOError:
                raise SpoolOwned(f"spool {directory}: another process owns it") from None
            self._open(opening)
            self._held = opening.pop_all()

    def append(self, payload: bytes) -> int:
        """Keep a record; durable when this returns its number.

        Raises:
            SpoolFull, SpoolClosed, SpoolUnavailable: it is not kept.
        """
        with self.lock:
            number = self.next_number
            ticket = self.submit(payload)
        self.wait(ticket)
        return number

    @property
    def next_number(self) -> int:
        """What the next record that is submitted will be numbered; stable under ``lock``."""
        return self._last + self._flying + len(self._queue) + 1

    @property
    def last(self) -> int:
        """The number of the last durable record."""
        return self._last

    @property
    def fill(self) -> float:
        """How full it is, from 0 to 1; drained records count until they are cleared."""
        return self.limits.fill(*self.used)

    @property
    def used(self) -> tuple[int, int]:
        """How many records it holds, and their bytes on disk."""
        return self._last - self._oldest.first + 1, self._size

    def submit(
        self, payload: bytes, settled: Callable[[bool], None] = lambda _kept: None
    ) -> Ticket:
        """Give a record its place in the order. The caller must `wait` for the ticket.

        Args:
            settled: called under ``lock``, in the records' order, with whether it is durable. When
                a record is not, then neither are those that were submitted after it.

        Raises:
            SpoolFull, SpoolClosed, SpoolUnavailable: it has no place.
            ValueError: the record is too large for any spool.
        """
        if len(payload) > LARGEST_RECORD:
            raise ValueError(f"record: {len(payload)} bytes, at most {LARGEST_RECORD} are kept")
        with self.lock:
            if self._closed:
                raise SpoolClosed("buffer: it is being drained, and takes no writes now")
            if self._failed:
                raise SpoolUnavailable("buffer: its disk has failed; it must be opened anew")
            size = self._size + self._queued_bytes + len(payload) + FRAME_OVERHEAD
            if self.next_number - self._oldest.first >= self.limits.records:
                raise SpoolFull(f"buffer: holds {self.limits.records} records, the most it takes")
            if size > self.limits.bytes:
                raise SpoolFull(f"buffer: takes {self.limits.bytes} bytes at most, {size} needed")
            ticket = Ticket(payload, settled)
            self._queue.append(ticket)
            self._queued_bytes += len(payload) + FRAME_OVERHEAD
            if not self._leading:
                self._leading = True
                ticket.turn.set()
        return ticket

    def wait(self, ticket: Ticket) -> None:
        """Return when the record is durable; the first of those that wait writes for all.

        Raises:
            SpoolUnavailable: it is not kept.
        """
        ticket.turn.wait()
        if not ticket.done:
            self._lead()
        if ticket.error is not None:
            raise ticket.error

    def proof(self) -> OutageProof:
        """Acknowledged, drained and pending, by ranges and hashes."""
        with self.lock:
            return outage_proof(self._newest, self._oldest, self._last, self._chain)

    def clear(self, last: int, chain: bytes) -> None:
        """Forget all records, which are in the store up to number ``last``.

        Raises:
            SpoolUnavailable: there are others than those; nothing was changed.
            OSError: the disk is full; nothing was changed.
        """
        with self.lock:
            self._quiet.wait_for(lambda: not self._leading)
            if (last, chain) != (self._last, self._chain):
                raise SpoolUnavailable(
                    f"spool: its last record is {self._last}, only those up to {last} are drained"
                )
            if self._oldest.first <= last:
                self._begin_segment(drained=last)
                self._sweep()

    def close(self) -> None:
        """Finish what was submitted, take no more, and let another owner have it."""
        with self.lock:
            self._closed = True
            self._quiet.wait_for(lambda: not self._leading)
        self._held.close()

    def _open(self, opening: ExitStack) -> None:
        contents = open_spool(self.directory)
        if contents is None:
            header = Header(secrets.token_bytes(16), self.epoch, 1, 0, CHAIN_START)
            write_atomic(self._path(header), pack_header(header))
            contents = open_spool(self.directory)
            assert contents is not None
        self._oldest, self._newest = contents.headers[0], contents.headers[-1]
        if self._newest.epoch > self.epoch:
            raise StaleOwner(
                f"epoch: {self.epoch} is stale, the spool has had an owner of {self._newest.epoch}"
            )
        self._last, self._chain = contents.last, contents.chain
        self._size = sum(len(each.payload) + FRAME_OVERHEAD for each in contents.records)
        self._file = -1
        opening.callback(lambda: os.close(self._file))
        self._use(contents.end)
        # All that is whole counts from now on: it must be durable, and nothing may come after it.
        os.ftruncate(self._file, self._end)
        os.fsync(self._file)
        if self._newest.epoch < self.epoch:
            self._begin_segment(drained=contents.drained)
        self._mark_file = os.open(self.directory / MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        opening.callback(os.close, self._mark_file)
        self._mark()
        self._sweep()

    def _begin_segment(self, *, drained: int) -> None:
        """Go on in a new file; where all before it is drained, it is the only one that counts."""
        first = self._last + 1
        fresh = Header(self._newest.spool, self.epoch, first, drained, self._chain)
        write_atomic(self._path(fresh), pack_header(fresh))
        self._newest = fresh
        if drained == self._last:
            self._oldest, self._size = fresh, 0
        self._use(HEADER_SIZE)

    def _use(self, end: int) -> None:
        """Append to the newest segment from ``end`` on."""
        before = self._file
        self._file = os.open(self._path(self._newest), os.O_RDWR | os.O_CLOEXEC)
        self._end = end
        if before >= 0:
            os.close(before)

    def _sweep(self) -> None:
        """Remove the segments that no longer count, and what a crash left half made."""
        oldest = segment_name(self._oldest)
        stale = [name for name in segment_names(self.directory) if name < oldest]
        for path in [self.directory / name for name in stale] + [
            *self.directory.glob(".*.spool.*")
        ]:
            path.unlink()

    def _path(self, header: Header) -> Path:
        return self.directory / segment_name(header)

    def _lead(self) -> None:
        """Write what is queued, for all that wait for it, and let the next one lead."""
        with self.lock:
            batch, self._queue = self._queue, []
            size, self._queued_bytes = self._queued_bytes, 0
            self._flying = len(batch)
            self._size += size
        chain: bytes | None = None
        error = SpoolUnavailable("buffer: the write was broken off")
        try:
            chain = self._commit(batch)
        except OSError as failure:
            error = SpoolUnavailable(f"buffer: cannot be written: {failure.strerror}")
        finally:
            with self.lock:
                self._flying = 0
                if chain is None:
                    self._size -= size
                    batch += self._queue  # they may build on what is not there
                    self._queue, self._queued_bytes = [], 0
                    self._settle(batch, error)
                else:
                    self._last += len(batch)
                    self._chain = chain
                    self._mark()
                    self._settle(batch, None)

    def _commit(self, batch: list[Ticket]) -> bytes:
        """Write and flush; the chain hash after it. After an error nothing of it is there."""
        chain, frames = self._chain, []
        for number, ticket in enumerate(batch, start=self._last + 1):
            frame, chain = pack_record(number, ticket.payload, chain)
            frames.append(frame)
        data = b"".join(frames)
        whole = False
        try:
            _write(self._file, data, self._end)
            whole = True
            os.fsync(self._file)
        except BaseException:
            self._undo(trusted=not whole)
            raise
        self._end += len(data)
        return chain

    def _undo(self, *, trusted: bool) -> None:
        """Take back a write; ``trusted``: the file may be used on, as no flush of it has failed."""
        try:
            os.ftruncate(self._file, self._end)
            os.fsync(self._file)
        except OSError:
            trusted = False
        if not trusted:
            self._failed = True

    def _mark(self) -> None:
        with suppress(OSError):  # it may lag: what it speaks of is on disk
            os.pwrite(self._mark_file, pack_mark(self._newest.spool, self._last), 0)

    def _settle(self, batch: list[Ticket], error: Exception | None) -> None:
        for each in batch:
            each.error, each.done = error, True
            each.settled(error is None)
            each.turn.set()
        if self._queue:
            self._queue[0].turn.set()
        else:
            self._leading = False
            self._quiet.notify_all()


def _write(handle: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, at)
        left, at = left[written:], at + written
