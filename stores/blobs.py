"""Blobs by SHA-256 digest in a directory (``blobs/sha256`` of an OCI image layout).

Nothing read here is trusted before its digest and its size have been checked.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from models.oci import Descriptor
from stores.files import sync_directory

CHUNK = 256 * 1024


class ReleaseError(Exception):
    """A release cannot be used as asked; trying again does not help."""


class ReleaseNotFound(ReleaseError):
    """No such release or blob in the store."""


class ReleaseCorrupt(ReleaseError):
    """Stored bytes are not what their digest or size says."""


class Sink(Protocol):
    """What a producer of bytes writes to."""

    def write(self, data: bytes, /) -> int: ...


class VerifyingReader:
    """Reads a blob front to back, hashing what passes; `finish` says whether it was the right one.

    Raises `ReleaseCorrupt` as soon as more bytes come than the descriptor promises.
    """

    def __init__(self, source: BinaryIO, descriptor: Descriptor) -> None:
        self._source = source
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self.position = 0

    def read(self, size: int = CHUNK) -> bytes:
        data = self._source.read(size)
        self.position += len(data)
        if self.position > self._descriptor.size:
            raise ReleaseCorrupt(
                f"blob {self._descriptor.digest}: larger than its {self._descriptor.size} bytes"
            )
        self._hash.update(data)
        return data

    def finish(self) -> None:
        """Read what is left and compare.

        Raises:
            ReleaseCorrupt: size or digest differ.
        """
        while self.read():
            pass
        if self.position != self._descriptor.size:
            raise ReleaseCorrupt(
                f"blob {self._descriptor.digest}: has {self.position} bytes, "
                f"not {self._descriptor.size}"
            )
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != self._descriptor.digest:
            raise ReleaseCorrupt(f"blob {self._descriptor.digest}: its content is {actual}")


class HashingSink:
    """Writes through to a file and keeps count and hash of what passed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


class BlobStore:
    """The ``blobs/sha256`` directory below ``root``."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def put(self, media_type: str, content: bytes) -> Descriptor:
        """Keep a small blob. Writing one that is there already changes nothing, or mends it."""
        return self.put_stream(media_type, lambda sink: sink.write(content))

    def put_stream(self, media_type: str, produce: Callable[[Sink], object]) -> Descriptor:
        """Keep what ``produce`` writes; durable when this returns, absent when it raises."""
        self._directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".upload-", dir=self._directory)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                sink = HashingSink(file)
                produce(sink)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(self.path(sink.digest))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(self._directory)
        return Descriptor(media_type=media_type, digest=sink.digest, size=sink.size)

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[VerifyingReader]:
        """Read a blob in a stream; the caller calls ``finish`` before it trusts what it read.

        Raises:
            ReleaseNotFound: the blob is missing.
        """
        try:
            handle = os.open(self.path(descriptor.digest), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise ReleaseNotFound(f"blob {descriptor.digest}: not in the release store") from None
        with os.fdopen(handle, "rb") as file:
            yield VerifyingReader(file, descriptor)

    def read(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """A whole small blob, checked.

        Raises:
            ReleaseNotFound: the blob is missing.
            ReleaseCorrupt: it is not what the descriptor says, or over ``limit`` bytes.
        """
        if descriptor.size > limit:
            raise ReleaseCorrupt(f"blob {descriptor.digest}: over {limit} bytes")
        with self.open(descriptor) as reader:
            content = reader.read(descriptor.size)
            reader.finish()
        return content

    def check(self, descriptor: Descriptor) -> None:
        """Raise `ReleaseNotFound` or `ReleaseCorrupt` unless the blob is whole."""
        with self.open(descriptor) as reader:
            reader.finish()

    def size(self, digest: str) -> int:
        """Bytes on disk, unchecked.

        Raises:
            ReleaseNotFound: the blob is missing.
        """
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise ReleaseNotFound(f"release {digest}: not in the release store") from None
