"""Node.js packages that are installed in a release: each directory in a ``node_modules``.

What the lock file beside them says of the same location gives the hash of the package's archive;
without one the installed files are hashed.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from models.lock_npm import split_name
from models.packages import Package
from models.sbom_compare import ReleaseFile
from models.strict_json import EvidenceError, read_object
from stores.sbom_files import read_bounded
from stores.sbom_python import INSTALLED, tree_hash

PACKAGE_BYTES = 4 * 1024**2
_FOLDER = "node_modules"


def installed_node_packages(
    root: Path, files: Mapping[str, ReleaseFile], locked: Sequence[Package]
) -> list[Package]:
    """The installed packages; ``locked`` are those of the release's lock files, by location.

    Raises:
        EvidenceError: a ``package.json`` cannot be read.
    """
    by_location = {package.location: package for package in locked if package.ecosystem == "npm"}
    names = sorted(files)
    found = []
    for path in names:
        directory = PurePosixPath(path).parent
        if path.endswith("/package.json") and _is_package(directory):
            package = _installed(root, directory.as_posix(), names, files)
            found.append(_with_lock(package, by_location.get(package.location)))
    return found


def _is_package(directory: PurePosixPath) -> bool:
    """Whether it is ``.../node_modules/name`` or ``.../node_modules/@scope/name``."""
    parent = directory.parent
    if parent.name.startswith("@"):
        parent = parent.parent
    return parent.name == _FOLDER and not directory.name.startswith((".", "@"))


def _installed(
    root: Path, directory: str, names: Sequence[str], files: Mapping[str, ReleaseFile]
) -> Package:
    source = f"{directory}/package.json"
    described = read_object(read_bounded(root / source, limit=PACKAGE_BYTES), what=source)
    name, version = described.get("name"), described.get("version")
    if not isinstance(name, str) or not isinstance(version, str) or not name or not version:
        raise EvidenceError(f"{source}: name and version: missing or not text")
    namespace, plain = split_name(name)
    own = _own_files(directory, names)
    return Package(
        ecosystem="npm",
        name=plain,
        version=version,
        origin="installed",
        source=source,
        namespace=namespace,
        hashes={"SHA-256": tree_hash(own, files, directory)},
        hashed=INSTALLED,
        files=tuple(own),
        location=directory,
    )


def _own_files(directory: str, names: Sequence[str]) -> list[str]:
    """The files below a directory without those of the packages nested in it."""
    prefix, nested = f"{directory}/", f"{directory}/{_FOLDER}/"
    own = []
    for index in range(bisect_left(names, prefix), len(names)):
        if not names[index].startswith(prefix):
            break
        if not names[index].startswith(nested):
            own.append(names[index])
    return own


def _with_lock(package: Package, locked: Package | None) -> Package:
    """What the lock file knows more, if it speaks of the same package and version."""
    if locked is None or locked.purl.partition("?")[0] != package.purl:
        return package
    return replace(package, requires=locked.requires, vcs=locked.vcs)
