"""The signed head at the end of a store's backup, by the backup alone."""

from collections.abc import Sequence
from contextlib import suppress

from models.backup_file import BackupDamaged, decode
from models.checkpoint import PublicKey
from models.manifest import ManifestError, read_manifest
from models.verifier import Refused
from stores.backup_layout import manifests, segments
from stores.objects import ObjectDamaged, ObjectStore
from stores.witness import HeadRefused, Witness


def end_of_backup(objects: ObjectStore, region: str, store: str) -> bytes | None:
    """The note as it is there, its signature not checked; None where nothing was backed up.

    Raises:
        BackupDamaged: the last object is.
        ObjectsUnavailable: try again later.
    """
    ends = [(each.last, each.object) for each in segments(objects, region, store)] + [
        (each.seq, each.object) for each in manifests(objects, region, store)
    ]
    if not ends:
        return None
    found = max(ends, key=lambda each: each[0])[1]
    try:
        data = objects.get(found.name, limit=found.size)
        is_segment = found.name.endswith(".seg")
        head = decode(data).header["head"] if is_segment else read_manifest(data).head
    except (BackupDamaged, KeyError, ManifestError, ObjectDamaged) as error:
        raise BackupDamaged(f"{found.name}: {error}") from None
    return str(head).encode()


def newest_head(
    objects: ObjectStore, witness: Witness, region: str, store: str, keys: Sequence[PublicKey]
) -> bytes | None:
    """The newest signed head of a store, witnessed from now on; None where there is none.

    It may be in the backup alone: whoever shipped that segment may have died before the witness was
    told, and the store with it. An end that is damaged, behind, or not signed changes nothing.

    Raises:
        ObjectsUnavailable: try again later.
    """
    with suppress(BackupDamaged, HeadRefused, Refused):
        note = end_of_backup(objects, region, store)
        if note is not None:
            witness.admit(region, store, note.decode(errors="replace"), keys)
    return witness.head(region, store)
