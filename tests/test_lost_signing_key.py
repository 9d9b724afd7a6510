"""A ledger's signing key that is lost: nothing is signed by another one in its place."""

from pathlib import Path

import pytest
from signed_home import back_up, make_signed

from models.verifier import Refused
from stores.checkpoints import CheckpointError, Notary
from stores.keys import KeyFileError, ensure_key, load_key
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.sql import open_engine
from workers.settings import load_control, load_region
from workers.stack_plan import Options, SetupError, set_up


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """A home whose ledgers have signed."""
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path / "home"))
    return make_signed(tmp_path)


@pytest.mark.parametrize("ledger", ["control", "eu"])
def test_no_other_key_is_made_in_its_place(options: Options, ledger: str) -> None:
    path = (load_control() if ledger == "control" else load_region(ledger)).signing_key
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(SetupError, match=f"ledger {ledger}: its signing key .* is lost"):
        set_up(options)
    assert not path.exists()
    path.touch(mode=0o600)
    path.write_bytes(kept)
    set_up(options)


def test_a_key_that_has_signed_no_receipt_but_a_backup_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path / "home"))
    options = make_signed(tmp_path, receipts=False)
    set_up(options)
    addresses = load_region("eu")
    addresses.signing_key.unlink()
    set_up(options)  # nothing is signed yet
    back_up(addresses)
    addresses.signing_key.unlink()
    with pytest.raises(SetupError, match=r"ledger eu: its signing key .* is lost"):
        set_up(options)


def test_what_another_key_signs_is_taken_for_nothing(options: Options) -> None:
    """Somebody has put a fresh key there. With the lost one it all goes on, and nothing is lost."""
    addresses = load_region("eu")
    assert addresses.backup is not None
    back_up(addresses)
    notes = {path: path.read_bytes() for path in addresses.backup.witness.glob("*.note")}
    kept = addresses.signing_key.read_bytes()
    addresses.signing_key.unlink()
    with pytest.raises(KeyFileError, match=addresses.signing_key.name):
        back_up(addresses)

    ensure_key(addresses.signing_key)
    engine = open_engine(addresses.database)
    TenantKV(engine, "acme").put("k", b"v")
    with pytest.raises(Refused):
        back_up(addresses)
    with pytest.raises(CheckpointError, match="unknown-key"):
        Notary(Ledger(engine, "eu"), load_key(addresses.signing_key)).checkpoint()
    assert notes and {path: path.read_bytes() for path in notes} == notes

    addresses.signing_key.write_bytes(kept)
    back_up(addresses)
    assert {path: path.read_bytes() for path in notes} != notes
