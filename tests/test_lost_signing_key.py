"""A ledger's signing key that is lost: nothing is signed by another one in its place."""

from pathlib import Path

import pytest

from models.addresses import RegionAddresses
from models.receipts import Draft
from models.verifier import Refused
from stores.checkpoints import CheckpointError, Notary
from stores.keys import KeyFileError, ensure_key, load_key
from stores.kv import TenantKV
from stores.ledger import Ledger
from stores.sql import open_engine
from workers.backup import RegionBackup
from workers.settings import load_control, load_region
from workers.stack_plan import Options, SetupError, set_up

CONFIG = """
[tenants]
total_tenants = 1
shards = 1

[regions.eu]
name = "Europe"
catalog_shard = 1
receipt_partition = 1
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """A home whose ledgers have signed."""
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path / "home"))
    (tmp_path / "fleet.toml").write_text(CONFIG)
    made = Options(config=tmp_path / "fleet.toml", temporal_port=0)
    set_up(made)
    for name, addresses in (("control", load_control()), ("eu", load_region("eu"))):
        ledger = Ledger(open_engine(addresses.database), name)
        draft = Draft(kind="test.done", actor="ana", subject="x", body={}, idempotency_key="1")
        ledger.append([draft])
        Notary(ledger, ensure_key(addresses.signing_key)).checkpoint()
    return made


def back_up(addresses: RegionAddresses) -> None:
    """A recovery process that starts, and its first round."""
    assert addresses.backup is not None
    backup = RegionBackup(addresses, addresses.backup)
    try:
        backup.round()
    finally:
        backup._close()


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
