"""Unpack a release: nothing is written outside, and nothing appears before all of it was checked.

The layer is hashed while it is read. Its members go into a temporary directory, which is renamed
into place only after the digests and sizes of manifest, configuration and layers were right. A
finished unpack keeps an inventory of itself and is compared with it before it is used again.
"""

import hashlib
import json
import os
import shutil
import stat
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from models.oci import LAYER_TYPE, Descriptor
from stores.blobs import CHUNK, BlobStore, ReleaseError, VerifyingReader
from stores.files import file_lock, sync_directory, write_atomic

ROOTFS = "rootfs"
INVENTORY = "unpacked.json"
TEMPORARY = ".unpack-"

# A pax header or a long name is read into memory whole: this bounds it.
HEADER_BYTES = 256 * 1024
BLOCK = 512


class UnpackRefused(ReleaseError):
    """The archive holds something that a release must not hold."""


@dataclass(frozen=True)
class Limits:
    """Most that one release may unpack to."""

    entries: int = 50_000
    bytes: int = 2 * 1024**3
    path_length: int = 1024
    depth: int = 64


DEFAULT_LIMITS = Limits()


def release_directory(workdir: Path, digest: str) -> Path:
    """Where a region with this working directory unpacks a release."""
    return workdir / "releases" / digest.removeprefix("sha256:")


def unpack_layers(
    blobs: BlobStore,
    digest: str,
    layers: list[Descriptor],
    target: Path,
    limits: Limits = DEFAULT_LIMITS,
) -> Path:
    """Unpack ``layers`` of release ``digest`` into ``target``; the program's root is returned.

    Idempotent, and safe to run in several processes at once. A target that was changed since it
    was unpacked is replaced.

    Raises:
        ReleaseCorrupt: a blob is not what its digest says.
        UnpackRefused: the archive is malformed or reaches outside; ``target`` is as it was.
        OSError: no space, no permission.
    """
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    with file_lock(parent / ".unpack.lock"):
        if is_intact(target, digest):
            return target / ROOTFS
        _clear_leftovers(parent)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
        try:
            _extract_all(blobs, layers, temporary / ROOTFS, limits)
            _write_inventory(temporary, digest)
            temporary.chmod(0o755)
            if target.exists():
                target.replace(temporary.with_name(f"{temporary.name}-old"))
            temporary.replace(target)
            sync_directory(parent)
        finally:
            _clear_leftovers(parent)
    return target / ROOTFS


def remove_unpacked(workdir: Path, digest: str) -> None:
    """Remove what was unpacked of a release; whoever starts it again unpacks it again.

    Nothing happens when it is not there.
    """
    target = release_directory(workdir, digest)
    if not target.exists():
        return
    with file_lock(target.parent / ".unpack.lock"), suppress(FileNotFoundError):
        # Renamed first: a removal that is cut short must not leave half a release in its place.
        target.rename(target.with_name(f"{TEMPORARY}{target.name}-gone"))
        _clear_leftovers(target.parent)


def is_intact(target: Path, digest: str) -> bool:
    """Whether ``target`` holds exactly what was unpacked for ``digest``, byte for byte."""
    try:
        kept = json.loads((target / INVENTORY).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return bool(kept == {"release": digest, "entries": _inventory(target / ROOTFS)})


def _clear_leftovers(parent: Path) -> None:
    """Remove what a killed process left: the caller holds the lock, so nobody is at work there."""
    for path in parent.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path)


def _write_inventory(directory: Path, digest: str) -> None:
    content = {"release": digest, "entries": _inventory(directory / ROOTFS)}
    write_atomic(directory / INVENTORY, json.dumps(content).encode())


def _inventory(root: Path) -> dict[str, str]:
    """Each path below ``root`` with what it is: a directory, a link's target, or mode and hash."""
    entries = {}
    for directory, names, files in os.walk(root, followlinks=False):
        for name in (*names, *files):
            path = Path(directory, name)
            entries[path.relative_to(root).as_posix()] = _describe(path)
    return entries


def _describe(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link {path.readlink()}"
    if stat.S_ISDIR(mode):
        return "directory"
    if not stat.S_ISREG(mode):
        return "other"
    with path.open("rb") as file:
        return f"file {stat.S_IMODE(mode):o} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _extract_all(blobs: BlobStore, layers: list[Descriptor], root: Path, limits: Limits) -> None:
    root.mkdir()
    extraction = _Extraction(root, limits)
    for layer in layers:
        if layer.media_type != LAYER_TYPE:
            raise UnpackRefused(f"layer: media type {layer.media_type} is not supported")
        with blobs.open(layer) as reader:
            extraction.add(reader)
    extraction.check_links()


class _LayerStream:
    """The layer as tarfile reads it, watched.

    ``arm`` allows a bounded number of bytes for the next header; the offset of the last byte that
    is not zero shows afterwards whether anything followed what tarfile took for the end.
    """

    def __init__(self, reader: VerifyingReader) -> None:
        self._reader = reader
        self._allowance = HEADER_BYTES
        self.content_end = 0

    def arm(self, allowance: int) -> None:
        self._allowance = allowance

    def read(self, size: int) -> bytes:
        start = self._reader.position
        data = self._reader.read(size)
        self._allowance -= len(data)
        if self._allowance < 0:
            raise UnpackRefused("layer: a header is too large")
        content = len(data.rstrip(b"\0"))
        if content:
            self.content_end = start + content
        return data

    def drain(self) -> int:
        """Read to the end, check the digest, and return the layer's size."""
        self._allowance = 2**63
        while self.read(CHUNK):
            pass
        self._reader.finish()
        return self._reader.position


class _Extraction:
    """Writes members below ``root``. What it did not create itself, it does not write into."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._kinds: dict[PurePosixPath, str] = {}
        self._links: list[PurePosixPath] = []
        self._bytes = 0
        self._entries = 0

    def add(self, reader: VerifyingReader) -> None:
        """Extract one layer and check its digest."""
        stream = _LayerStream(reader)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
                while (entry := archive.next()) is not None:
                    self._extract(archive, entry, stream)
                    stream.arm(HEADER_BYTES)
                end = archive.offset
        except (tarfile.TarError, UnicodeError, ValueError) as error:
            raise UnpackRefused(f"layer: not a tar archive: {error}") from None
        size = stream.drain()
        # tarfile takes a damaged or cut-off header for the end of the archive.
        if stream.content_end > end or size < end + 2 * BLOCK:
            raise UnpackRefused("layer: the archive does not end where it should")

    def check_links(self) -> None:
        """Follow every symbolic link for real: chains of harmless links can lead outside.

        Raises:
            UnpackRefused: one leads outside, nowhere, or in a circle.
        """
        root = self._root.resolve()
        for name in self._links:
            try:
                inside = (self._root / name).resolve(strict=True).is_relative_to(root)
            except (OSError, RuntimeError):
                raise UnpackRefused(f"{name}: the link leads nowhere") from None
            if not inside:
                raise UnpackRefused(f"{name}: the link leads outside")

    def _extract(
        self, archive: tarfile.TarFile, entry: tarfile.TarInfo, stream: _LayerStream
    ) -> None:
        self._count(entry)
        if entry.isdir() and PurePosixPath(entry.name) == PurePosixPath("."):
            return
        name = self._safe_name(entry.name)
        if entry.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
            raise UnpackRefused(f"{name}: setuid, setgid and sticky bits are refused")
        if entry.isdir():
            self._directory(name)
        elif entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse():
            stream.arm(entry.size + HEADER_BYTES)
            self._file(archive, entry, name)
        elif entry.issym():
            self._symbolic_link(entry, name)
        elif entry.islnk():
            self._hard_link(entry, name)
        else:
            raise UnpackRefused(f"{name}: neither a file, a directory nor a link")

    def _count(self, entry: tarfile.TarInfo) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise UnpackRefused(f"layer: more than {self._limits.entries} entries")
        if entry.size < 0:
            raise UnpackRefused(f"{entry.name!r}: its size is negative")
        self._bytes += entry.size
        if self._bytes > self._limits.bytes:
            raise UnpackRefused(f"layer: more than {self._limits.bytes} bytes unpacked")

    def _safe_name(self, text: str) -> PurePosixPath:
        name = PurePosixPath(text)
        if not text or "\0" in text or not _is_utf8(text):
            raise UnpackRefused(f"{text!r}: not a file name")
        if name.is_absolute():
            raise UnpackRefused(f"{text}: an absolute path")
        if ".." in name.parts:
            raise UnpackRefused(f"{text}: a path with '..'")
        if not name.parts:
            raise UnpackRefused(f"{text!r}: names the root itself")
        if len(name.parts) > self._limits.depth or len(text) > self._limits.path_length:
            raise UnpackRefused(f"{text[:80]}: the path is too long")
        if any(len(os.fsencode(part)) > 255 or part.startswith(".wh.") for part in name.parts):
            raise UnpackRefused(f"{text[:80]}: not a file name a release may have")
        return name

    def _claim(self, name: PurePosixPath, kind: str) -> Path:
        """Take a name that is free and whose parents are directories of this extraction."""
        if name in self._kinds:
            raise UnpackRefused(f"{name}: occurs twice")
        for parent in reversed(name.parents[:-1]):
            self._directory(parent)
        self._kinds[name] = kind
        return self._root / name

    def _directory(self, name: PurePosixPath) -> None:
        known = self._kinds.get(name)
        if known == "directory":
            return
        if known is not None:
            raise UnpackRefused(f"{name}: a {known}, used as a directory")
        self._claim(name, "directory").mkdir()

    def _file(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, name: PurePosixPath) -> None:
        path = self._claim(name, "file")
        source = archive.extractfile(entry)
        assert source is not None  # a regular file has content
        mode = 0o755 if entry.mode & stat.S_IXUSR else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            shutil.copyfileobj(source, file, CHUNK)
            written = file.tell()
        if written != entry.size:
            raise UnpackRefused(f"{name}: the archive ends within the file")

    def _symbolic_link(self, entry: tarfile.TarInfo, name: PurePosixPath) -> None:
        target = entry.linkname
        if not target or "\0" in target or not _is_utf8(target) or len(target) > 1024:
            raise UnpackRefused(f"{name}: not a link target")
        lexical = os.path.normpath(name.parent / target)
        if PurePosixPath(target).is_absolute() or PurePosixPath(lexical).parts[:1] == ("..",):
            raise UnpackRefused(f"{name}: the link leads outside")
        self._claim(name, "link").symlink_to(target)
        self._links.append(name)

    def _hard_link(self, entry: tarfile.TarInfo, name: PurePosixPath) -> None:
        target = self._safe_name(entry.linkname)
        if self._kinds.get(target) != "file":
            raise UnpackRefused(f"{name}: a hard link to {target}, which is no file of the release")
        os.link(self._root / target, self._claim(name, "file"), follow_symlinks=False)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
