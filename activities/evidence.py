"""Effects of looking after archived evidence: read all of it back."""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import final_errors
from activities.heartbeats import beating
from models.evidence_check import MAX_NAMED, EvidenceReport
from stores.evidence_archive import EvidenceArchive
from stores.evidence_retention import check_evidence
from stores.ledger import Ledger


class EvidenceActivities:
    """What the control worker does for ``CheckEvidence``.

    Args:
        archive: none where the worker's addresses name none.
    """

    def __init__(self, ledger: Ledger, archive: EvidenceArchive | None) -> None:
        self._ledger = ledger
        self._archive = archive

    @activity.defn
    @final_errors
    def read_evidence_back(self) -> EvidenceReport:
        """Read every input of every verdict, and hash it.

        Raises:
            ApplicationError: there is no archive to read.
        """
        if self._archive is None:
            why = "the control worker's addresses name no evidence archive (`verification`)"
            raise ApplicationError(why, type="NoArchive", non_retryable=True)
        with beating():
            kept = check_evidence(self._ledger, self._archive)
        return EvidenceReport(
            verdicts=kept.verdicts,
            digests=kept.digests,
            lost=len(kept.lost),
            named=list(kept.lost[:MAX_NAMED]),
        )
