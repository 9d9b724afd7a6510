"""The files of a release, each with its SHA-256; symbolic links are never followed."""

import hashlib
import os
import stat
from pathlib import Path

from models.sbom_compare import ReleaseFile
from models.strict_json import EvidenceError
from stores.pack import SKIPPED
from stores.unpack import DEFAULT_LIMITS, Limits


def read_files(root: Path, limits: Limits = DEFAULT_LIMITS) -> dict[str, ReleaseFile]:
    """Every file and link below ``root`` by its path, in the order of the names.

    ``__pycache__`` is passed over: it is not packed into a release.

    Raises:
        EvidenceError: ``root`` is no directory, beyond the limits, or holds a name that is not
            UTF-8, a device or a socket.
        OSError: a file cannot be read.
    """
    if not root.is_dir():
        raise EvidenceError(f"release: {root} is not a directory")
    found: dict[str, ReleaseFile] = {}
    total = 0
    for directory, names, files in os.walk(root, followlinks=False):
        links = [name for name in names if Path(directory, name).is_symlink()]
        names[:] = sorted(name for name in names if name != SKIPPED and name not in links)
        for name in sorted([*files, *links]):
            path = Path(directory, name)
            entry = _describe(path, root)
            total += entry.size
            found[path.relative_to(root).as_posix()] = entry
            if len(found) > limits.entries or total > limits.bytes:
                raise EvidenceError(
                    f"release: more than {limits.entries} files or {limits.bytes} bytes"
                )
    return found


def read_bounded(path: Path, *, limit: int) -> bytes:
    """The bytes of a regular file that has at most ``limit`` of them.

    Raises:
        EvidenceError: it is larger, a link, or not a file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise EvidenceError(f"{path.name}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise EvidenceError(f"{path.name}: not a regular file")
    with os.fdopen(handle, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise EvidenceError(f"{path.name}: more than {limit} bytes")
    return data


def _describe(path: Path, root: Path) -> ReleaseFile:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise EvidenceError(f"release: the name {name!r} is not UTF-8") from None
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(path.readlink())
        text = target.decode(errors="backslashreplace")
        return ReleaseFile(hashlib.sha256(target).hexdigest(), 0, link=text)
    if not stat.S_ISREG(status.st_mode):
        raise EvidenceError(f"release: {name} is neither a file, a directory nor a link")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ReleaseFile(digest, status.st_size)
