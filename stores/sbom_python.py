"""Python packages in a release: installed ones, and wheels.

Nothing of the release is run: what is there is read from ``*.dist-info`` directories and from the
wheels' own metadata. A file belongs to a package only if RECORD names it with the hash it has.
"""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from models.packages import Package, normal_name
from models.python_files import (
    METADATA_BYTES,
    RECORD_BYTES,
    Distribution,
    RecordedFile,
    read_metadata,
    read_record,
    required_names,
)
from models.sbom_compare import ReleaseFile
from models.strict_json import EvidenceError
from stores.sbom_files import read_bounded

WHEEL_BYTES = 512 * 1024**2
WHEEL_ENTRIES = 20_000
WHEEL_UNPACKED = 2 * 1024**3
WHEEL_RATIO = 200
"""Most times that an entry above 1 MiB may be larger than its compressed form."""

DIRECTORY_BYTES = 16 * 1024**2
"""The largest central directory of a wheel."""

INSTALLED = "installed files: SHA-256 over the path and SHA-256 of each, in order"
WHEEL_FILE = "wheel file"

_END = struct.Struct("<4s4H2LH")
_DIST_INFO = ".dist-info"


def installed_packages(
    root: Path, files: Mapping[str, ReleaseFile]
) -> tuple[list[Package], list[str]]:
    """The packages of every ``*.dist-info`` directory, and files that are not as RECORD says.

    Raises:
        EvidenceError: metadata or RECORD of one cannot be read.
    """
    packages, altered = [], []
    for path in sorted(files):
        pure = PurePosixPath(path)
        if pure.name == "METADATA" and pure.parent.name.endswith(_DIST_INFO):
            package, changed, distribution = _installed(root, pure.parent, files)
            packages.append((package, distribution))
            altered += changed
    return _with_requires(packages), altered


def read_wheel(path: Path, *, source: str, sha256: str) -> Package:
    """The package in a wheel; only its metadata is unpacked.

    Raises:
        EvidenceError: not a zip file, one beyond the limits, one that is made to harm, or one whose
            metadata is not that of one package.
    """
    if path.stat().st_size > WHEEL_BYTES:
        raise EvidenceError(f"{source}: a wheel above {WHEEL_BYTES} bytes")
    try:
        _check_directory(path, source)
        with zipfile.ZipFile(path) as archive:
            distribution = read_metadata(_wheel_metadata(archive, source), source)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise EvidenceError(f"{source}: not a wheel: {error}") from None
    except (ValueError, OSError, struct.error) as error:
        if isinstance(error, EvidenceError):
            raise
        raise EvidenceError(f"{source}: not a wheel: {error}") from None
    return Package(
        ecosystem="pypi",
        name=normal_name(distribution.name),
        version=distribution.version,
        origin="archive",
        source=source,
        hashes={"SHA-256": sha256},
        hashed=WHEEL_FILE,
        files=(source,),
    )


def _installed(
    root: Path, info: PurePosixPath, files: Mapping[str, ReleaseFile]
) -> tuple[Package, list[str], Distribution]:
    source = info.as_posix()
    metadata = read_bounded(root / info / "METADATA", limit=METADATA_BYTES * 16)
    distribution = read_metadata(metadata, f"{source}/METADATA")
    recorded: list[RecordedFile] = []
    if f"{source}/RECORD" in files:
        record = read_bounded(root / info / "RECORD", limit=RECORD_BYTES)
        recorded = read_record(record, f"{source}/RECORD")
    own, altered = _own_files(info, recorded, files)
    hashes = {"SHA-256": tree_hash(own, files, info.parent.as_posix())} if own else {}
    package = Package(
        ecosystem="pypi",
        name=normal_name(distribution.name),
        version=distribution.version,
        origin="installed",
        source=source,
        hashes=hashes,
        hashed=INSTALLED if hashes else "",
        files=tuple(own),
        location=info.parent.as_posix(),
    )
    return package, altered, distribution


def _own_files(
    info: PurePosixPath, recorded: list[RecordedFile], files: Mapping[str, ReleaseFile]
) -> tuple[list[str], list[str]]:
    """Files that are as RECORD says, with RECORD itself; and those that differ from it."""
    own, altered = set(), set()
    for entry in recorded:
        path = _inside(info.parent, entry.path)
        present = files.get(path or "")
        if path is None or present is None:
            continue  # outside of the release, or a file that was not packed
        if path == f"{info}/RECORD" or present.sha256 == entry.sha256:
            own.add(path)
        elif entry.sha256:
            altered.add(path)
    return sorted(own), sorted(altered)


def _inside(directory: PurePosixPath, path: str) -> str | None:
    """``directory/path`` with ``..`` resolved by name alone; nothing if it leads outside."""
    parts: list[str] = []
    for part in (*directory.parts, *PurePosixPath(path).parts):
        if part == "/" or (part == ".." and not parts):
            return None
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def tree_hash(paths: Iterable[str], files: Mapping[str, ReleaseFile], location: str) -> str:
    """One SHA-256 (hex) over files: each as path, NUL, its hash and a line feed, in order.

    Paths are relative to ``location``, so that two copies of a package have one hash.
    """
    lines = [f"{os.path.relpath(path, location or '.')}\0{files[path].sha256}\n" for path in paths]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _with_requires(found: list[tuple[Package, Distribution]]) -> list[Package]:
    """Dependencies among the packages of one site-packages directory."""
    purls = {(package.location, package.name): package.purl for package, _ in found}
    return [
        replace(
            package,
            requires=tuple(
                sorted(
                    {
                        purls[package.location, name]
                        for name in required_names(distribution)
                        if (package.location, name) in purls and name != package.name
                    }
                )
            ),
        )
        for package, distribution in found
    ]


def _check_directory(path: Path, source: str) -> None:
    """Refuse a central directory that is too large before a zip reader takes it into memory."""
    with path.open("rb") as file:
        start = file.seek(max(0, path.stat().st_size - 65_557))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise EvidenceError(f"{source}: not a zip file")
    _, _, _, _, entries, size, _, _ = _END.unpack_from(tail, at)
    if entries > WHEEL_ENTRIES or size > DIRECTORY_BYTES or size > start + at:
        raise EvidenceError(f"{source}: more than {WHEEL_ENTRIES} entries, or a broken directory")


def _wheel_metadata(archive: zipfile.ZipFile, source: str) -> bytes:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(names) > WHEEL_ENTRIES or len(set(names)) != len(names):
        raise EvidenceError(f"{source}: too many entries, or one occurs twice")
    if sum(entry.file_size for entry in entries) > WHEEL_UNPACKED:
        raise EvidenceError(f"{source}: more than {WHEEL_UNPACKED} bytes unpacked")
    for entry in entries:
        _check_entry(entry, source)
    found = [
        entry
        for entry in entries
        if entry.filename.count("/") == 1 and entry.filename.endswith(f"{_DIST_INFO}/METADATA")
    ]
    if len(found) != 1:
        raise EvidenceError(f"{source}: {len(found)} METADATA files, a wheel has one")
    with archive.open(found[0]) as file:
        data = file.read(METADATA_BYTES * 16 + 1)
    if len(data) > METADATA_BYTES * 16:
        raise EvidenceError(f"{source}: METADATA is too large")
    return data


def _check_entry(entry: zipfile.ZipInfo, source: str) -> None:
    name = PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
        raise EvidenceError(f"{source}: {entry.filename[:200]!r} leads outside")
    if entry.file_size > 1024**2 and entry.file_size > WHEEL_RATIO * entry.compress_size:
        raise EvidenceError(f"{source}: {entry.filename[:200]!r} unpacks to far too much")
