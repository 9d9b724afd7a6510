"""Freeze a small backup, as today's code makes it, for tests of the code to come.

    .venv/bin/python scripts/freeze_backup.py

Run it once for each new schema version, before the first release that has it: a backup that was
made once must be restorable for as long as it is kept. The file holds the backup's objects, the
signed head, the public key and what every document was. Its key is thrown away, and its bodies are
sealed so that anybody can open them.
"""

import base64
import io
import json
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from recovery_harness import REGION, Backup
from sqlalchemy import Engine, insert

from models.documents import SCHEMA_VERSION
from models.tables_fleet import RegionState, ShardRow, TenantRow
from stores.buffered_kv import Base, Buffer, BufferedKV
from stores.checkpoints import Notary
from stores.drain import drain_and_clear
from stores.kv import TenantKV
from stores.spool import Spool
from stores.sql import open_engine, table, write

FROZEN = ROOT / "tests" / "fixtures" / f"backup-schema-{SCHEMA_VERSION}.zip"
AT = datetime(2026, 11, 28, 20, 15, 1, 250, tzinfo=UTC)
ODD = (
    'quote " backslash \\ slash / tab \t bell \x07 del \x7f e-acute \u00e9 emoji \U0001f600 \u2028'
)
"""What databases could spell differently."""


def _fleet(engine: Engine) -> None:
    shards = [
        {"id": "eu-001", "release": None, "epoch": 0, "rolling": False, "activated_at": None},
        {"id": "eu-002", "release": ODD, "epoch": 7, "rolling": True, "activated_at": AT},
    ]
    place = {"region": REGION, "zone": "a"}
    tenants = [
        {"id": f"tenant-{number}", "shard": "eu-001", "size": 10 + number, "state": "active"}
        for number in range(3)
    ]
    with write(engine) as connection:
        state = {"region": REGION, "generation": 5, "epoch": 7, "placement": 3}
        connection.execute(insert(table(RegionState)), state)
        connection.execute(insert(table(ShardRow)), [{**each, **place} for each in shards])
        rows = [{**each, **place, "created_at": AT} for each in tenants]
        connection.execute(insert(table(TenantRow)), rows)


def _outage(backup: Backup) -> None:
    """Buffered writes that were drained: one made, and conflicts with a value and without."""
    spool = Spool(backup.directory / "spool", epoch=2)
    base = Base(lambda tenant: TenantKV(backup.engine, tenant), 0.0)
    buffered = BufferedKV(Buffer(spool, base), "tenant-2")
    live = TenantKV(backup.engine, "tenant-2")
    for key in ("mine", "both", "removed"):
        live.put(key, b"before")
    buffered.put("mine", b"buffered")
    buffered.put("both", b"")
    buffered.delete("removed")
    for key in ("both", "removed"):
        live.put(key, b"meanwhile")
    drain_and_clear(backup.engine, spool, rebuilt=False)
    spool.close()


def _history(backup: Backup) -> None:
    """A snapshot, and changes of every sort after it."""
    _fleet(backup.engine)
    notary = Notary(backup.ledger, backup.key)
    backup.work(12)
    notary.checkpoint()
    backup.snapshot()
    _outage(backup)
    backup.work(9)
    TenantKV(backup.engine, "tenant-1").put("\u00e9 \U0001f600 \u2028", bytes(9))
    notary.checkpoint()
    backup.ship()


def _frozen(backup: Backup) -> dict[str, bytes]:
    """The files of the archive."""
    files = {
        f"objects/{found.name}": backup.objects.get(found.name, found.size)
        for found in backup.objects.list("")
    }
    documents = [
        {
            "collection": collection,
            "key": key,
            "image": image,
            "payload": None if payload is None else base64.b64encode(payload).decode(),
        }
        for (collection, key), (image, payload) in sorted(backup.documents().items())
    ]
    return {
        **files,
        "head.note": backup.head(),
        "key.vkey": backup.key.public(REGION).vkey().encode() + b"\n",
        "store": backup.identity.id.encode(),
        "documents.json": json.dumps(documents, indent=1).encode(),
    }


def main() -> int:
    if FROZEN.exists():
        print(f"{FROZEN} is there: what was frozen stays")
        return 1
    with tempfile.TemporaryDirectory() as directory:
        backup = Backup(open_engine(f"sqlite:///{directory}/store.db"), Path(directory))
        _history(backup)
        files = _frozen(backup)
        backup.engine.dispose()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    FROZEN.parent.mkdir(exist_ok=True)
    FROZEN.write_bytes(packed.getvalue())
    print(f"{FROZEN}: {len(files)} files")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
