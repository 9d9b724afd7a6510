"""Issuing restore certificates: nothing is handed out that would not be believed."""

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
from stores.keys import SigningKey


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
    public = key.public(report.region)
    root = None
    if report.root_note:
        root = open_head(report.root_note.encode(), [public]).root.hex()
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
    verify_certificate(data, [public], [expected_head])
    return data
