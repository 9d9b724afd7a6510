"""A home whose ledgers have signed, without its processes."""

from pathlib import Path

from models.addresses import RegionAddresses
from models.receipts import Draft
from stores.checkpoints import Notary
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.sql import open_engine
from workers.backup import RegionBackup
from workers.settings import load_control, load_region
from workers.stack_plan import Options, set_up

CONFIG = """
[tenants]
total_tenants = 1
shards = 1

[regions.eu]
name = "Europe"
catalog_shard = 1
receipt_partition = 1
"""


def make_signed(tmp_path: Path, *, receipts: bool = True) -> Options:
    """Set the home up that `CHAINRING_HOME` names; without receipts nothing is signed."""
    (tmp_path / "fleet.toml").write_text(CONFIG)
    made = Options(config=tmp_path / "fleet.toml", temporal_port=0)
    set_up(made)
    signing = (("control", load_control()), ("eu", load_region("eu"))) if receipts else ()
    for name, addresses in signing:
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
