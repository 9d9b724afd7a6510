"""A region's receipts out of a store's backup: the branch that was left when the store was."""

from models.changelog import ABSENT
from models.restore import Goal
from stores.collections import BY_NAME
from stores.leaf_spool import LeafSpool
from stores.ledger import Ledger
from stores.ledger_repair import Branch, read_branch, receipts_of
from stores.part_load import REGION, loaded_part, scratch_database
from stores.read_back import read_back
from stores.restore_plan import BackupReader
from stores.restore_proof import RestoreMismatch
from stores.sql import read


def branch_of_backup(reader: BackupReader, note: bytes) -> Branch:
    """The ledger as a store's backup has it, as far as that goes; no tenant's key is needed.

    Args:
        note: the store's signed head.

    Raises:
        NothingToRestore, RestoreMismatch, BackupDamaged: the backup cannot be trusted.
        models.verifier.Refused: the head does not stand, or the receipts do not follow each other.
    """
    with (
        scratch_database() as engine,
        loaded_part(reader, REGION, note, Goal(), engine) as part,
        LeafSpool() as found,
    ):
        with read(engine) as connection:
            read_back(connection, [BY_NAME["receipt"]], found)
        if any(here != ABSENT for _, here, _ in found.difference(part.leaves)):
            raise RestoreMismatch("a receipt is not the one that was signed")
        return read_branch(receipts_of(Ledger(engine, reader.region)), reader.region)
