"""Verification names the first bad receipt and why, alike for outsiders and for ourselves."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import verifier
from models.checkpoint import public_key, sign
from models.merkle import consistency_proof, inclusion_proof, root
from models.receipts import GENESIS, Draft, receipt_hash, seal
from models.verifier import Checkpoint, Refused, open_checkpoint, verify_chain, verify_proof
from stores import chain_check
from stores.chain_check import check_export

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = public_key(KEY, "eu")
AT = "2026-11-23T08:00:00.000000Z"
LOOK_ALIKE = {
    "ledger": "latam",
    "prev": "f" * 64,
    "seq": 77,
    "text": '","ledger":"latam","prev":"' + "f" * 64 + '","run_id":"","seq":77,"subject":"',
}


def chain(
    count: int, *, ledger: str = "eu", salt: int = 0, start: Sequence[bytes] = ()
) -> list[bytes]:
    lines = list(start)
    for seq in range(len(lines), count):
        draft = Draft(
            kind="shard.activated",
            actor="region/eu",
            subject=f"eu-{seq:03d}",
            body={**LOOK_ALIKE, "n": seq, "salt": salt},
            idempotency_key=f"key-{seq}",
        )
        prev = receipt_hash(lines[-1]) if lines else GENESIS
        lines.append(seal(draft, ledger=ledger, seq=seq, prev=prev, at=AT))
    return lines


def signed(lines: Sequence[bytes], ledger: str = "eu") -> Checkpoint:
    top = root([sha256(line).digest() for line in lines])
    head = receipt_hash(lines[-1]) if lines else GENESIS
    return Checkpoint(f"chainring/{ledger}", len(lines), top, head)


def note(lines: Sequence[bytes], ledger: str = "eu") -> bytes:
    return sign(signed(lines, ledger), KEY).encode()


def changed(line: bytes, **fields: object) -> bytes:
    return rfc8785.dumps({**json.loads(line), **fields})


GOOD = chain(10)
SIGNED = signed(GOOD)


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[..., tuple[str, int | None]]:
    """Both verifiers must refuse, and name the same receipt for the same reason."""

    def check(lines: Sequence[bytes], *checkpoints: Checkpoint) -> tuple[str, int | None]:
        with pytest.raises(Refused) as alone:
            verify_chain(lines, ledger="eu", checkpoints=checkpoints)
        export = tmp_path / "export.jsonl"
        export.write_bytes(b"".join(line + b"\n" for line in lines))
        for strict in (False, True):
            with pytest.raises(Refused) as ours:
                check_export(export, ledger="eu", checkpoints=checkpoints, strict=strict)
            assert str(ours.value) == str(alone.value)
        return alone.value.code, alone.value.seq

    return check


# --- What holds ---


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10])
def test_a_good_chain_verifies_against_all_its_checkpoints(size: int, tmp_path: Path):
    lines = GOOD[:size]
    checkpoints = [signed(GOOD[:each]) for each in range(size + 1)]
    report = verify_chain(lines, ledger="eu", checkpoints=checkpoints)
    assert report.checkpoints == list(range(size + 1))
    assert (report.size, report.root) == (size, checkpoints[-1].root)
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"".join(line + b"\n" for line in lines))
    assert check_export(export, ledger="eu", checkpoints=checkpoints) == report
    assert check_export(export, ledger="eu", checkpoints=checkpoints, strict=True) == report
    assert check_export(export, ledger="eu").head == report.head


def test_the_ledger_is_taken_from_the_checkpoint_or_the_first_receipt():
    assert verify_chain(GOOD).ledger == "eu"
    assert verify_chain([], checkpoints=[signed([])]).ledger == "eu"


def test_two_processes_say_what_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chain_check, "PARALLEL_FROM", 0)
    lines = chain(40)
    export = tmp_path / "export.jsonl"
    for bad in (None, 3, 20, 37):
        damaged = [
            changed(line, subject="x") if seq == bad else line for seq, line in enumerate(lines)
        ]
        export.write_bytes(b"".join(line + b"\n" for line in damaged))
        both = []
        for processes in (1, 2):
            try:
                both.append(
                    str(check_export(
                        export, ledger="eu", checkpoints=[signed(lines)], processes=processes
                    ))
                )  # fmt: skip
            except Refused as refusal:
                assert bad is not None
                assert (refusal.code, refusal.seq) == ("altered", bad)
                both.append(str(refusal))
        assert both[0] == both[1]


# --- What does not, and its name ---


def test_altered_byte(refuse):
    lines = [*GOOD]
    lines[4] = lines[4].replace(b'"n":4', b'"n":5')
    assert refuse(lines) == ("altered", 4)
    assert refuse(lines, SIGNED) == ("altered", 4)
    assert refuse(lines, signed(GOOD[:5]), SIGNED) == ("altered", 4)
    assert refuse(lines, signed(GOOD[:4]), SIGNED) == ("altered", 4)


@pytest.mark.parametrize("field", ["prev", "seq", "subject"])
def test_altered_field(refuse, field: str):
    lines = [*GOOD]
    value = {"prev": "e" * 64, "seq": 6, "subject": "other"}[field]
    lines[4] = changed(lines[4], **{field: value})
    assert refuse(lines, SIGNED) == ("altered", 4)
    lines[4] = changed(GOOD[4], **{field: 2 if field == "seq" else value})
    assert refuse(lines, SIGNED) == ("altered", 4)


def test_altered_last_receipt_is_found_by_a_checkpoint(refuse):
    lines = [*GOOD[:9], GOOD[9].replace(b'"n":9', b'"n":8')]
    assert verify_chain(lines).size == 10
    assert refuse(lines, SIGNED) == ("rewritten", 0)
    assert refuse(lines, signed(GOOD[:9]), SIGNED) == ("rewritten", 9)


def test_not_json_any_more(refuse):
    lines = [*GOOD[:4], GOOD[4][:-1], *GOOD[5:]]
    assert refuse(lines, SIGNED) == ("malformed", 4)


@pytest.mark.parametrize("gone", [0, 1, 5, 8])
def test_missing(refuse, gone: int):
    lines = GOOD[:gone] + GOOD[gone + 1 :]
    assert refuse(lines) == ("missing", gone)
    assert refuse(lines, SIGNED) == ("missing", gone)


def test_missing_many(refuse):
    assert refuse(GOOD[:2] + GOOD[6:], SIGNED) == ("missing", 2)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 4), (2, 8), (8, 9)])
def test_reordered(refuse, one: int, other: int):
    lines = [*GOOD]
    lines[one], lines[other] = lines[other], lines[one]
    assert refuse(lines, SIGNED) == ("reordered", one)


@pytest.mark.parametrize("twice", [0, 4, 9])
def test_duplicated(refuse, twice: int):
    assert refuse([*GOOD[: twice + 1], GOOD[twice], *GOOD[twice + 1 :]]) == ("duplicated", twice)
    assert refuse([*GOOD, GOOD[twice]], SIGNED) == ("duplicated", twice)


@pytest.mark.parametrize("left", [0, 1, 9])
def test_truncated_tail(refuse, left: int):
    assert verify_chain(GOOD[:left], ledger="eu").size == left
    assert refuse(GOOD[:left], SIGNED) == ("truncated", left)


def test_forked(refuse):
    twin = changed(GOOD[4], subject="other")
    assert refuse([*GOOD[:5], twin, *GOOD[5:]], SIGNED) == ("forked", 4)
    renumbered = changed(GOOD[4], subject="other", seq=5)
    assert refuse([*GOOD[:5], renumbered, *GOOD[5:]], SIGNED) == ("forked", 5)
    second_first = changed(GOOD[0], subject="other", seq=1)
    assert refuse([GOOD[0], second_first], SIGNED) == ("forked", 1)


def test_rehashed_forgery(refuse):
    forged = chain(10, salt=1)
    assert verify_chain(forged).size == 10
    assert refuse(forged, SIGNED) == ("rewritten", 0)


def test_rehashed_from_the_middle(refuse):
    forged = chain(12, salt=1, start=GOOD[:6])
    assert refuse(forged, signed(GOOD[:3]), signed(GOOD[:5]), SIGNED) == ("rewritten", 5)
    assert refuse(forged, signed(forged), SIGNED) == ("rewritten", 0)


def test_two_checkpoints_of_one_size_that_differ(refuse):
    assert refuse(GOOD, SIGNED, signed(chain(10, salt=1))) == ("rewritten", 10)


def test_wrong_ledger(refuse):
    other = chain(10, ledger="latam")
    assert refuse(other) == ("wrong-ledger", 0)
    assert refuse([*GOOD[:4], changed(GOOD[4], ledger="latam"), *GOOD[5:]]) == ("wrong-ledger", 4)


def test_checkpoint_of_another_ledger(refuse):
    other = signed(chain(10, ledger="latam"), "latam")
    assert refuse(GOOD, other) == ("wrong-checkpoint", None)


def test_bad_signature():
    forged = note(GOOD).replace(b"\n10\n", b"\n11\n")
    with pytest.raises(Refused, match="bad-signature"):
        open_checkpoint(forged, [PUBLIC])


def test_unknown_key():
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    with pytest.raises(Refused, match="unknown-key"):
        open_checkpoint(note(GOOD), [public_key(other, "eu")])


def test_a_wrong_root_under_a_right_head(refuse):
    wrong = Checkpoint(SIGNED.origin, SIGNED.size, bytes(32), SIGNED.head)
    assert refuse(GOOD, wrong) == ("rewritten", 0)


@pytest.mark.parametrize(
    ("fields", "code"), [({"seq": 7}, "altered"), ({"ledger": "latam"}, "wrong-ledger")]
)
def test_a_wrong_field_that_hashes_on(refuse, fields: dict[str, object], code: str):
    """The hashes hold from end to end and are signed; what the receipt says of itself does not."""
    lines = chain(6, start=[*GOOD[:3], changed(GOOD[3], **fields)])
    assert refuse(lines) == (code, 3)
    assert refuse(lines, signed(lines)) == (code, 3)


def test_two_halves_of_two_chains(refuse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Each half holds by itself, and the place where they meet is where the file is cut in two."""
    monkeypatch.setattr(chain_check, "PARALLEL_FROM", 0)
    one, other = chain(40), chain(40, salt=1)
    export = tmp_path / "two.jsonl"
    content = b"".join(line + b"\n" for line in one)
    export.write_bytes(content)
    cut = content[: chain_check._line_start(export, len(content) // 2)].count(b"\n")
    lines = [*one[:cut], *other[cut:]]
    export.write_bytes(b"".join(line + b"\n" for line in lines))
    # Two receipts speak against the one before the cut, unless a checkpoint speaks for it.
    assert refuse(lines) == ("altered", cut - 1)
    assert refuse(lines, signed(one[:cut])) == ("altered", cut)
    with pytest.raises(Refused, match=f"altered: receipt {cut - 1}"):
        check_export(export, ledger="eu", processes=2)


@pytest.mark.parametrize(
    "spell",
    [
        lambda line: line.replace(b'"seq":3', b'"seq": 3'),
        lambda line: line[:-1] + b',"prev":"' + b"0" * 64 + b'"}',
        lambda line: b'{"seq":3,' + line[1:],
        lambda line: line.replace(b'"seq":3', b'"seq":3.0'),
    ],
)
def test_another_spelling_that_hashes_on_is_found_by_the_strict_check(spell, tmp_path: Path):
    """The signer itself wrote it so: the chain holds, but two readers could read it differently."""
    lines = [*GOOD[:3], spell(GOOD[3])]
    lines = chain(6, start=lines)
    with pytest.raises(Refused, match="malformed: receipt 3"):
        verify_chain(lines, ledger="eu", checkpoints=[signed(lines)])
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(Refused, match="malformed: receipt 3"):
        check_export(export, ledger="eu", strict=True)


def test_a_file_that_ends_in_a_line(tmp_path: Path):
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"\n".join(GOOD))
    for strict in (False, True):
        with pytest.raises(Refused, match="truncated"):
            check_export(export, ledger="eu", strict=strict)


# --- Whatever is done to the bytes ---

SHORT = chain(4)
FILE = b"".join(line + b"\n" for line in SHORT)
CHECKPOINTS = [signed(SHORT[:2]), signed(SHORT)]
POSITIONS = st.integers(0, len(FILE) - 1)
QUICK = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused_by_all(content: bytes, tmp_path: Path) -> None:
    export = tmp_path / "export.jsonl"
    export.write_bytes(content)
    with pytest.raises(Refused) as alone:
        verify_chain(verifier.read_lines(export), ledger="eu", checkpoints=CHECKPOINTS)
    with pytest.raises(Refused) as fast:
        check_export(export, ledger="eu", checkpoints=CHECKPOINTS)
    assert str(fast.value) == str(alone.value)


@QUICK
@given(POSITIONS, st.integers(1, 255))
def test_any_changed_byte_is_found(tmp_path: Path, at: int, mask: int):
    content = bytearray(FILE)
    content[at] ^= mask
    refused_by_all(bytes(content), tmp_path)


@QUICK
@given(POSITIONS)
def test_any_deleted_byte_is_found(tmp_path: Path, at: int):
    refused_by_all(FILE[:at] + FILE[at + 1 :], tmp_path)


@QUICK
@given(POSITIONS, st.binary(min_size=1, max_size=3))
def test_any_inserted_bytes_are_found(tmp_path: Path, at: int, extra: bytes):
    refused_by_all(FILE[:at] + extra + FILE[at:], tmp_path)


@QUICK
@given(POSITIONS, POSITIONS)
def test_any_two_swapped_bytes_are_found(tmp_path: Path, one: int, other: int):
    content = bytearray(FILE)
    content[one], content[other] = content[other], content[one]
    if content != FILE:
        refused_by_all(bytes(content), tmp_path)


@QUICK
@given(POSITIONS)
def test_any_truncation_is_found(tmp_path: Path, length: int):
    refused_by_all(FILE[:length], tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3), max_size=6).filter(lambda order: order != [0, 1, 2, 3]))
def test_any_other_order_or_choice_of_receipts_is_found(tmp_path: Path, order: list[int]):
    refused_by_all(b"".join(SHORT[index] + b"\n" for index in order), tmp_path)


# --- Proof documents ---


def hashes(lines: Sequence[bytes]) -> list[bytes]:
    return [sha256(line).digest() for line in lines]


def inclusion(lines: Sequence[bytes], seq: int, **other: object) -> bytes:
    proof = [verifier.base64.b64encode(h).decode() for h in inclusion_proof(hashes(lines), seq)]
    said = {"kind": "inclusion", "receipt": lines[seq].decode(), "proof": proof}
    return json.dumps({**said, "checkpoint": note(lines).decode(), **other}).encode()


def consistency(lines: Sequence[bytes], begin: int, **other: object) -> bytes:
    proof = [verifier.base64.b64encode(h).decode() for h in consistency_proof(hashes(lines), begin)]
    said = {"kind": "consistency", "first": note(lines[:begin]).decode(), "proof": proof}
    return json.dumps({**said, "second": note(lines).decode(), **other}).encode()


def test_proof_documents_verify():
    for seq in range(10):
        assert f"receipt {seq} is in" in verify_proof(inclusion(GOOD, seq), [PUBLIC])
    for first in range(11):
        assert f"goes on from size {first}" in verify_proof(consistency(GOOD, first), [PUBLIC])


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (inclusion(GOOD, 3, receipt=GOOD[4].decode()), "bad-proof"),
        (inclusion(GOOD, 3, receipt=changed(GOOD[3], subject="x").decode()), "bad-proof"),
        (inclusion(GOOD, 3, checkpoint=note(GOOD[:9]).decode()), "bad-proof"),
        (inclusion(GOOD, 3, proof=[]), "bad-proof"),
        (inclusion(GOOD, 3, proof=["?"]), "bad-proof"),
        (inclusion(GOOD, 3, receipt="{}"), "bad-proof"),
        (inclusion(GOOD, 3, receipt=changed(GOOD[3], ledger="apac").decode()), "wrong-ledger"),
        (inclusion(GOOD, 3, checkpoint="x"), "bad-checkpoint"),
        (consistency(GOOD, 3, first=note(chain(3, salt=1)).decode()), "bad-proof"),
        (consistency(GOOD, 3, second=note(GOOD[:9]).decode()), "bad-proof"),
        (inclusion(GOOD, 3)[:-1] + b',"kind":"inclusion"}', "bad-proof"),
        (b'{"kind":"other","proof":[]}', "bad-proof"),
        (b"[]", "bad-proof"),
        (b"nonsense", "bad-proof"),
    ],
)
def test_a_bad_proof_document_is_refused(document: bytes, code: str):
    with pytest.raises(Refused) as refused:
        verify_proof(document, [PUBLIC])
    assert refused.value.code == code


# --- Alone ---


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a copy of the verifier where only cryptography, and nothing of ours, can be imported."""
    site = tmp_path / "site"
    site.mkdir()
    packages = Path(sys.modules["cryptography"].__file__ or "").parents[1]
    for name in ("cryptography", "cffi", "pycparser"):
        (site / name).symlink_to(packages / name)
    for extension in packages.glob("_cffi_backend*"):
        (site / extension.name).symlink_to(extension)
    place = tmp_path / "alone"
    place.mkdir()
    shutil.copyfile(verifier.__file__, place / "verifier.py")
    runner = (
        f"import sys; sys.path.append({str(site)!r}); sys.argv = sys.argv[1:]; import runpy\n"
        "before = set(sys.modules)\n"
        "try: runpy.run_path('verifier.py', run_name='__main__')\n"
        "finally:\n"
        "    new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "    ours = new & {'models', 'stores', 'workers', 'rfc8785', 'pydantic', 'msgspec'}\n"
        "    assert not ours, ours\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", runner, "verifier.py", *arguments],
            cwd=place,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    (place / "eu.jsonl").write_bytes(FILE)
    (place / "eu.vkey").write_text(PUBLIC.vkey() + "\n")
    (place / "checkpoints").mkdir()
    for size in (2, 4):
        (place / "checkpoints" / f"{size}.checkpoint").write_bytes(note(SHORT[:size]))
    (place / "proof.json").write_bytes(inclusion(SHORT, 1))
    return run


def test_the_verifier_runs_alone(alone):
    done = alone("eu.jsonl", "--key", "eu.vkey", "--checkpoint", "checkpoints")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verified: ledger eu, 4 receipts" in done.stdout
    assert "signed: 4, by 2 checkpoint(s)" in done.stdout
    proven = alone("--proof", "proof.json", "--key", "eu.vkey")
    assert proven.returncode == 0, proven.stdout + proven.stderr
    assert "receipt 1 is in chainring/eu of size 4" in proven.stdout


def test_the_verifier_alone_says_what_is_wrong(alone, tmp_path: Path):
    export = tmp_path / "alone" / "eu.jsonl"
    export.write_bytes(FILE.replace(b'"n":1', b'"n":2', 1))
    done = alone("eu.jsonl", "--key", "eu.vkey", "--checkpoint", "checkpoints/4.checkpoint")
    assert done.returncode == 1
    assert done.stdout.startswith("NOT VERIFIED: altered: receipt 1:")
    assert alone("none.jsonl").returncode == 2
    assert alone().returncode == 2
    nothing = alone("eu.jsonl", "--checkpoint", "checkpoints/4.checkpoint")
    assert (nothing.returncode, "unknown-key" in nothing.stdout) == (1, True)


def test_without_a_checkpoint_the_verifier_says_so(alone):
    done = alone("eu.jsonl")
    assert done.returncode == 0
    assert "signed: 0" in done.stdout
