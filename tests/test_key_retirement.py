"""Retiring a ledger's key: what it signed counts on, what it signs from then on does not."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from certificate_harness import EU, SOURCE
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from signed_home import back_up, make_signed
from typer.testing import CliRunner

from models.addresses import RegionAddresses
from models.checkpoint import Checkpoint, PublicKey, open_checkpoint, origin, parse_keys, sign
from models.receipts import Draft
from models.restore_certificate_check import verify_certificate
from models.state_head import open_head, state_ledger
from models.verifier import Refused
from stores import key_retirement
from stores.checkpoints import CheckpointError, Notary
from stores.key_retirement import RETIRED_KIND
from stores.keys import KeyFileError, SigningKey, create_private_key, load_key, read_retired
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.sql import open_engine
from stores.witness import Witness, sign_head
from workers.backup import RegionBackup
from workers.cli import app
from workers.settings import load_control, load_region
from workers.stack_plan import Options, SetupError, set_up

ROOT, CHAIN = bytes(32), "0" * 64


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """A home whose ledgers have signed, and whose region was backed up."""
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path / "home"))
    made = make_signed(tmp_path)
    put("first")
    back_up(load_region("eu"))
    return made


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def retire(old: object, ledger: str = "eu") -> Any:
    return run(
        *f"receipts retire-key {ledger} --old {old} --actor ana --reason lost --json".split()
    )


def vkey(ledger: str = "eu") -> str:
    return key_of(ledger).public(ledger).vkey()


def key_of(ledger: str) -> SigningKey:
    return load_key((load_control() if ledger == "control" else load_region(ledger)).signing_key)


def put(key: str) -> None:
    TenantKV(open_engine(load_region("eu").database), "acme").put(key, b"v")


def ledger_of(name: str) -> Ledger:
    addresses = load_control() if name == "control" else load_region(name)
    return Ledger(open_engine(addresses.database), name)


def grow(name: str = "eu") -> Checkpoint:
    """One receipt more, and what signs it."""
    ledger = ledger_of(name)
    number = str(ledger.head().size)
    draft = Draft(kind="test.done", actor="ana", subject="x", body={}, idempotency_key=number)
    ledger.append([draft])
    return Notary(ledger, key_of(name)).checkpoint()


def retirements(name: str) -> list[dict[str, Any]]:
    return [each.receipt.body for each in ledger_of(name).read(kinds=[RETIRED_KIND])]


def witnessed() -> bytes:
    addresses = load_region("eu")
    assert addresses.backup is not None
    [path] = addresses.backup.witness.glob("*.note")
    return path.read_bytes()


# --- It goes on ---
@pytest.mark.parametrize("ledger", ["control", "eu"])
def test_a_lost_key_is_followed_and_all_that_was_signed_stands(
    options: Options, ledger: str
) -> None:
    old = vkey(ledger)
    before = {name: ledger_of(name).head().size for name in ("control", "eu")}
    key_of(ledger).path.unlink()
    with pytest.raises(SetupError, match=f"receipts retire-key {ledger} --old"):
        set_up(options)
    said = retire(old, ledger)
    assert said.exit_code == 0, said.output
    assert json.loads(said.output)["signs"] == vkey(ledger) != old
    set_up(options)
    for name in {"control", ledger}:
        [body] = retirements(name)
        assert body["signs"] == vkey(ledger) and body["reason"] == "lost"
        limits = parse_keys(body["retired"])[0].until or {}
        assert limits[origin(ledger)] == before[ledger]
    grow(ledger)
    assert run("receipts", "verify", ledger).exit_code == 0


def test_the_backup_goes_on_from_a_head_that_the_old_key_signed(options: Options) -> None:
    old, known = vkey(), witnessed()
    key_of("eu").path.unlink()
    assert retire(old).exit_code == 0
    put("second")
    back_up(load_region("eu"))
    [new, retired] = key_of("eu").trusted("eu")
    assert open_head(known, [retired]).size < open_head(witnessed(), [new]).size
    assert run("backup", "status", "eu").exit_code == 0


def test_an_outsider_verifies_both_with_one_file_of_keys(options: Options, tmp_path: Path) -> None:
    old = vkey()
    key_of("eu").path.unlink()
    assert retire(old).exit_code == 0
    grow()
    out = tmp_path / "out"
    assert run("receipts", "export", "eu", "--out", out).exit_code == 0
    keys = (out / "eu.vkey").read_text().splitlines()
    assert len(keys) == 2 and keys[1].startswith(f"{old} until chainring/eu=")
    assert run("receipts", "key", "eu").output.splitlines() == keys
    assert stand_alone(out).returncode == 0

    (out / "eu.vkey").write_text(keys[0] + "\n")
    refused = stand_alone(out)
    assert refused.returncode == 1 and "unknown-key" in refused.stdout


def stand_alone(out: Path) -> "subprocess.CompletedProcess[str]":
    names = ("verifier.py", "eu.jsonl", "--key", "eu.vkey", "--checkpoint", "checkpoints")
    return subprocess.run(
        [sys.executable, *names], cwd=out, capture_output=True, text=True, check=False
    )


def test_a_second_retirement_keeps_the_first(options: Options) -> None:
    keys = []
    for _ in range(3):
        keys.append(vkey())
        assert retire(keys[-1]).exit_code == 0
        grow()
    assert [each.vkey() for each in key_of("eu").retired] == keys
    assert len(retirements("eu")) == len(retirements("control")) == 3
    assert run("receipts", "verify", "eu").exit_code == 0


# --- The old key is worth nothing any more ---
def test_what_the_old_key_signs_later_is_refused_everywhere(options: Options) -> None:
    stolen = key_of("eu")
    addresses = load_region("eu")
    assert addresses.backup is not None
    note = witnessed()
    assert retire(stolen.public("eu").vkey()).exit_code == 0
    keys, end = key_of("eu").trusted("eu"), open_head(note, [stolen.public("eu")])
    store = end.ledger.removeprefix(state_ledger("eu", ""))

    thief = SigningKey(Path("gone"), stolen._private)
    forged = sign_head(thief, "eu", store, seq=end.size + 1, root=ROOT, chain=ROOT)
    with pytest.raises(Refused, match="retired-key"):
        Witness(addresses.backup.witness).admit("eu", store, forged, keys)
    assert witnessed() == note

    size = ledger_of("eu").head().size
    later_on = sign(Checkpoint(origin("eu"), size, ROOT, CHAIN), stolen._private)
    with pytest.raises(Refused, match="retired-key"):
        open_checkpoint(later_on.encode(), keys)
    Notary(ledger_of("eu"), key_of("eu")).files.add(size + 1, later_on)
    ledger_of("eu").append(
        [Draft(kind="test.done", actor="ana", subject="x", body={}, idempotency_key="z")]
    )
    with pytest.raises(CheckpointError, match="retired-key"):
        Notary(ledger_of("eu"), key_of("eu")).checkpoint()
    assert run("receipts", "verify", "eu").exit_code == 1


def test_a_certificate_by_a_retired_key_counts_up_to_its_end() -> None:
    end = {origin(state_ledger("eu", SOURCE)): 200, origin("eu"): 1_000}
    new = Ed25519PrivateKey.generate()

    def verify(until: dict[str, int]) -> None:
        retired = PublicKey(EU.public.raw, EU.public.name, until)
        verify_certificate(
            EU.certificate(), [SigningKey(Path("eu"), new).public("eu"), retired], []
        )

    size = open_head(EU.head(1), [EU.public]).size
    assert size == 1
    said = verify_certificate(EU.certificate(), [EU.public], [])
    verify(end | {said.expected.origin: said.expected.size})
    with pytest.raises(Refused, match="retired-key"):
        verify(end | {said.expected.origin: said.expected.size - 1})
    with pytest.raises(Refused, match="retired-key"):
        verify({})


def test_a_process_with_the_old_key_signs_nothing_more(options: Options) -> None:
    addresses = load_region("eu")
    assert addresses.backup is not None
    zombie = RegionBackup(addresses, addresses.backup)
    notary = Notary(ledger_of("eu"), key_of("eu"))
    try:
        assert retire(vkey()).exit_code == 0
        put("late")
        with pytest.raises(KeyFileError, match="was replaced"):
            zombie.round()
        with pytest.raises((CheckpointError, KeyFileError)):
            notary.checkpoint()
    finally:
        zombie._close()
    back_up(addresses)
    assert run("receipts", "verify", "eu").exit_code == 0


# --- It is asked for wrongly ---
def test_without_actor_and_reason_it_only_says_what_would_be(options: Options) -> None:
    before = vkey()
    said = json.loads(run("receipts", "retire-key", "eu", "--old", before, "--json").output)
    assert said["counts until"][origin("eu")] == 1 and said["done"].startswith("no")
    assert vkey() == before and not read_retired(key_of("eu").path)
    refused = run("receipts", "retire-key", "eu", "--old", before, "--actor", "ana")
    assert refused.exit_code == 2 and vkey() == before


@pytest.mark.parametrize("lost", [False, True])
def test_a_key_that_has_not_signed_is_not_retired(options: Options, lost: bool) -> None:
    path, wrong = key_of("eu").path, Ed25519PrivateKey.generate()
    other = SigningKey(Path("other"), wrong).public("eu").vkey()
    if lost:
        path.unlink()
    assert retire(other).exit_code == 1
    assert path.exists() != lost and not read_retired(path)
    assert not retirements("eu") and not retirements("control")


def test_a_key_is_not_retired_while_the_stack_runs(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.cli.key_retirement.running_stack", object)
    refused = retire(vkey())
    assert refused.exit_code == 2 and not read_retired(key_of("eu").path)


def test_another_text_is_no_key(options: Options) -> None:
    refused = retire("eu")
    assert refused.exit_code == 2 and "old: bad-key" in refused.output + refused.stderr


# --- It is interrupted ---
class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    "step", ["create_private_key", "write_atomic", "sync_directory", "load_key", "record"]
)
@pytest.mark.parametrize("after", [False, True])
def test_ended_anywhere_it_is_finished_by_the_same_command(
    options: Options, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, lost: bool
) -> None:
    old, path = vkey(), key_of("eu").path
    if lost:
        path.unlink()
    where = "workers.cli.key_retirement" if step == "record" else "stores.key_retirement"
    real = getattr(key_retirement, step)

    def killed(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(f"{where}.{step}", killed)
        with pytest.raises(Killed):
            retire(old)
    said = retire(old)
    assert said.exit_code == 0, said.output
    assert len(retirements("eu")) == len(retirements("control")) == 1
    assert [each.vkey() for each in key_of("eu").retired] == [old]
    assert [each.name for each in path.parent.glob(f"{path.name}*")].count(path.name) == 1
    assert not path.with_name(f"{path.name}.following").exists()
    set_up(options)
    assert run("receipts", "verify", "eu").exit_code == 0


def test_half_done_nothing_is_signed_by_the_retired_key(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = vkey()

    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name.endswith(".following"):
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        with pytest.raises(Killed):
            retire(old)
    with pytest.raises(KeyFileError, match="retired key; finish"):
        key_of("eu")
    assert retire(old).exit_code == 0


def test_a_receipt_that_its_store_cannot_take_is_owed(options: Options) -> None:
    old, addresses = vkey(), load_region("eu")
    path = Path(addresses.database.removeprefix("sqlite:///"))
    away = path.with_name("away.db")
    path.rename(away)
    said = retire(old)
    assert said.exit_code == 3 and len(retirements("control")) == 0
    assert f"--old {old}" in said.output + said.stderr
    assert vkey() != old
    away.rename(path)
    again = retire(old)
    assert again.exit_code == 0, again.output
    assert len(retirements("control")) == len(retirements("eu")) == 1
    assert len(key_of("eu").retired) == 1


def test_a_segment_that_was_shipped_and_not_witnessed_counts(options: Options) -> None:
    """The process died between the two; its successor finds the segment and goes on after it."""
    before = {path: path.read_bytes() for path in witness_files(load_region("eu"))}
    put("second")
    back_up(load_region("eu"))
    shipped = open_head(witnessed(), key_of("eu").trusted("eu"))
    for path, content in before.items():
        path.write_bytes(content)
    assert retire(vkey()).exit_code == 0
    [retired] = key_of("eu").retired
    assert retired.vouches(shipped.origin, shipped.size)
    back_up(load_region("eu"))
    assert open_head(witnessed(), key_of("eu").trusted("eu")).size >= shipped.size


def witness_files(addresses: RegionAddresses) -> Sequence[Path]:
    assert addresses.backup is not None
    return list(addresses.backup.witness.glob("*.note"))


# --- The file of keys ---
ORIGINS = st.from_regex(r"chainring/[a-z]{1,8}(-[a-z0-9]{1,8})?", fullmatch=True)


@given(st.lists(st.one_of(st.none(), st.dictionaries(ORIGINS, st.integers(0, 10**15))), min_size=1))
def test_keys_with_and_without_an_end_are_read_as_they_were_written(
    ends: list[dict[str, int] | None],
) -> None:
    keys = [PublicKey(EU.public.raw, EU.public.name, end) for end in ends]
    assert parse_keys("\n".join(key.line() for key in keys)) == keys


@pytest.mark.parametrize(
    "text", ["", "\n", "{} until chainring/eu", "{} until chainring/eu=-1", "{} since x", "{} {}"]
)
def test_any_other_file_of_keys_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="bad-key"):
        parse_keys(text.replace("{}", EU.public.vkey()))


def test_a_damaged_file_of_retired_keys_stops_all_that_signs(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_private_key(path, Ed25519PrivateKey.generate())
    for text in ("nothing", EU.public.vkey()):
        (tmp_path / "key.retired").write_text(text)
        with pytest.raises(KeyFileError, match=r"key\.retired"):
            load_key(path)
