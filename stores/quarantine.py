"""Copies of single tenants, each in a directory that nobody writes to again.

<directory>/<tenant>/<copy>/entries.jsonl    one key a line: key, value (base64), version, SHA-256
<directory>/<tenant>/<copy>/statement.json   what it is, signed
<directory>/<tenant>/<copy>/plan.jsonl       what restoring it in place would write

The files are for their owner alone: they hold what backups keep sealed. A copy lies under its
tenant's name, so that whoever erases a tenant finds what there is of it.
"""

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from models.canonical import canonical
from models.checkpoint import PublicKey
from models.tenant_restore import CopyReport, TenantCopy
from models.tenant_statement import CopyStatement, open_copy
from models.verifier import Refused
from stores.files import sync_directory, write_atomic
from stores.kv import KvItem

ENTRIES, STATEMENT, PLAN = "entries.jsonl", "statement.json", "plan.jsonl"


class Quarantine:
    """The copies of one region's tenants."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def place(self, tenant: str, copy_id: str) -> Path:
        """Where a copy is, or would be."""
        return self._directory / tenant / copy_id

    def keep(
        self,
        report: CopyReport,
        copy_id: str,
        items: Iterable[KvItem],
        sign: Callable[[str], bytes],
    ) -> TenantCopy:
        """Write a copy; it is there once its statement is.

        Args:
            sign: makes the statement of the digest of the file of entries.
        """
        place = self.place(report.tenant, copy_id)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = write_lines(place / ENTRIES, map(entry_line, items))
        write_atomic(place / STATEMENT, sign(digest))
        return TenantCopy(report=report, directory=str(place))

    def find(self, tenant: str, copy_id: str, keys: Sequence[PublicKey]) -> TenantCopy | None:
        """A copy that is there, whole and signed; None where none was finished.

        Raises:
            models.verifier.Refused: it was changed.
        """
        place = self.place(tenant, copy_id)
        if not (place / STATEMENT).exists():
            return None
        statement = verify_copy(place, keys)
        return TenantCopy(report=statement.predicate.report, directory=str(place))

    def discard(self, tenant: str, copy_id: str) -> None:
        """Throw a copy away."""
        shutil.rmtree(self.place(tenant, copy_id), ignore_errors=True)


def verify_copy(place: Path, keys: Sequence[PublicKey]) -> CopyStatement:
    """Check a copy with public keys alone: its statement, and the file that it is about.

    Raises:
        models.verifier.Refused: one of the two is not what was signed.
        OSError: a file cannot be read.
    """
    statement = open_copy((place / STATEMENT).read_bytes(), keys)
    if file_digest(place / ENTRIES) != statement.file_digest:
        raise Refused("altered", f"{ENTRIES}: is not the file that the statement is about")
    return statement


def write_lines(path: Path, lines: Iterable[Mapping[str, JsonValue]]) -> str:
    """Write a file of JSON lines, whole or not at all, for its owner alone; its SHA-256."""
    temporary = path.with_name(f".{path.name}.part")
    digest = hashlib.sha256()
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    with temporary.open("wb") as file:
        for line in lines:
            data = canonical(dict(line)) + b"\n"
            digest.update(data)
            file.write(data)
    temporary.chmod(0o400)
    temporary.replace(path)
    sync_directory(path.parent)
    return digest.hexdigest()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of such a file."""
    with path.open("rb") as file:
        yield from map(json.loads, file)


def read_items(path: Path) -> Iterator[KvItem]:
    """The entries of a copy, in the order of their keys."""
    for line in read_lines(path):
        yield KvItem(
            line["key"].encode(),
            base64.b64decode(line["value"]),
            line["version"],
            bytes.fromhex(line["sha256"]),
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry_line(item: KvItem) -> dict[str, JsonValue]:
    """A key as the file of entries has it."""
    return {
        "key": item.key.decode(),
        "value": base64.b64encode(item.value).decode(),
        "version": item.version,
        "sha256": item.sha256.hex(),
    }
