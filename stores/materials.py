"""What a source tree tells about its build: manifests, lock files and the RDF specification."""

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

from rdflib import Graph
from rdflib.plugins.parsers.notation3 import BadSyntax

from models.provenance import MAX_MATERIALS, Material
from stores.git import SourceRefused

MANIFESTS = (
    *("Cargo.toml", "Cargo.lock", "Makefile.toml", "rust-toolchain.toml", "rust-toolchain"),
    *("pyproject.toml", "setup.py", "setup.cfg", "Pipfile", "Pipfile.lock", "poetry.lock"),
    *("uv.lock", "pylock*.toml", "requirements*.txt", "requirements*.lock", "requirements*.in"),
    *("package.json", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml"),
    *("go.mod", "go.sum"),
)
SPECIFICATION = ".specify"
MAX_SPEC_BYTES = 4 * 1024**2
MAX_FILE_BYTES = 64 * 1024**2
MAX_ENTRIES = 200_000


def read_materials(root: Path, build_file: str, *, beat: Callable[[], None]) -> list[Material]:
    """The files of a source tree that decide what comes of it, each with its SHA-256, in order.

    Every ``.ttl`` file below ``.specify`` is parsed.

    Raises:
        SourceRefused: a specification is broken (the message names file and line), a file is
            too large or a link, or there are too many of them.
    """
    found = []
    for path in _files(root):
        name = path.relative_to(root).as_posix()
        is_spec = name.startswith(f"{SPECIFICATION}/") and name.endswith(".ttl")
        if not (is_spec or name == build_file or _is_manifest(path.name)):
            continue
        data = _read(path, name, MAX_SPEC_BYTES if is_spec else MAX_FILE_BYTES)
        if is_spec:
            check_specification(data, name)
        beat()
        found.append(Material(name=name, digest={"sha256": sha256(data).hexdigest()}))
        if len(found) >= MAX_MATERIALS:
            raise SourceRefused(f"materials: more than {MAX_MATERIALS} manifests and lock files")
    return found


def check_specification(data: bytes, name: str) -> None:
    """Parse an RDF specification in Turtle.

    Raises:
        SourceRefused: it does not parse; the message names file and line.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceRefused(f"{name}: line {line}: not UTF-8") from None
    try:
        Graph().parse(data=text, format="turtle", publicID="urn:chainring:specification")
    except BadSyntax as error:
        reason = str(error.message).strip().splitlines()[0][:200]
        raise SourceRefused(f"{name}: line {error.lines + 1}: {reason}") from None
    except Exception as error:  # its parser raises what it happens to stumble over
        raise SourceRefused(f"{name}: {type(error).__name__}: {str(error)[:200]}") from None


def _is_manifest(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in MANIFESTS)


def _files(root: Path) -> Iterator[Path]:
    entries = 0
    for directory, below, names in os.walk(root):
        below.sort()
        entries += len(names) + len(below)
        if entries > MAX_ENTRIES:
            raise SourceRefused(f"source tree: more than {MAX_ENTRIES} files")
        yield from (Path(directory, name) for name in sorted(names))


def _read(path: Path, name: str, limit: int) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise SourceRefused(f"{name}: must be a plain file")
    if path.stat().st_size > limit:
        raise SourceRefused(f"{name}: over {limit} bytes")
    return path.read_bytes()
