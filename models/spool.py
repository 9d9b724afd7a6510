"""The spool's format: records that follow one another, and where they end after a crash.

A segment is a file: a header, then frames. A frame is the payload's length, the record's number and
a CRC-32 of both; then the chain hash, SHA-256(chain hash before, length, number, payload); then the
payload. The head's own CRC tells a damaged length from a record that was cut off.

Where a frame does not stand, either the process died while it wrote it, or somebody else changed
it. It is a torn tail only if it was never acknowledged and no whole frame head comes after it.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

CHAIN_START = bytes(32)
LARGEST_RECORD = 1024 * 1024

_MAGIC = b"CRSPOOL1"
_HEADER = struct.Struct(">8s16sQQQ32s")
_HEAD = struct.Struct(">IQ")
_CRC = struct.Struct(">I")
_MARK = struct.Struct(">16sQ")
HEADER_SIZE = _HEADER.size + 32
FRAME_OVERHEAD = _HEAD.size + _CRC.size + 32
_SEARCHED = 64
"""Numbers that are looked for behind a damaged record; the acknowledgement mark covers the rest."""


class SpoolDamaged(Exception):
    """A spool is not what was written; the message names the record or the segment."""


class Header(NamedTuple):
    """What a segment begins with.

    Attributes:
        spool: 16 random bytes that tell this spool from all others.
        epoch: of the owner that began the segment.
        first: number of its first record; ``chain`` is the chain hash before that.
        drained: all records up to this one are in the store.
    """

    spool: bytes
    epoch: int
    first: int
    drained: int
    chain: bytes


class Record(NamedTuple):
    """One accepted record; ``chain`` is the chain hash after it."""

    number: int
    payload: bytes
    chain: bytes


class Scan(NamedTuple):
    """The records of a segment; ``end`` is the offset after the last whole one."""

    records: list[Record]
    end: int


class Span(BaseModel):
    """Records by number and by chain hash: those after ``before``, up to ``after`` (hex)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=0)
    first: int = Field(ge=1, description="one past `last` where there are none")
    last: int = Field(ge=0)
    before: str = Field(pattern=r"^[0-9a-f]{64}$")
    after: str = Field(pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _adds_up(self) -> "Span":
        if self.count != self.last - self.first + 1:
            raise ValueError(f"count: {self.count} is not {self.first} to {self.last}")
        if (self.count == 0) != (self.before == self.after):
            raise ValueError("after: the chain moves exactly when there are records")
        return self


class OutageProof(BaseModel):
    """That nothing is missing: what was acknowledged is what is drained and what is pending.

    ``acknowledged`` also holds records that were whole on disk when the process died before it
    could answer: they were attempted, and are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spool: str = Field(pattern=r"^[0-9a-f]{32}$")
    epoch: int = Field(ge=0)
    acknowledged: Span
    drained: Span
    pending: Span

    @model_validator(mode="after")
    def _adds_up(self) -> "OutageProof":
        whole, done, rest = self.acknowledged, self.drained, self.pending
        if whole.count != done.count + rest.count:
            raise ValueError("acknowledged: its count is not that of drained and pending")
        if (whole.first, done.last + 1, whole.last) != (done.first, rest.first, rest.last):
            raise ValueError("pending: does not continue drained up to the last acknowledged")
        if (whole.before, done.after, whole.after) != (done.before, rest.before, rest.after):
            raise ValueError("pending: its chain does not continue that of drained")
        return self


def span(first: int, last: int, before: bytes, after: bytes) -> Span:
    """The records ``first`` to ``last``; none where ``last`` is before ``first``."""
    return Span(
        count=last - first + 1, first=first, last=last, before=before.hex(), after=after.hex()
    )


def outage_proof(newest: Header, oldest: Header, last: int, chain: bytes) -> OutageProof:
    """The proof of a spool whose kept segments begin with ``oldest``, up to record ``last``."""
    drained = oldest.first - 1
    return OutageProof(
        spool=newest.spool.hex(),
        epoch=newest.epoch,
        acknowledged=span(1, last, CHAIN_START, chain),
        drained=span(1, drained, CHAIN_START, oldest.chain),
        pending=span(drained + 1, last, oldest.chain, chain),
    )


def pack_header(header: Header) -> bytes:
    """The bytes of a header, its SHA-256 at the end."""
    data = _HEADER.pack(_MAGIC, *header)
    return data + hashlib.sha256(data).digest()


def read_header(data: bytes, *, name: str) -> Header:
    """Raises `SpoolDamaged`: it is cut off, changed, or of another format."""
    head, digest = data[: _HEADER.size], data[_HEADER.size : HEADER_SIZE]
    if len(data) < HEADER_SIZE or hashlib.sha256(head).digest() != digest:
        raise SpoolDamaged(f"{name}: its header is not what was written")
    magic, *fields = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise SpoolDamaged(f"{name}: is no spool that this release reads")
    return Header(*fields)


def pack_record(number: int, payload: bytes, chain: bytes) -> tuple[bytes, bytes]:
    """A frame, and the chain hash after it; ``chain`` is the one before."""
    head = _HEAD.pack(len(payload), number)
    after = hashlib.sha256(chain + head + payload).digest()
    return b"".join((head, _CRC.pack(zlib.crc32(head)), after, payload)), after


def pack_mark(spool: bytes, number: int) -> bytes:
    """What says that records up to ``number`` are durable."""
    data = _MARK.pack(spool, number)
    return data + _CRC.pack(zlib.crc32(data))


def read_mark(data: bytes, spool: bytes) -> int:
    """The number in a mark of this spool; 0: there is none that can be read."""
    body = data[: _MARK.size]
    if len(data) != _MARK.size + _CRC.size or data[_MARK.size :] != _CRC.pack(zlib.crc32(body)):
        return 0
    of, number = _MARK.unpack(body)
    return int(number) if of == spool else 0


def scan(data: bytes, header: Header, *, name: str, acknowledged: int) -> Scan:
    """The records of a segment, up to a torn tail.

    Args:
        acknowledged: records up to this number must be there.

    Raises:
        SpoolDamaged: names the record that was changed or is missing.
    """
    records: list[Record] = []
    at, number, chain = HEADER_SIZE, header.first, header.chain
    while at < len(data):
        record = _frame(data, at, number, chain)
        if record is None:
            if number <= acknowledged or _goes_on(data, at, number):
                raise SpoolDamaged(f"{name}: record {number} (byte {at}) is not what was written")
            break
        records.append(record)
        at += FRAME_OVERHEAD + len(record.payload)
        number, chain = number + 1, record.chain
    return Scan(records, at)


def _frame(data: bytes, at: int, number: int, chain: bytes) -> Record | None:
    length = _head(data, at, number)
    if length is None:
        return None
    body = at + FRAME_OVERHEAD
    payload = data[body : body + length]
    written = data[body - 32 : body]
    after = hashlib.sha256(chain + data[at : at + _HEAD.size] + payload).digest()
    return Record(number, payload, after) if len(payload) == length and after == written else None


def _head(data: bytes, at: int, number: int) -> int | None:
    """The length in the frame head at ``at``, if that stands and is the record's."""
    head = data[at : at + _HEAD.size]
    crc = data[at + _HEAD.size : at + _HEAD.size + _CRC.size]
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(head):
        return None
    length, found = _HEAD.unpack(head)
    return int(length) if found == number and length <= LARGEST_RECORD else None


def _goes_on(data: bytes, at: int, number: int) -> bool:
    """Whether a later record's head comes after ``at``."""
    return any(
        _head(data, found - 4, later) is not None
        for later in range(number + 1, number + 1 + _SEARCHED)
        for found in _places(data, at, later)
    )


def _places(data: bytes, at: int, number: int) -> Iterator[int]:
    wanted = struct.pack(">Q", number)
    found = data.find(wanted, at + 4)
    while found >= 0:
        yield found
        found = data.find(wanted, found + 1)
