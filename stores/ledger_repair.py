"""Repairing a forked or damaged ledger: find what both branches share, keep both, append a receipt.

The ledger as it is in its database stays, byte for byte. Whoever does not want to keep that branch
restores the region from its backup instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from models.checkpoint import Checkpoint, PublicKey
from models.ledger_repair import End, Head, RepairPlan, repair_key, repair_receipt
from models.merkle import Frontier
from models.receipts import GENESIS
from models.verifier import Refused, read_receipt, read_repairs, verify_chain
from stores.checkpoints import CheckpointError, Notary
from stores.keys import SigningKey
from stores.ledger import Appended, Ledger
from stores.ledger_damage import LedgerScan, scan_ledger
from stores.objects import ObjectStore
from stores.repair_evidence import Evidence, keep_evidence
from stores.sql import write


class PlanChanged(ValueError):
    """What is wrong with the ledger is not what was planned: look at the plan again."""


@dataclass(frozen=True)
class Branch:
    """Another history of the ledger, from its first receipt on, as an export has it."""

    lines: Sequence[bytes]
    hashes: Sequence[bytes]

    @property
    def end(self) -> tuple[int, str]:
        """Its size and last hash."""
        return len(self.hashes), _hash(self.hashes, len(self.hashes))


def read_branch(lines: Sequence[bytes], ledger: str) -> Branch:
    """A branch whose receipts follow each other; raises `models.verifier.Refused`."""
    verify_chain(lines, ledger=ledger)
    return Branch(lines, [sha256(line).digest() for line in lines])


@dataclass(frozen=True)
class Diagnosis:
    """A plan, and what it was made from."""

    plan: RepairPlan
    scan: LedgerScan
    branch: Branch | None


def diagnose(
    ledger: Ledger,
    checkpoints: Sequence[Checkpoint],
    keys: Sequence[PublicKey],
    others: Sequence[Branch] = (),
) -> Diagnosis:
    """Find what is wrong with a ledger; what an earlier repair says already is not wrong again.

    Args:
        checkpoints: of the ledger, signatures checked; also those of branches that were left.
        others: other histories of it that are at hand.

    Raises:
        BeyondRepair: see `stores.ledger_damage.scan_ledger`.
        models.verifier.Refused: a checkpoint is another ledger's (wrong-checkpoint).
    """
    for each in checkpoints:
        if each.ledger != ledger.name:
            raise Refused("wrong-checkpoint", f"it is of {each.origin}, not of {ledger.name}")
    scan = scan_ledger(ledger)
    repairs = read_repairs(scan.repairs, keys)
    known_heads = {head for repair in repairs for head in repair.heads}
    known_damage = {lost for repair in repairs for lost in repair.damaged}
    agreed, contradicted = _sorted_out(scan.hashes, checkpoints)
    heads = [
        each
        for each in map(Head.of, contradicted)
        if (each.size, each.root, each.head) not in known_heads
    ]
    ends = {repair.abandoned for repair in repairs}
    branch = _branch_of(scan.hashes, heads, [each for each in others if each.end not in ends])
    damaged = tuple(e for e in scan.damaged if (e.seq, e.hash) not in known_damage)
    common = _common(scan.hashes, agreed, heads, branch)
    if branch is None and not heads:
        common = damaged[0].seq if damaged else len(scan.hashes)
    plan = RepairPlan(
        ledger=ledger.name,
        common=End(size=common, hash=_hash(scan.hashes, common)),
        abandoned=_abandoned(heads, branch),
        heads=tuple(sorted(heads, key=lambda each: (each.size, each.root))),
        damaged=damaged,
        branch_known=branch is not None and _reaches(branch, heads),
        unsigned=tuple(repair.seq for repair in repairs if not repair.signed),
    )
    return Diagnosis(plan, scan, branch)


def carry_out(
    ledger: Ledger,
    found: Diagnosis,
    notary: Notary,
    key: SigningKey,
    *,
    planned: str,
    actor: str,
    reason: str,
    directory: Path,
    objects: ObjectStore | None,
) -> tuple[Appended, Evidence]:
    """Keep both branches as evidence, and append the receipt that says so.

    Args:
        planned: the digest of the plan that a person has seen.
        directory: where the evidence goes, in a directory of its own.

    Raises:
        PlanChanged: it is not what is wrong now; nothing was changed.
        ObjectsUnavailable, StoreUnavailable: try again; nothing is done twice.
    """
    plan = found.plan
    if plan.digest != planned:
        raise PlanChanged(f"plan: {planned[:12]} was seen, what is wrong now is {plan.digest[:12]}")
    branch = None if found.branch is None else found.branch.lines
    evidence = keep_evidence(ledger, plan, found.scan, branch, notary, key, directory)
    names = evidence.put(objects) if objects is not None else []
    with write(ledger.engine) as connection:  # nobody appends between the look and the receipt
        there = ledger.find(repair_key(planned), connection=connection)
        if there is not None:  # by another call, whose answer was lost
            return Appended(seq=there.seq, hash=there.hash, replayed=True), evidence
        head = ledger.head(connection=connection)
        draft = repair_receipt(
            plan,
            kept=End(size=head.size, hash=head.hash),
            evidence=evidence.digest,
            objects=names,
            actor=actor,
            reason=reason,
            key=key.private,
        )
        writer = Ledger(ledger.engine, ledger.name, epoch=head.epoch)
        [appended] = writer.append([draft], connection=connection)
    return appended, evidence


def find_repair(ledger: Ledger, planned: str) -> int | None:
    """The receipt of a plan that was carried out, as by a call whose answer was lost."""
    found = ledger.find(repair_key(planned))
    return None if found is None else found.seq


def conclude(ledger: Ledger, notary: Notary, keys: Sequence[PublicKey], seq: int) -> Checkpoint:
    """Set aside what was signed on the branch that was left, and sign the ledger with its repair.

    Raises:
        CheckpointError: nobody signed the repair, or the ledger contradicts a checkpoint that it
            does not name.
    """
    stored = ledger.get(seq)
    assert stored is not None
    [repair] = read_repairs([stored.data], keys)
    if not repair.signed:
        raise CheckpointError(f"ledger {ledger.name}: receipt {seq} is no repair that was signed")
    notary.files.set_aside({(size, root) for size, root, _ in repair.heads}, keys)
    scan = scan_ledger(ledger)
    _, contradicted = _sorted_out(scan.hashes, notary.files.open(keys))
    frontier = Frontier()
    frontier.extend(scan.hashes)
    return notary.sign_whole(frontier, scan.head, contradicted)


def _sorted_out(
    hashes: Sequence[bytes], checkpoints: Sequence[Checkpoint]
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Checkpoints that agree with these receipts, and those that do not."""
    agreed: list[Checkpoint] = []
    contradicted: list[Checkpoint] = []
    frontier = Frontier()
    for each in sorted(checkpoints, key=lambda each: each.size):
        if each.size <= len(hashes):
            frontier.extend(hashes[frontier.size : each.size])
        said = (frontier.size, frontier.root(), _hash(hashes, each.size))
        agrees = said == (each.size, each.root, each.head)
        (agreed if agrees else contradicted).append(each)
    return agreed, contradicted


def _branch_of(
    hashes: Sequence[bytes], heads: Sequence[Head], others: Sequence[Branch]
) -> Branch | None:
    """The other history that what was signed is on; without any such, one that is a fork."""
    forks = [
        other
        for other in others
        if _shared(hashes, other.hashes) < min(len(other.hashes), len(hashes))
        or len(other.hashes) > len(hashes)
    ]
    for other in sorted(forks, key=lambda each: len(each.hashes), reverse=True):
        if all(_signs(head, other.hashes) for head in heads if head.size <= len(other.hashes)):
            return other
    return None


def _signs(head: Head, hashes: Sequence[bytes]) -> bool:
    frontier = Frontier()
    frontier.extend(hashes[: head.size])
    return (head.root, head.head) == (frontier.root().hex(), _hash(hashes, head.size))


def _reaches(branch: Branch, heads: Sequence[Head]) -> bool:
    return all(head.size <= len(branch.hashes) for head in heads)


def _common(
    hashes: Sequence[bytes],
    agreed: Sequence[Checkpoint],
    heads: Sequence[Head],
    branch: Branch | None,
) -> int:
    """How many receipts both branches share: by the other one, or as far as is signed."""
    if branch is not None:
        return _shared(hashes, branch.hashes)
    first = min((each.size for each in heads), default=len(hashes))
    return max((each.size for each in agreed if each.size < first), default=0)


def _shared(mine: Sequence[bytes], theirs: Sequence[bytes]) -> int:
    for number, (here, there) in enumerate(zip(mine, theirs, strict=False)):
        if here != there:
            return number
    return min(len(mine), len(theirs))


def _abandoned(heads: Sequence[Head], branch: Branch | None) -> End | None:
    """The end of the other branch: its last receipt, or the last one that was signed."""
    ends = [End(size=each.size, hash=each.head) for each in heads]
    if branch is not None:
        ends.append(End(size=branch.end[0], hash=branch.end[1]))
    return max(ends, key=lambda each: each.size, default=None)


def _hash(hashes: Sequence[bytes], size: int) -> str:
    """The last hash of the first ``size`` receipts."""
    return hashes[size - 1].hex() if 0 < size <= len(hashes) else GENESIS


def receipts_of(ledger: Ledger) -> list[bytes]:
    """All receipts of another database, as a branch is made of; those before the first bad one."""
    lines: list[bytes] = []
    last = GENESIS
    for stored in ledger.read():
        try:
            receipt = read_receipt(stored.data)
        except ValueError:
            break
        if (receipt["seq"], receipt["prev"]) != (len(lines), last):
            break
        lines.append(stored.data)
        last = stored.hash
    return lines
