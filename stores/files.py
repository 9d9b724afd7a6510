"""Files that are whole or not there: atomic replacement, and locks between processes."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` so that a reader, or a crash, sees the old content or the new, durable one.

    Raises:
        OSError: the disk is full or not writable; ``path`` is unchanged.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FileWatch:
    """Notices that a file was replaced by a look at its inode, at microseconds a look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._read = False

    def changed(self) -> bool:
        """Whether it was replaced, made or removed since `seen`; true before that."""
        return not self._read or self.look() != self._seen

    def look(self) -> tuple[int, int, int] | None:
        """What tells one state of it from another; to be had before its content is read."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def seen(self, look: tuple[int, int, int] | None) -> None:
        """Its content was read after this look."""
        self._seen, self._read = look, True


@contextmanager
def file_lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock on ``path``; the system lets go of it when the process ends.

    Every call opens the file anew, so the lock also works between threads of one process.

    Raises:
        BlockingIOError: ``wait`` is false and another one holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, mode if wait else mode | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
