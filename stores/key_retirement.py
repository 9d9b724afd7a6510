"""Retiring a ledger's signing key that is lost, or in hands that it must not be in.

Nothing that was signed is signed again: what the old key has signed until now goes on to count, by
origin and size, and what it signs from now on does not. The key that follows it signs what comes.
Who verifies gets both from the operator, as the first one; the ledger tells of it in a receipt.

Whoever signs must be stopped meanwhile: what the old key signs after its end was fixed is refused.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.checkpoint import PublicKey, open_checkpoint
from models.ids import Actor, Reason
from models.receipts import Draft
from models.state_head import open_head
from models.verifier import Refused
from stores.backup_end import end_of_backup
from stores.backup_layout import stores
from stores.checkpoints import CheckpointFiles, Notary
from stores.files import sync_directory, write_atomic
from stores.keys import (
    SigningKey,
    create_private_key,
    load_key,
    read_retired,
    retired_file,
)
from stores.ledger import Ledger
from stores.objects import ObjectStore
from stores.witness import Witness

RETIRED_KIND = "ledger.key-retired"


class NotRetirable(Exception):
    """The key is not the one that has signed, or another one signs by now."""


def notes_of_backup(objects: ObjectStore, witness: Witness, region: str) -> list[bytes]:
    """The newest signed heads of all stores of a region, witnessed and in the backup.

    Raises:
        models.backup_file.BackupDamaged: the end of a backup is.
        ObjectsUnavailable: try again later.
    """
    found: list[bytes | None] = []
    for store in stores(objects, region):
        found += [witness.head(region, store), end_of_backup(objects, region, store)]
    return [note for note in found if note is not None]


def ended(old: PublicKey, path: Path, files: CheckpointFiles, notes: Iterable[bytes]) -> PublicKey:
    """The key with its end: for each origin the largest size that is signed.

    Args:
        path: of the private key, which need not be there.
        notes: signed heads of the ledger's stores.

    Raises:
        NotRetirable: it has signed none of them, or another one signs by now.
        models.verifier.Refused: neither it nor one retired before has signed one of them.
    """
    before = read_retired(path)
    if (done := _among(before, old)) is not None:
        return done
    if path.exists() and load_key(path).public(files.ledger).raw != old.raw:
        raise NotRetirable(f"old: {old.vkey()} is not the key in {path}")
    until: dict[str, int] = {}
    its_own = False
    for opening, note in (
        *((open_checkpoint, note) for _, note in files.named_notes()),
        *((open_head, note) for note in notes),
    ):
        try:
            signed, its_own = opening(note, [old]), True
        except Refused:
            signed = opening(note, before)
        until[signed.origin] = max(signed.size, until.get(signed.origin, 0))
    if not its_own:
        raise NotRetirable(f"old: {old.vkey()} has signed nothing of ledger {files.ledger}")
    return replace(old, until=until)


def retire(path: Path, retired: PublicKey) -> SigningKey:
    """Have a new key sign in the place of a retired one; again, it changes nothing.

    The old private key is no more, if it was there.

    Args:
        retired: as `ended` gives it.

    Raises:
        KeyFileError: a file beside the key cannot be read.
        OSError: the directory is not writable.
    """
    following = path.with_name(f"{path.name}.following")
    before = read_retired(path)
    if _among(before, retired) is None:
        following.unlink(missing_ok=True)  # of a try that fixed no end
        create_private_key(following, Ed25519PrivateKey.generate())
        lines = "".join(f"{each.line()}\n" for each in (*before, retired))
        write_atomic(retired_file(path), lines.encode())
    if following.exists():
        following.replace(path)
        sync_directory(path.parent)
    return load_key(path)


def record(
    ledgers: Iterable[Ledger],
    notary: Notary,
    retired: PublicKey,
    key: SigningKey,
    *,
    actor: Actor,
    reason: Reason,
) -> int:
    """Write the receipt of a retirement, and sign the ledger that it is about; its size then.

    Args:
        ledgers: that get the receipt: its own, and the control plane's, which vouches for it.

    Raises:
        StoreUnavailable: one cannot serve now.
        CheckpointError: the ledger is not what the old key has signed.
    """
    name = retired.name.removeprefix("chainring/")
    draft = Draft(
        kind=RETIRED_KIND,
        actor=actor,
        subject=f"ledger/{name}",
        body={"retired": retired.line(), "signs": key.public(name).vkey(), "reason": reason},
        idempotency_key=f"{RETIRED_KIND}/{retired.vkey()}",
    )
    for ledger in ledgers:
        ledger.append([draft])
    return notary.checkpoint().size


def _among(keys: Iterable[PublicKey], wanted: PublicKey) -> PublicKey | None:
    return next((each for each in keys if each.vkey() == wanted.vkey()), None)
