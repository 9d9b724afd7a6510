"""What a repair excuses, to us and to outsiders: what it names and the key signed, and no more."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_verifier import AT, KEY, PUBLIC, chain, changed, note, signed

from models import verifier
from models.ledger_repair import DamagedReceipt, End, Head, RepairPlan, repair_receipt
from models.receipts import receipt_hash, seal
from models.verifier import Checkpoint, Refused, Report, read_repairs, verify_chain
from stores.chain_check import check_export

OLD = chain(10)
NEW = chain(12, start=OLD[:6], salt=7)
"""Another history from receipt 6 on."""

LEFT = signed(OLD)


def plan(
    common: int = 6,
    heads: Sequence[Checkpoint] = (LEFT,),
    damaged: dict[int, str] | None = None,
    old: Sequence[bytes] = OLD,
    new: Sequence[bytes] = NEW,
) -> RepairPlan:
    return RepairPlan(
        ledger="eu",
        common=End(size=common, hash=receipt_hash(new[common - 1])),
        abandoned=End(size=len(old), hash=receipt_hash(old[-1])) if heads else None,
        heads=tuple(map(Head.of, heads)),
        damaged=tuple(DamagedReceipt(seq=s, hash=h) for s, h in (damaged or {}).items()),
        branch_known=True,
    )


def repaired(
    lines: Sequence[bytes],
    said: RepairPlan,
    key: Ed25519PrivateKey = KEY,
    kept: End | None = None,
) -> list[bytes]:
    """The ledger with its repair."""
    end = End(size=len(lines), hash=receipt_hash(lines[-1]))
    draft = repair_receipt(
        said,
        kept=kept or end,
        evidence="e" * 64,
        objects=[],
        actor="ana",
        reason="restored to Monday",
        key=key,
    )
    return [*lines, seal(draft, ledger="eu", seq=end.size, prev=end.hash, at=AT)]


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Report]:
    """Both verifiers, which must agree."""

    def run(
        lines: Sequence[bytes],
        *checkpoints: Checkpoint,
        branches: Sequence[Sequence[bytes]] = (),
        keys: Sequence[verifier.PublicKey] = (PUBLIC,),
    ) -> Report:
        export = tmp_path / "export.jsonl"
        export.write_bytes(b"".join(line + b"\n" for line in lines))
        given = {"checkpoints": checkpoints, "branches": branches}
        try:
            repairs = read_repairs(lines, keys)
            alone = verify_chain(lines, ledger="eu", repairs=repairs, **given)  # type: ignore[arg-type]
        except Refused as refusal:
            with pytest.raises(Refused) as ours:
                check_export(export, ledger="eu", keys=keys, **given)  # type: ignore[arg-type]
            assert str(ours.value) == str(refusal)
            raise
        assert check_export(export, ledger="eu", keys=keys, **given) == alone  # type: ignore[arg-type]
        return alone

    return run


WHOLE = repaired(NEW, plan())
"""A fork that was repaired: receipt 12 says so."""

Check = Callable[..., Report]


def test_a_repaired_fork_verifies_and_says_so(check: Check) -> None:
    report = check(chain(20, start=WHOLE), LEFT, signed(OLD[:6]), signed(WHOLE))
    assert (report.repairs, report.abandoned, report.damaged) == ([12], [10], [])
    assert report.checkpoints == [6, 13]
    words = "\n".join(verifier.repair_lines(report))
    assert "REPAIRED: receipt 12" in words and "size 10 is on a branch that was left" in words


def test_a_repair_is_said_also_where_nothing_needs_it(check: Check) -> None:
    assert check(WHOLE).repairs == [12]


def test_without_the_repair_it_does_not_verify(check: Check) -> None:
    with pytest.raises(Refused, match="rewritten"):
        check(NEW, LEFT)


def test_a_head_that_is_rolled_back_is_excused_by_name(check: Check) -> None:
    short = OLD[:8]
    report = check(repaired(short, plan(common=8, new=short)), LEFT, signed(OLD[:8]))
    assert (report.abandoned, report.checkpoints) == ([10], [8])


def test_a_fork_of_equal_height(check: Check) -> None:
    other = chain(10, start=OLD[:6], salt=3)
    report = check(repaired(other, plan(new=other)), LEFT)
    assert report.abandoned == [10]


# --- what a forger could try ---


def test_a_repair_that_nobody_signed_excuses_nothing(check: Check) -> None:
    """Who can append has the place, and all the words, but not the key."""
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    with pytest.raises(Refused, match="rewritten"):
        check(repaired(NEW, plan(), key=stranger), LEFT)
    report = check(repaired(NEW, plan(), key=stranger))
    assert (report.repairs, report.unsigned) == ([], [12])
    assert "NOT SIGNED: receipt 12" in verifier.repair_lines(report)[0]


def test_a_checkpoint_over_an_unsigned_repair_does_not_make_it_one(check: Check) -> None:
    """A signer that goes on from what it finds must not lend a forger its name."""
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    forged = repaired(NEW, plan(), key=stranger)
    with pytest.raises(Refused, match="rewritten"):
        check(forged, LEFT, signed(forged))


def test_without_keys_no_repair_is_believed(check: Check) -> None:
    with pytest.raises(Refused, match="rewritten"):
        check(WHOLE, LEFT, keys=())


def test_a_repair_cannot_be_moved_to_another_history(check: Check) -> None:
    """The signature is over what it follows: all of it, by the last hash."""
    body = json.loads(WHOLE[-1])["body"]
    forged = chain(12, start=OLD[:6], salt=66)
    end = receipt_hash(forged[-1])
    moved = changed(WHOLE[-1], prev=end)
    told = changed(WHOLE[-1], prev=end, body={**body, "kept": {"size": 12, "hash": end}})
    for last in (moved, told):
        with pytest.raises(Refused, match="rewritten"):
            check([*forged, last], LEFT)


def test_a_repair_cannot_be_given_other_words(check: Check) -> None:
    body = json.loads(WHOLE[-1])["body"]
    more = Head.of(signed(OLD[:9])).model_dump()
    for field, value in {"heads": [*body["heads"], more], "reason": "x"}.items():
        with pytest.raises(Refused, match="rewritten"):
            check([*NEW, changed(WHOLE[-1], body={**body, field: value})], LEFT, signed(OLD[:9]))


def test_what_the_repair_does_not_name_stays_a_contradiction(check: Check) -> None:
    """A witness has a head of the lost branch that the repair forgot."""
    with pytest.raises(Refused, match="rewritten"):
        check(WHOLE, LEFT, signed(OLD[:9]))


def test_the_branch_that_was_left_shows_that_a_head_was_on_it(check: Check) -> None:
    report = check(WHOLE, LEFT, signed(OLD[:9]), branches=[OLD[6:]])
    assert report.abandoned == [9, 10]


@pytest.mark.parametrize(
    "branch",
    [OLD[6:9], OLD[7:], chain(10, start=OLD[:6], salt=5)[6:], [*OLD[6:], b"x"], []],
    ids=["cut", "late", "another", "longer", "empty"],
)
def test_another_branch_than_the_named_one_shows_nothing(check: Check, branch: list[bytes]) -> None:
    with pytest.raises(Refused, match="rewritten"):
        check(WHOLE, LEFT, signed(OLD[:9]), branches=[branch])


def test_what_both_share_is_not_excused(check: Check) -> None:
    """A history that is forged from before the fork on."""
    forged = chain(12, start=OLD[:3], salt=7)
    with pytest.raises(Refused):
        check(repaired(forged, plan(new=forged)), LEFT, signed(OLD[:6]))


def test_a_repair_that_claims_another_common_past_is_bad(check: Check) -> None:
    said = plan().model_copy(update={"common": End(size=6, hash="a" * 64)})
    with pytest.raises(Refused, match="bad-repair"):
        check(repaired(NEW, said), LEFT)


def test_a_repair_must_name_heads_beyond_what_both_share(check: Check) -> None:
    said = plan(heads=[signed(chain(4, salt=9)), LEFT])
    with pytest.raises(Refused):
        check(repaired(NEW, said), LEFT)


def test_a_history_rewritten_after_its_repair_is_found(check: Check) -> None:
    with pytest.raises(Refused, match="rewritten"):
        check(chain(20, start=WHOLE, salt=1), LEFT, signed(chain(20, start=WHOLE)))


def test_a_repair_that_was_cut_off_again_excuses_nothing(check: Check) -> None:
    with pytest.raises(Refused, match="rewritten"):
        check(NEW, LEFT, signed(WHOLE))


def test_a_checkpoint_of_another_ledger_is_no_branch(check: Check) -> None:
    with pytest.raises(Refused, match="wrong-checkpoint"):
        check(WHOLE, LEFT, signed(chain(5, ledger="latam"), "latam"))


# --- damaged receipts ---


def _hurt(lines: Sequence[bytes], how: str, seq: int) -> list[bytes]:
    bad = {
        "flipped": lines[seq].replace(b"shard", b"sharf"),
        "broken": b"\xff" + lines[seq][1:],
        "missing": None,
    }[how]
    return [*lines[:seq], *([] if bad is None else [bad]), *lines[seq + 1 :]]


@pytest.mark.parametrize("how", ["flipped", "broken", "missing"])
@pytest.mark.parametrize("seq", [0, 4, 9])
def test_a_damaged_receipt_stands_by_its_hash(check: Check, how: str, seq: int) -> None:
    hurt = _hurt(OLD, how, seq)
    with pytest.raises(Refused):
        check(hurt, LEFT)
    said = plan(common=seq or 1, heads=[], damaged={seq: receipt_hash(OLD[seq])}, new=OLD)
    whole = repaired(OLD, said)
    report = check([*hurt, whole[-1]], signed(OLD[:5]), LEFT, signed(whole))
    assert (report.damaged, report.repairs) == ([seq], [10])
    assert report.checkpoints == [5, 10, 11]
    assert f"receipt {seq} is lost" in "\n".join(verifier.repair_lines(report))
    assert check(whole, LEFT).damaged == []  # it came back


def test_a_hash_that_the_chain_does_not_have_is_refused(check: Check) -> None:
    said = plan(common=4, heads=[], damaged={4: "d" * 64}, new=OLD)
    with pytest.raises(Refused):
        check([*_hurt(OLD, "flipped", 4), repaired(OLD, said)[-1]], LEFT)


def test_no_other_receipt_is_excused_by_a_damaged_one(check: Check) -> None:
    said = plan(common=4, heads=[], damaged={4: receipt_hash(OLD[4])}, new=OLD)
    hurt = _hurt(_hurt(OLD, "flipped", 4), "flipped", 7)
    with pytest.raises(Refused) as refused:
        check([*hurt, repaired(OLD, said)[-1]], LEFT)
    assert refused.value.seq == 7


def test_many_receipts_in_a_row_that_were_left_out(check: Check) -> None:
    lines = chain(1500)
    lost = {seq: receipt_hash(lines[seq]) for seq in range(2, 1400)}
    said = plan(common=2, heads=[], damaged=lost, new=lines)
    report = check([*lines[:2], *lines[1400:], repaired(lines, said)[-1]], signed(lines))
    assert len(report.damaged) == 1398


# --- the program that outsiders run ---


def test_an_outsider_is_told(tmp_path: Path) -> None:
    files = {"eu.jsonl": WHOLE, "branch.jsonl": OLD[6:]}
    for name, lines in files.items():
        (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in lines))
    (tmp_path / "checkpoints").mkdir()
    for number, lines in enumerate((OLD, OLD[:9], WHOLE)):
        (tmp_path / "checkpoints" / f"{number}.checkpoint").write_bytes(note(lines))
    command = [sys.executable, "-I", verifier.__file__, "eu.jsonl", "--key", PUBLIC.vkey()]
    command += ["--checkpoint", "checkpoints"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "rewritten" in refused.stdout
    told = subprocess.run(
        [*command, "--branch", "branch.jsonl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout
    assert "REPAIRED: receipt 12" in told.stdout and "size 9, 10" in told.stdout
    assert sha256(WHOLE[-1]).hexdigest() in told.stdout
