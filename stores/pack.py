"""A directory as one tar layer whose bytes depend on names, contents and nothing else.

Left out on purpose: times, owners, all permission bits but "executable", hard links (packed as
files), and ``__pycache__`` (differs between machines).
"""

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from stores.blobs import ReleaseError, Sink

SKIPPED = "__pycache__"


def pack_directory(directory: Path, sink: Sink) -> None:
    """Write ``directory`` as an uncompressed POSIX (pax) tar archive.

    Raises:
        ReleaseError: the directory is missing or empty, or holds something a release must not:
            a device, a socket, a setuid file, a link that leads outside, a name that is not UTF-8.
    """
    if not directory.is_dir():
        raise ReleaseError(f"directory: {directory} is not a directory")
    members = list(_walk(directory, directory))
    if not members:
        raise ReleaseError(f"directory: {directory} is empty")
    # tarfile only ever calls write() in stream mode.
    stream = cast(IO[bytes], sink)
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in members:
            _add(archive, directory, path)


def _walk(root: Path, directory: Path) -> Iterator[Path]:
    """Everything below ``directory``, parents first, in the order of the names' bytes."""
    for path in sorted(directory.iterdir(), key=lambda each: os.fsencode(each.name)):
        if path.name == SKIPPED:
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(root, path)


def _add(archive: tarfile.TarFile, root: Path, path: Path) -> None:
    name = path.relative_to(root).as_posix()
    status = path.lstat()
    entry = tarfile.TarInfo(_utf8(name))
    entry.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID) and not path.is_dir():
        raise ReleaseError(f"directory: {name} is setuid or setgid")
    if stat.S_ISLNK(status.st_mode):
        entry.type, entry.mode = tarfile.SYMTYPE, 0o777
        entry.linkname = _link_inside(root, path)
        archive.addfile(entry)
    elif stat.S_ISDIR(status.st_mode):
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            entry.size = os.fstat(file.fileno()).st_size
            archive.addfile(entry, file)
    else:
        raise ReleaseError(f"directory: {name} is neither a file, a directory nor a link")


def _link_inside(root: Path, path: Path) -> str:
    name = path.relative_to(root).as_posix()
    target = path.readlink()
    try:
        inside = path.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        raise ReleaseError(f"directory: the link {name} leads nowhere") from None
    if target.is_absolute() or not inside:
        raise ReleaseError(f"directory: the link {name} leads outside")
    return _utf8(target.as_posix())


def _utf8(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ReleaseError(f"directory: the name {name!r} is not UTF-8") from None
    return name
