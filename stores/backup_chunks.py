"""Reading a snapshot's chunks. A copy of a bad one, which a later snapshot left, is as good."""

from models.backup_file import BackupDamaged, BackupFile, decode
from models.manifest import ChunkRef, Manifest
from stores.backup_layout import chunk_copies
from stores.objects import ObjectDamaged, ObjectMissing, ObjectStore, ObjectTooLarge


def read_chunk(objects: ObjectStore, ref: ChunkRef) -> BackupFile:
    """The chunk, by any object that holds its documents.

    Raises:
        BackupDamaged: none does; names the chunk and what is wrong with it.
    """
    try:
        return _read(objects, ref.name, ref.size, ref)
    except BackupDamaged as error:
        first = error
    for name in chunk_copies(objects, ref.name):
        info = None if name == ref.name else objects.stat(name)
        if info is not None:
            try:
                return _read(objects, name, info.size, ref)
            except BackupDamaged:
                continue
    raise first


def lost_chunk(objects: ObjectStore, manifest: Manifest, bad: set[str]) -> str:
    """A chunk of a snapshot that is known to be bad and has no copy; "" when there is none."""
    for ref in manifest.chunks:
        if ref.name in bad and set(chunk_copies(objects, ref.name)) <= bad:
            return ref.name
    return ""


def _read(objects: ObjectStore, name: str, size: int, ref: ChunkRef) -> BackupFile:
    try:
        file = decode(objects.get(name, size))
    except (BackupDamaged, ObjectDamaged, ObjectMissing, ObjectTooLarge) as error:
        raise BackupDamaged(f"{name}: {error}") from None
    if file.cores_digest().hex() != ref.cores:
        raise BackupDamaged(f"{name}: holds other documents than the manifest says")
    return file
