"""Is one object of a backup what it must be: its bytes, its form, and what its name says of it."""

import hashlib
from collections.abc import Sequence

from models.backup_file import BackupDamaged, decode
from models.changelog import ChangelogBroken, chain_over, split_cores
from models.checkpoint import PublicKey
from models.manifest import Manifest, ManifestError, read_manifest
from models.state_head import open_head, state_ledger
from models.verifier import Refused
from stores.objects import ObjectDamaged, ObjectInfo, ObjectMissing, ObjectStore, ObjectTooLarge


class ObjectCheck:
    """Checks objects of one region.

    Args:
        keys: of the region, which sign its heads.
    """

    def __init__(self, objects: ObjectStore, region: str, keys: Sequence[PublicKey]) -> None:
        self._objects = objects
        self._region = region
        self._keys = keys

    def fault(self, info: ObjectInfo) -> str:
        """What is wrong with an object, "" when nothing is, or when it is not there any more.

        It is read a second time before anything is said against it.

        Raises:
            ObjectsUnavailable: it cannot be read now.
        """
        return self._fault(info) and self._fault(info)

    def _fault(self, info: ObjectInfo) -> str:
        try:
            data = self._objects.get(info.name, info.size)
            self._check(info.name, data)
        except ObjectMissing:
            found = self._objects.stat(info.name)
            return "" if found is None else "its bytes are gone"
        except (
            BackupDamaged,
            ChangelogBroken,
            ManifestError,
            ObjectDamaged,
            ObjectTooLarge,
            Refused,
        ) as error:
            return str(error)
        return ""

    def _check(self, name: str, data: bytes) -> None:
        parts = name.split("/")
        if len(parts) != 4:
            return  # claims, certificates, keys: their bytes are as they were written
        store, kind, leaf = parts[1], parts[2], parts[3]
        if kind == "changelog":
            self._check_segment(store, leaf, data)
        elif kind == "chunks":
            _check_chunk(leaf, data)
        elif kind == "snapshots":
            self._check_manifest(store, leaf, data)

    def _check_segment(self, store: str, leaf: str, data: bytes) -> None:
        file = decode(data)
        first, last, chain = leaf.removesuffix(".seg").split("-")
        header = file.header
        seqs = [change.seq for change in file.changes]
        if seqs != list(range(int(first), int(last) + 1)):
            raise BackupDamaged(f"does not hold the changes {int(first)} to {int(last)}")
        try:
            before = bytes.fromhex(str(header["chain_before"]))
            head = open_head(str(header["head"]).encode(), self._keys)
        except (KeyError, ValueError):
            raise BackupDamaged("its header names no chain or head") from None
        after = chain_over(before, split_cores(file.cores)).hex()
        signed = (head.ledger, head.size, head.head)
        if signed != (state_ledger(self._region, store), int(last), after):
            raise BackupDamaged("it says something else than its signed head")
        if not after.startswith(chain):
            raise BackupDamaged("its changes are not those that its name says")

    def _check_manifest(self, store: str, leaf: str, data: bytes) -> None:
        manifest = read_manifest(data)
        if hashlib.sha256(data).hexdigest()[:32] not in leaf:
            raise BackupDamaged("its bytes are not those that its name says")
        check_head(manifest, self._region, store, self._keys)


def check_head(manifest: Manifest, region: str, store: str, keys: Sequence[PublicKey]) -> None:
    """Raises `BackupDamaged` or `Refused` where a manifest is not what its head signs."""
    head = open_head(manifest.head.encode(), keys)
    said = (manifest.region, manifest.store, manifest.seq, manifest.chain, manifest.state_root)
    signed = (region, store, head.size, head.head, head.root.hex())
    if said != signed or head.ledger != state_ledger(region, store):
        raise BackupDamaged("it says something else than its signed head")


def _check_chunk(leaf: str, data: bytes) -> None:
    digest = leaf.removesuffix(".chunk").partition("-")[0]
    if decode(data).cores_digest().hex() != digest:
        raise BackupDamaged("holds other documents than its name says")
