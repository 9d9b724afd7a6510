"""What a restore is held against: signed state roots, and the change that was to be reached."""

from models.checkpoint import Checkpoint
from models.restore import Gap, Goal
from stores.restore_build import Course
from stores.restore_plan import BackupReader, Base


class RestoreMismatch(Exception):
    """What was restored is not what was signed."""


def compare_signed(base: Base, course: Course, expected: Checkpoint, root: bytes) -> str:
    """The note that signs the state root for exactly this change; empty when none does.

    Raises:
        RestoreMismatch: another one is.
    """
    made = (root.hex(), course.chain.hex())
    manifest, note = base.manifest, ""
    signed = [(manifest.seq, manifest.state_root, manifest.chain, manifest.head)]
    if course.last is not None:
        head, said = course.last
        signed.append((head.size, head.root.hex(), head.head, said))
    signed.append((expected.size, expected.root.hex(), expected.head, ""))
    for seq, wanted, chain, said in signed:
        if seq != course.seq:
            continue
        if (wanted, chain) != made:
            raise RestoreMismatch(
                f"after change {seq} the state root is signed as {wanted[:16]}, the backup "
                f"makes it {root.hex()[:16]}"
            )
        note = said or note
    return note


def wanted_seq(goal: Goal, expected: Checkpoint, course: Course) -> int:
    """The change to reach: where the goal turned out to lie, or as far as it could have been."""
    if course.stopped:
        return course.seq
    return expected.size if goal.seq is None else goal.seq


def gap_of(reader: BackupReader, reached: int, wanted: int) -> Gap | None:
    """What is missing up to the wanted change, and why."""
    if reached >= wanted:
        return None
    why = "; ".join(f"{each.where}: {each.what}" for each in reader.findings.list)
    return Gap(first=reached + 1, last=wanted, why=why or "no segment leads on from there")
