"""The work directory of one build: the source as fetched, working copies of it, what came out.

Named after the build and the attempt, so that a step that is run again finds what the steps before
it left, and starts its own part anew. A lock keeps a step and its repetition apart.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from models.build import BuildKey
from models.provenance import MAX_DIFFERENCES
from stores.build_runner import Beat
from stores.files import file_lock
from stores.unpack import ROOTFS

_WAIT_S = 0.1


class WorkspaceLost(Exception):
    """What an earlier step left is not here: it was on another machine, or was removed."""


class Workspace:
    """The directories of one attempt at one build, below ``root``."""

    def __init__(self, root: Path, key: BuildKey) -> None:
        name = sha256(f"{key.workflow}\0{key.run}\0{key.attempt}".encode()).hexdigest()[:24]
        self._root = root
        self.path = root / "builds" / name
        self.source = self.path / "source"
        self.release = self.path / "unpacked" / "release" / ROOTFS
        self.evidence = self.path / "evidence"

    @contextmanager
    def held(self, beat: Beat) -> Iterator[None]:
        """Have the directory alone; an earlier run of the same step may still be ending."""
        lock = self.path.with_suffix(".lock")
        while True:
            try:
                with file_lock(lock, wait=False):
                    yield
                    return
            except BlockingIOError:
                beat()
                time.sleep(_WAIT_S)

    def begin(self) -> None:
        """Make the directory anew, empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)

    def need(self, path: Path) -> Path:
        """``path``, if an earlier step left it here.

        Raises:
            WorkspaceLost: it is not here.
        """
        if not path.exists():
            raise WorkspaceLost(f"the build's {path.name} is not on this builder")
        return path

    def fresh(self, name: str) -> Path:
        """A new, empty directory in place of one that an interrupted step may have left."""
        path = self.path / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def copy_source(self, name: str) -> Path:
        """A clean working copy of the source, in ``name``/tree."""
        tree = self.fresh(name) / "tree"
        shutil.copytree(self.need(self.source), tree, symlinks=True)
        return tree

    def keep_log(self, log: Path, digest: str) -> None:
        """Keep a log beyond the build, by its digest."""
        kept = self._root / "logs" / f"{digest.removeprefix('sha256:')}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            shutil.copyfile(log, kept.with_suffix(f".{os.getpid()}"))
            kept.with_suffix(f".{os.getpid()}").replace(kept)

    def clear(self) -> None:
        """Remove the directory; of no effect when it is gone."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.with_suffix(".lock").unlink(missing_ok=True)


def differences(one: Path, other: Path) -> list[str]:
    """How two directories differ, file by file: `MAX_DIFFERENCES` lines, and how many more."""
    first, second = _described(one), _described(other)
    found = []
    for name in sorted(first.keys() | second.keys()):
        if name not in second:
            found.append(f"{name}: only in the first")
        elif name not in first:
            found.append(f"{name}: only in the second")
        elif first[name] != second[name]:
            found.append(f"{name}: {first[name]}, {second[name]}")
    if len(found) > MAX_DIFFERENCES:
        more = len(found) - MAX_DIFFERENCES
        return [*found[:MAX_DIFFERENCES], f"and {more} more"]
    return found


def _described(root: Path) -> dict[str, str]:
    entries = {}
    for directory, below, names in os.walk(root):
        for name in (*below, *names):
            path = Path(directory, name)
            entries[path.relative_to(root).as_posix()] = _describe(path)
    return entries


def _describe(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "directory"
    mode = "executable " if path.stat().st_mode & 0o100 else ""
    return f"{mode}sha256:{sha256(path.read_bytes()).hexdigest()}"
