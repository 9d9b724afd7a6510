"""Issuing restore certificates: nothing is handed out that would not be believed."""

from pathlib import Path

from models.recovery import GapDecision
from models.restore import RestoreReport
from models.restore_certificate import (
    Kind,
    Times,
    restore_statement,
    sign_certificate,
)
from models.restore_certificate_check import verify_certificate
from models.state_head import open_head
from stores.backup_layout import certificate_name
from stores.files import write_atomic
from stores.keys import SigningKey
from stores.objects import ObjectStore

LARGEST_CERTIFICATE = 512 * 1024 * 1024
"""Bytes: a full drill names each segment of the whole retention."""


def certify(
    report: RestoreReport,
    key: SigningKey,
    *,
    kind: Kind,
    expected_head: bytes,
    times: Times,
    code_version: str,
    checkpoint: bytes | None = None,
    acceptance: GapDecision | None = None,
) -> bytes:
    """The signed certificate of a restore.

    Args:
        key: of the region's ledger.
        expected_head: the note that the restore was given.
        checkpoint: the newest note of the region's ledger that the restore was given; needed when
            its receipts were expected, and admitted only then.
        acceptance: needed when something is missing, and admitted only then.

    Raises:
        models.verifier.Refused: the certificate would not verify, as when something is missing
            and nobody has accepted it; the detail begins with the field.
        pydantic.ValidationError: an argument is not of its form.
    """
    keys = key.trusted(report.region)
    root = None
    if report.root_note:
        root = open_head(report.root_note.encode(), keys).root.hex()
    statement = restore_statement(
        report,
        kind=kind,
        expected_head=expected_head,
        state_root_expected=root,
        times=times,
        code_version=code_version,
        checkpoint=checkpoint,
        acceptance=acceptance,
    )
    data = sign_certificate(statement, key.private)
    verify_certificate(data, keys, [expected_head])
    return data


def keep_certificate(
    objects: ObjectStore, directory: Path, region: str, store: str, data: bytes
) -> Path:
    """Keep a certificate in the backup, and in a directory where people find it; where it is.

    Raises:
        ObjectExists: the store has another certificate.
    """
    objects.put(certificate_name(region, store), data)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{region}-{store}.json"
    write_atomic(path, data)
    return path
