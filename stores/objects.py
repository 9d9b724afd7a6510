"""Where backups are kept: objects by name, each written once or replaced by compare-and-set.

An object store gives these guarantees, whatever it is made of (`tests/test_objects.py`):

* an object is there whole or not at all, and durable when `ObjectStore.put` returns;
* a name is created once; it is replaced only by a caller that names the generation it replaces;
* what is read is what was written: every byte handed out is counted against a stored SHA-256;
* what is held or retained is neither replaced nor deleted.
"""

import hashlib
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 1024 * 1024
"""Bytes that are read, hashed or copied at a time."""
LONGEST_NAME = 512
LONGEST_PART = 180  # a file name holds a part, "@" and a digest, 255 bytes at most
IN_MEMORY = 8 * 1024 * 1024
"""A stream that is larger is spooled to disk before it is written."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*\Z")
_PREFIX = re.compile(r"[A-Za-z0-9._=/-]*\Z")


class ObjectError(Exception):
    """Something is wrong with an object or its store; the message names the object."""


class ObjectMissing(ObjectError):
    """There is no object of this name."""


class ObjectExists(ObjectError):
    """The name is taken by other bytes."""


class ObjectDamaged(ObjectError):
    """The stored bytes are not those that were written, or carry no digest to tell."""


class ObjectRetained(ObjectError):
    """The object is held or retained, so it is neither replaced nor deleted."""


class ObjectTooLarge(ObjectError):
    """The object has more bytes than the caller takes."""


class ObjectsRefused(ObjectError):
    """The store refuses for good: no bucket, no permission, a feature that it has not."""


class ObjectsUnavailable(ObjectError):
    """The store did not serve within its deadline; trying again later may succeed.

    A write may have happened all the same. Repeating a create-only `put` of the same bytes is safe;
    after a compare-and-set, `stat` tells.
    """


class GenerationMismatch(ObjectError):
    """The object is at another generation than the caller expects; nothing was changed.

    ``found`` is 0 where there is no object.
    """

    def __init__(self, name: str, expected: int, found: int) -> None:
        super().__init__(f"object {name}: expected generation {expected}, found {found}")
        self.name = name
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[type["GenerationMismatch"], tuple[str, int, int]]:
        return GenerationMismatch, (self.name, self.expected, self.found)


class ObjectNameError(ValueError):
    """A name or prefix is not well formed; the message says why."""


@dataclass(frozen=True)
class ObjectInfo:
    """What the store says of an object.

    Attributes:
        generation: grows with every write of the name and is never used twice.
        size: bytes.
        sha256: hex digest of the bytes; empty where the object carries none, because something
            else than this code wrote it: it is never read.
        created: when this generation was written (UTC), by the store's clock.
        retained_until: not replaced or deleted before (UTC), by the store's clock.
        held: not replaced or deleted while this is so.
    """

    name: str
    generation: int
    size: int
    sha256: str
    created: datetime
    retained_until: datetime | None
    held: bool

    def kept(self, now: datetime) -> bool:
        """Whether it must stay as it is at ``now``."""
        return self.held or (self.retained_until is not None and self.retained_until > now)


class ObjectStore(Protocol):
    """Objects of one bucket or directory; safe to use from several threads and processes.

    Every method raises `ObjectNameError` for a malformed name, `ObjectsUnavailable` when the store
    does not serve in time, and `ObjectsRefused` when it never will.
    """

    def put(
        self, name: str, data: bytes | BinaryIO | Path, *, if_generation: int = 0
    ) -> ObjectInfo:
        """Write an object and read it back; durable when this returns.

        Args:
            data: bytes, a stream from its position on, or a file that nobody changes meanwhile.
            if_generation: 0 creates; any other replaces exactly this generation.

        Returns:
            The object, also where a create-only name holds these very bytes already, as it does
            when an answer was lost.

        Raises:
            ObjectExists: a create-only name holds other bytes.
            GenerationMismatch: the object to replace is at another generation.
            ObjectRetained: the object to replace must stay.
            ObjectDamaged: what was read back is not what was written.
        """

    def get(self, name: str, limit: int) -> bytes:
        """The whole object, checked.

        Raises:
            ObjectMissing: there is none.
            ObjectTooLarge: it has more than ``limit`` bytes.
            ObjectDamaged: its bytes are not those that were written.
        """

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A stream over the object. What was read can be trusted once the block is left.

        Leaving the block reads what is left and checks everything that passed.

        Raises:
            ObjectMissing: there is none.
            ObjectDamaged: its bytes are not those that were written.
        """

    def stat(self, name: str) -> ObjectInfo | None:
        """What is known of an object, None if there is none. Its bytes are not read.

        Raises:
            ObjectDamaged: its record cannot be read.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose names begin with ``prefix``, in the order of their names' characters.

        Raises:
            ObjectDamaged: a record cannot be read.
        """

    def delete(self, name: str, *, if_generation: int) -> None:
        """Remove an object. If there is none, nothing happens: an answer may have been lost.

        Raises:
            GenerationMismatch: it is at another generation.
            ObjectRetained: it must stay.
        """

    def retain(self, name: str, until: datetime) -> ObjectInfo:
        """Keep an object at least until a time. This only ever prolongs.

        Raises:
            ObjectMissing: there is none.
        """

    def hold(self, name: str, on: bool) -> ObjectInfo:
        """Hold an object, or let it go.

        Raises:
            ObjectMissing: there is none.
        """


def check_name(name: str) -> str:
    """The name, if it is one.

    A name is parts of letters, digits and ``._=-`` between slashes. No part begins with a dot or a
    dash, so that no name climbs out of a directory or reads as an option.

    Raises:
        ObjectNameError: it is not.
    """
    if len(name) > LONGEST_NAME:
        raise ObjectNameError(f"object name: {len(name)} characters, at most {LONGEST_NAME}")
    for part in name.split("/"):
        if len(part) > LONGEST_PART or not _PART.match(part):
            raise ObjectNameError(f"object name {name!r}: part {part!r} is not well formed")
    return name


def check_prefix(prefix: str) -> str:
    """The prefix, if it can begin a name; the empty one begins all.

    Raises:
        ObjectNameError: it cannot.
    """
    directories = prefix.split("/")[:-1]
    well_formed = _PREFIX.match(prefix) and all(_PART.match(part) for part in directories)
    if len(prefix) > LONGEST_NAME or not well_formed:
        raise ObjectNameError(f"object prefix {prefix!r}: no name begins so")
    return prefix


def check_until(until: datetime) -> datetime:
    """The time, if it has a zone.

    Raises:
        ValueError: it has none, so it would mean another time on another machine.
    """
    if until.tzinfo is None:
        raise ValueError("until: a time with a zone is needed")
    return until


@dataclass(frozen=True)
class Content:
    """Bytes to be written: a stream at its beginning that can be rewound, and what it holds."""

    stream: BinaryIO
    size: int
    sha256: str


@contextmanager
def content_of(data: bytes | BinaryIO | Path) -> Iterator[Content]:
    """Bring what a caller gives into a form that can be read more than once, and hash it.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(data, bytes):
        yield Content(io.BytesIO(data), len(data), hashlib.sha256(data).hexdigest())
    elif isinstance(data, Path):
        with data.open("rb") as file:
            yield _hashed(file, None)
    else:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
            yield _hashed(data, cast("BinaryIO", spool))


def _hashed(source: BinaryIO, copy: BinaryIO | None) -> Content:
    digest, size = hashlib.sha256(), 0
    for block in blocks(source):
        digest.update(block)
        size += len(block)
        if copy is not None:
            copy.write(block)
    stream = source if copy is None else copy
    stream.seek(0)
    return Content(stream, size, digest.hexdigest())


def blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of a stream in pieces of at most `BLOCK` bytes."""
    while block := stream.read(BLOCK):
        yield block


class _Checked(io.RawIOBase):
    """Hands bytes through and compares their count and hash with the record at their end."""

    def __init__(self, source: Callable[[int], bytes], info: ObjectInfo) -> None:
        self._source = source
        self._info = info
        self._hash = hashlib.sha256()
        self._seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._source(len(view))
        view[: len(data)] = data
        self._hash.update(data)
        self._seen += len(data)
        if self._seen > self._info.size or (not data and self._seen < self._info.size):
            raise ObjectDamaged(
                f"object {self._info.name}: has {self._seen} bytes, not {self._info.size}"
            )
        if not data and self._hash.hexdigest() != self._info.sha256:
            raise ObjectDamaged(
                f"object {self._info.name}: SHA-256 {self._hash.hexdigest()}, "
                f"not {self._info.sha256}"
            )
        return len(data)


@contextmanager
def checked(source: Callable[[int], bytes], info: ObjectInfo) -> Iterator[BinaryIO]:
    """A stream over what ``source(at most so many bytes)`` gives, checked when the block is left.

    Raises:
        ObjectDamaged: the bytes are not those of the record.
    """
    stream = io.BufferedReader(_Checked(source, info), BLOCK)
    try:
        yield cast("BinaryIO", stream)
    except ObjectError:
        raise
    except Exception:
        exhaust(stream)  # whoever fails on damaged bytes learns that they are damaged
        raise
    exhaust(stream)


def exhaust(stream: BinaryIO | io.BufferedReader) -> None:
    """Read a checked stream to its end."""
    while stream.read(BLOCK):
        pass


def read_whole(stream: BinaryIO, info: ObjectInfo, limit: int) -> bytes:
    """The bytes of a checked stream.

    Raises:
        ObjectTooLarge: they are more than ``limit``.
    """
    if info.size > limit:
        raise ObjectTooLarge(f"object {info.name}: {info.size} bytes, at most {limit} are read")
    return stream.read(info.size)  # told the size, the stream reads it at once
