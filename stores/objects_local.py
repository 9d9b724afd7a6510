"""Objects in a directory: one file of bytes each, and beside it a small record that makes it so.

``part/leaf@<sha256>`` holds the bytes and ``part/leaf@info`` the record (generation, size, digest,
retention, hold, and a digest of the record itself). An object exists when its record does: the
bytes are written, flushed and read back before the record is renamed into place, so a crash leaves
at worst a file that no record names. Writers of one name take turns by a file lock; readers take
none. "@" occurs in no name, so an object and a directory of the same name live side by side.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from stores.files import file_lock, sync_directory, write_atomic
from stores.objects import (
    Content,
    GenerationMismatch,
    ObjectDamaged,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectRetained,
    ObjectsUnavailable,
    blocks,
    check_name,
    check_prefix,
    check_until,
    checked,
    content_of,
    exhaust,
    read_whole,
)

_INFO = "@info"
_LOCKS = 256
_STALE_S = 24 * 3600.0  # no write takes as long: its process is gone


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LocalObjects:
    """An `ObjectStore` in a directory of a POSIX file system.

    Args:
        root: the directory; created if missing.
        deadline_s: how long a writer waits for another one of the same name.

    Raises:
        ObjectsUnavailable: the directory cannot be used.
    """

    def __init__(
        self, root: Path, *, deadline_s: float = 30.0, clock: Callable[[], datetime] = _utc_now
    ) -> None:
        self._deadline_s = deadline_s
        self._clock = clock
        self._durable: set[Path] = set()
        with _troubles(str(root)):
            root.mkdir(parents=True, exist_ok=True)
            self._root = root.resolve()
            self._own = self._root / ".store"  # no name begins with a dot
            (self._own / "staged").mkdir(parents=True, exist_ok=True)
            sync_directory(self._root)
            self._sweep()

    def put(
        self, name: str, data: bytes | BinaryIO | Path, *, if_generation: int = 0
    ) -> ObjectInfo:
        """See `ObjectStore.put`."""
        check_name(name)
        with content_of(data) as content, _troubles(name):
            staged = self._stage(name, content)
            try:
                with self._locked(name):
                    return self._publish(name, staged, content, if_generation)
            finally:
                staged.unlink(missing_ok=True)

    def get(self, name: str, limit: int) -> bytes:
        """See `ObjectStore.get`."""
        file, info = self._opened(name)
        with file, _troubles(name), checked(file.read, info) as stream:
            return read_whole(stream, info, limit)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """See `ObjectStore.open`."""
        file, info = self._opened(name)

        def read(size: int) -> bytes:
            with _troubles(name):
                return file.read(size)

        with file, checked(read, info) as stream:
            yield stream

    def stat(self, name: str) -> ObjectInfo | None:
        """See `ObjectStore.stat`."""
        check_name(name)
        with _troubles(name):
            return self._record(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`; an object that goes away meanwhile is left out."""
        check_prefix(prefix)
        directory = prefix.rpartition("/")[0]
        with _troubles(prefix):
            self._own.stat()  # or a disk that went away would look like an empty store
            names = self._names(f"{directory}/" if directory else "", prefix)
            for name in names:
                info = self._record(name)
                if info is not None:
                    yield info

    def delete(self, name: str, *, if_generation: int) -> None:
        """See `ObjectStore.delete`."""
        check_name(name)
        with _troubles(name), self._locked(name):
            found = self._record(name)
            if found is None:
                return
            self._may_go(found, if_generation)
            info = self._info_path(name)
            info.unlink()
            sync_directory(info.parent)
            self._bytes_path(name, found.sha256).unlink(missing_ok=True)

    def retain(self, name: str, until: datetime) -> ObjectInfo:
        """See `ObjectStore.retain`."""
        wanted = check_until(until).astimezone(UTC)
        return self._change(
            name,
            lambda info: replace(info, retained_until=max(info.retained_until or wanted, wanted)),
        )

    def hold(self, name: str, on: bool) -> ObjectInfo:
        """See `ObjectStore.hold`."""
        return self._change(name, lambda info: replace(info, held=on))

    def _stage(self, name: str, content: Content) -> Path:
        """Write the bytes where nobody sees them, and read them back from the disk."""
        handle, staged = tempfile.mkstemp(dir=self._own / "staged")
        path = Path(staged)
        try:
            with os.fdopen(handle, "w+b") as file:
                content.stream.seek(0)
                for block in blocks(content.stream):
                    file.write(block)
                file.flush()
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # not from the cache
                file.seek(0)
                info = ObjectInfo(name, 0, content.size, content.sha256, self._clock(), None, False)
                with checked(file.read, info):
                    pass
            path.chmod(0o644)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _publish(self, name: str, staged: Path, content: Content, expected: int) -> ObjectInfo:
        found = self._record(name)
        if expected == 0 and found is not None:
            return self._same(found, content)
        if found is None and expected != 0:
            raise GenerationMismatch(name, expected, 0)
        if found is not None:
            self._may_go(found, expected)
        now = self._clock()
        generation = int(now.timestamp() * 1_000_000)  # microseconds: not one of a deleted object
        if found is not None:
            generation = max(generation, found.generation + 1)
        info = ObjectInfo(name, generation, content.size, content.sha256, now, None, False)
        place = self._bytes_path(name, content.sha256)
        self._make_directories(place.parent)
        staged.replace(place)
        sync_directory(place.parent)  # before the record says that they are there
        write_atomic(self._info_path(name), _encode(info))
        if found is not None and found.sha256 != content.sha256:
            self._bytes_path(name, found.sha256).unlink(missing_ok=True)
        return info

    def _same(self, found: ObjectInfo, content: Content) -> ObjectInfo:
        if found.sha256 != content.sha256:
            raise ObjectExists(f"object {found.name}: there with other bytes ({found.sha256})")
        file, info = self._opened(found.name)
        with file, checked(file.read, info) as stream:
            exhaust(stream)
        return found

    def _may_go(self, found: ObjectInfo, expected: int) -> None:
        if found.generation != expected:
            raise GenerationMismatch(found.name, expected, found.generation)
        if found.kept(self._clock()):
            raise ObjectRetained(f"object {found.name}: {_why_kept(found)}")

    def _change(self, name: str, change: Callable[[ObjectInfo], ObjectInfo]) -> ObjectInfo:
        check_name(name)
        with _troubles(name), self._locked(name):
            found = self._record(name)
            if found is None:
                raise ObjectMissing(f"object {name}: not there")
            changed = change(found)
            if changed != found:
                write_atomic(self._info_path(name), _encode(changed))
            return changed

    def _opened(self, name: str) -> tuple[BinaryIO, ObjectInfo]:
        """The file of bytes and the record that names it; a writer may replace both meanwhile."""
        check_name(name)
        before = None
        with _troubles(name):
            while True:
                info = self._record(name)
                if info is None:
                    raise ObjectMissing(f"object {name}: not there")
                if info == before:
                    raise ObjectDamaged(f"object {name}: its bytes are gone")
                before = info
                try:
                    path = self._bytes_path(name, info.sha256)
                    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb"), info
                except FileNotFoundError:
                    continue

    def _record(self, name: str) -> ObjectInfo | None:
        try:
            return _decode(name, self._info_path(name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            self._own.stat()  # or a disk that went away would look like an empty store
            return None

    def _info_path(self, name: str) -> Path:
        return self._inside(name, _INFO)

    def _bytes_path(self, name: str, sha256: str) -> Path:
        return self._inside(name, f"@{sha256}")

    def _inside(self, name: str, suffix: str) -> Path:
        path = self._root / f"{name}{suffix}"
        if not path.parent.resolve().is_relative_to(self._root):
            raise ObjectDamaged(f"object {name}: a link leads out of the store")
        return path

    def _make_directories(self, path: Path) -> None:
        """Create the directories down to path, durably, also where another process just did."""
        if path == self._root or path in self._durable:
            return
        self._make_directories(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)
        self._durable.add(path)

    def _names(self, directory: str, prefix: str) -> Iterator[str]:
        """Names below ``directory`` ("" or ending in a slash) in the order of their characters."""
        try:
            with os.scandir(self._root / directory) as entries:
                found = [
                    entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except (FileNotFoundError, NotADirectoryError):
            return
        # A directory is ordered by its name and a slash, as everything in it is.
        kept = [each for each in found if each.endswith(("/", _INFO))]
        for entry in sorted(each.removesuffix(_INFO) for each in kept):
            name = directory + entry
            if entry.endswith("/") and (name.startswith(prefix) or prefix.startswith(name)):
                yield from self._names(name, prefix)
            elif not entry.endswith("/") and name.startswith(prefix):
                yield name

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Let one writer of a name in at a time; a few hundred locks serve all names."""
        number = hashlib.sha256(name.encode()).digest()[0] % _LOCKS
        path = self._own / "locks" / f"{number:02x}"
        self._own.stat()  # the lock's directory would be made anew on a disk that went away
        deadline = time.monotonic() + self._deadline_s
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(file_lock(path, wait=False))
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ObjectsUnavailable(
                            f"object {name}: another writer kept it {self._deadline_s} s"
                        ) from None
                    time.sleep(0.005)
            yield

    def _sweep(self) -> None:
        """Remove what processes that are gone left behind."""
        for path in (self._own / "staged").iterdir():
            try:
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer was done


@contextmanager
def _troubles(what: str) -> Iterator[None]:
    """Say in the store's own words that the file system does not serve."""
    try:
        yield
    except OSError as error:
        raise ObjectsUnavailable(f"object {what}: {error.strerror or error}") from error


def _why_kept(info: ObjectInfo) -> str:
    return "held" if info.held else f"retained until {info.retained_until}"


def _encode(info: ObjectInfo) -> bytes:
    until = None if info.retained_until is None else info.retained_until.isoformat()
    fields = {**asdict(info), "created": info.created.isoformat(), "retained_until": until}
    return json.dumps({"check": _check(fields), "object": fields}, indent=1).encode()


def _decode(name: str, record: bytes) -> ObjectInfo:
    try:
        parsed = json.loads(record)
        fields = parsed["object"]
        if parsed["check"] != _check(fields) or fields["name"] != name:
            raise ValueError("not as it was written")
        until = fields["retained_until"]
        fields["created"] = datetime.fromisoformat(fields["created"])
        fields["retained_until"] = None if until is None else datetime.fromisoformat(until)
        return ObjectInfo(**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise ObjectDamaged(f"object {name}: its record is unreadable ({error})") from None


def _check(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
