"""What is in a release, as far as files can tell: packages of each kind, and files of none.

The same look serves the maker of a bill of materials and whoever checks one later.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from models.lock_cargo import read_cargo_lock
from models.lock_npm import read_package_lock
from models.packages import Package
from models.python_files import read_requirements
from models.sbom_compare import Contents, ReleaseFile
from models.strict_json import EvidenceError
from stores.sbom_files import read_bounded, read_files
from stores.sbom_node import installed_node_packages
from stores.sbom_python import installed_packages, read_wheel
from stores.sbom_rust import read_audited_binary
from stores.unpack import DEFAULT_LIMITS, Limits

LOCK_BYTES = 32 * 1024**2
_READERS: dict[str, Callable[[bytes, str], list[Package]]] = {
    "Cargo.lock": read_cargo_lock,
    "package-lock.json": read_package_lock,
    "npm-shrinkwrap.json": read_package_lock,
}


def read_contents(root: Path, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Look through an unpacked release.

    Raises:
        EvidenceError: something that should describe packages cannot be read, or the release is
            beyond the limits. A release that cannot be told apart has no bill of materials.
        OSError: a file cannot be read.
    """
    files = read_files(root, limits)
    installed, altered = installed_packages(root, files)
    locked = _locked(root, {path: files[path] for path in _unowned(files, installed)})
    packages = [
        *installed,
        *installed_node_packages(root, files, locked),
        *_wheels(root, files),
        *_binaries(root, files),
        *locked,
    ]
    return Contents(files, tuple(packages), tuple(altered))


def read_lock_file(data: bytes, name: str) -> list[Package]:
    """The packages of a lock file, by the file's name.

    Raises:
        EvidenceError: a name that is no lock file's, or a file that cannot be read.
    """
    base = PurePosixPath(name).name
    reader = _READERS.get(base)
    if reader is None and not _is_requirements(base):
        raise EvidenceError(f"{name}: not the name of a lock file that is known")
    return (reader or read_requirements)(data, name)


def _locked(root: Path, files: Mapping[str, ReleaseFile]) -> list[Package]:
    """Packages of the release's own lock files, with locations from the release's root."""
    found = []
    for path, entry in files.items():
        pure = PurePosixPath(path)
        if entry.link is not None or not _is_lock(pure, root):
            continue
        for package in read_lock_file(read_bounded(root / path, limit=LOCK_BYTES), path):
            place = (pure.parent / package.location).as_posix() if package.location else ""
            found.append(replace(package, location=place))
    return found


def _unowned(files: Mapping[str, ReleaseFile], packages: Iterable[Package]) -> list[str]:
    """Files of no package: what a package carries along is not about the release."""
    owned = {path for package in packages for path in package.files}
    return [path for path in files if path not in owned]


def _is_lock(path: PurePosixPath, root: Path) -> bool:
    if "node_modules" in path.parts:
        return False  # of a package, and says nothing about the release
    if path.name in _READERS:
        return True
    # Requirements without hashes pin nothing: such a file is no lock file.
    return _is_requirements(path.name) and b"--hash" in read_bounded(root / path, limit=LOCK_BYTES)


def _is_requirements(name: str) -> bool:
    return name.startswith("requirements") and name.endswith((".txt", ".lock"))


def _wheels(root: Path, files: Mapping[str, ReleaseFile]) -> list[Package]:
    return [
        read_wheel(root / path, source=path, sha256=entry.sha256)
        for path, entry in files.items()
        if path.endswith(".whl") and entry.link is None
    ]


def _binaries(root: Path, files: Mapping[str, ReleaseFile]) -> list[Package]:
    found = []
    for path, entry in files.items():
        if entry.link is None and entry.size > 0:
            found += read_audited_binary(root / path, path) or []
    return found
