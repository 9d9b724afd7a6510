"""One tenant out of a backup, without building the store that it lived in.

All chunks and segments are read, but of their documents only the tenant's are opened. The digests
of all of them make the state root, so what was taken is shown to be what was signed. That nothing
of the tenant was left out, as by a group that passes for another tenant's, shows by the count of
bytes in the tenant's own space document.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import Engine

from models.changelog import ABSENT
from models.documents import TENANT_OWNED, key_digest
from models.restore import Goal
from models.tenant_restore import CopyReport
from stores.collections import COLLECTIONS
from stores.kv import KvItem, TenantKV
from stores.leaf_spool import LeafSpool
from stores.part_load import Progress, loaded_part
from stores.read_back import read_back
from stores.restore_plan import BackupReader
from stores.restore_proof import RestoreMismatch, gap_of, wanted_seq
from stores.sql import read

_OWNED = [each for each in COLLECTIONS if each.name in TENANT_OWNED]


class TenantUnknown(ValueError):
    """The store had no document of the tenant at the goal."""


def copy_tenant(
    reader: BackupReader,
    tenant: str,
    note: bytes,
    goal: Goal,
    scratch: Engine,
    progress: Progress = lambda _phase, _amount: None,
) -> CopyReport:
    """Load a tenant's keys, as they were at the goal, into an empty database.

    The report says whether the goal was reached, and whether the tenant is erased; then nothing of
    it is loaded that counts.

    Args:
        note: the signed head from outside the backup.

    Raises:
        NothingToRestore, GoalUnknown: as of `stores.restore.Restorer.restore`.
        TenantUnknown: see the class.
        RestoreMismatch, BackupDamaged, DocumentError: the backup cannot be trusted.
        models.verifier.Refused: the expected head does not stand.
    """
    with loaded_part(reader, tenant, note, goal, scratch, progress) as part:
        erased = _prove(scratch, tenant, part.leaves, erased=part.erased)
    kept = [] if erased else TenantKV(scratch, tenant).items()
    keys, size, digest = _measured(kept)
    course, expected = part.course, part.expected
    wanted = wanted_seq(goal, expected, course)
    return CopyReport(
        region=reader.region,
        tenant=tenant,
        source_store=reader.store,
        goal=goal,
        target_seq=wanted,
        reached_seq=course.seq,
        expected_seq=expected.size,
        base_seq=part.base.manifest.seq,
        base_manifest=part.base.name,
        segments=tuple(course.segments),
        state_root=part.root.hex(),
        root_note=part.root_note,
        chain=course.chain.hex(),
        last_change_at=_moment(course.last_at),
        erased=erased,
        keys=keys,
        bytes=size,
        digest=digest,
        gap=gap_of(part.reader, course.seq, wanted),
        findings=tuple(part.reader.findings.list),
    )


def entries_digest(items: Iterable[KvItem]) -> str:
    """One digest of a tenant's keys and values in the order of the keys; versions do not count."""
    return _measured(items)[2]


def _measured(items: Iterable[KvItem]) -> tuple[int, int, str]:
    """How many keys, bytes of keys and values, and `entries_digest`."""
    count = size = 0
    digest = hashlib.sha256()
    for each in items:
        count, size = count + 1, size + len(each.key) + len(each.value)
        digest.update(hashlib.sha256(each.key).digest() + hashlib.sha256(each.value).digest())
    return count, size, digest.hexdigest()


def _prove(scratch: Engine, tenant: str, leaves: LeafSpool, *, erased: bool) -> bool:
    """Hold what was loaded against what was signed; whether the tenant is erased.

    Raises:
        TenantUnknown, RestoreMismatch: see `copy_tenant`.
    """
    space = leaves.digest(key_digest("kv_space", f'["{tenant}"]'))
    known = leaves.digest(key_digest("tenant", f'["{tenant}"]'))
    if erased and space != ABSENT:
        return True
    if space == known == ABSENT:
        raise TenantUnknown(f"tenant: the store had no document of {tenant} then")
    with LeafSpool() as found, read(scratch) as connection:
        read_back(connection, _OWNED, found)
        wrong = [key for key, here, _ in found.difference(leaves) if here != ABSENT]
        missing = found.digest(key_digest("kv_space", f'["{tenant}"]')) != space
    if wrong or missing:
        raise RestoreMismatch(
            f"tenant {tenant}: {len(wrong) + missing} documents are not those that were signed"
        )
    kv = TenantKV(scratch, tenant)
    _, size, _ = _measured(kv.items())
    if size != kv.used_bytes():
        raise RestoreMismatch(
            f"tenant {tenant}: its keys and values make {size} bytes, its space counts "
            f"{kv.used_bytes()}: some are sealed for somebody else"
        )
    return False


def _moment(at: int) -> datetime | None:
    return datetime.fromtimestamp(at / 1000, UTC) if at else None
