"""A write that was acknowledged while the region's store was down, and what became of it."""

from typing import Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from models.spool import OutageProof, Span, SpoolDamaged

UNKNOWN = -1
"""The version of a key that nobody could look up: there was no state to read."""

_EPOCH_BITS = 36
LARGEST_EPOCH = (1 << 53 - _EPOCH_BITS) - 1  # a JSON reader keeps versions below 2^53 exact


class BufferedWrite(msgspec.Struct, frozen=True, array_like=True):
    """One acknowledged write.

    Attributes:
        id: idempotency key, 32 hex digits.
        value: None: the key is removed.
        version: what the client was told; the key has it in the store as well, once drained.
        seen: the key's version when the write was decided (0: not there, or `UNKNOWN`), by the
            buffer or by the state that was read beneath it.
        expected: the version that the client asked for; None: it asked for none.
        at: Unix milliseconds, by the gateway's clock.
    """

    id: str
    tenant: str
    key: bytes
    value: bytes | None
    version: int
    seen: int
    expected: int | None
    at: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(BufferedWrite)


def pack_write(write: BufferedWrite) -> bytes:
    """A write as the spool keeps it."""
    return _ENCODER.encode(write)


def read_write(payload: bytes, *, number: int) -> BufferedWrite:
    """Raises `SpoolDamaged`: the record is none that this release wrote."""
    try:
        return _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        raise SpoolDamaged(f"record {number}: {error}") from None


def buffered_version(epoch: int, number: int) -> int:
    """The version that record ``number`` gives its key.

    Each epoch has a range of its own, and in it buffered writes the upper half: so a version is
    higher than any that the store gave before the outage, and the store gives none of them after
    it (`versions_end`). That is what lets a client go on with the ETag that it was given.
    """
    return (epoch << _EPOCH_BITS) | (1 << _EPOCH_BITS - 1) | number


def versions_end(version: int) -> int:
    """Where the tenant's clock goes when a write of this version is drained."""
    return version | ((1 << _EPOCH_BITS) - 1)


def versions_start(version: int) -> int:
    """Versions below this one were given before the epoch of a buffered version."""
    return version >> _EPOCH_BITS << _EPOCH_BITS


def superseded(write: BufferedWrite, found: int) -> bool:
    """Whether a later buffered write of the key is in the store, so that this one was there too.

    So it is where a store was drained, lost, and restored with what the drain had made.
    """
    return write.expected is None and found > write.version and bool(found >> _EPOCH_BITS - 1 & 1)


Reason = Literal["expectation", "changed"]


def conflict(write: BufferedWrite, found: int, *, rebuilt: bool) -> Reason | None:
    """Why a write cannot be made over a key that is at version ``found`` (0: not there), or None.

    Args:
        rebuilt: everything in the store is older than the buffer, because the store was restored
            from its backup and nobody else has written to it since. Then a write that asked for no
            version simply follows what is there, as it would have without the outage.
    """
    if found == write.seen:
        return None
    if write.expected is not None:
        return "expectation"
    if found == 0 and (write.value is None or write.seen == UNKNOWN):
        return None
    return None if rebuilt and found < versions_start(write.version) else "changed"


class Conflict(BaseModel):
    """A buffered write that was not made, because the store is not what it was decided upon.

    Attributes:
        expected: the version that the client asked for, or None.
        seen: the version that the buffer saw (-1: it could see none), and found: the store's now.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    number: int
    tenant: str
    key: str
    removes: bool
    expected: int | None
    seen: int
    found: int
    why: Reason


class DrainReport(BaseModel):
    """What a drain did; counts are of the whole spool, however often the drain was begun.

    Attributes:
        applied: writes that are in the store; `repeated` of them were there before this run.
        conflicts: in number; `first_conflicts` are the first of them, all are in the store.
        drained: the records that this covers.
        proof: of the spool after the drain.
    """

    model_config = ConfigDict(frozen=True)

    applied: int = Field(ge=0)
    repeated: int = Field(ge=0)
    conflicts: int = Field(ge=0)
    first_conflicts: tuple[Conflict, ...]
    drained: Span
    proof: OutageProof
