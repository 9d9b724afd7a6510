"""A builder whose key a KMS keeps: how it is configured, and how its days end."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from signing_harness import STATEMENT, builder_address, pem_of

from models.addresses import KmsAddress
from models.config_supply import Signing
from models.trust import key_id, read_trust_root
from stores.bundle_verifier import verify_bundle
from stores.keys import create_private_key
from stores.ledger import utc_now
from stores.signing import SigningFailed
from stores.signing_keys import SigningKeys
from workers.builder import SIGNER, trusted_signer
from workers.stack_plan import Options, SetupError, set_up

KMS = Signing(mode="kms")


class Kept:
    """A key that securesystemslib opens by a URI, as it would in a cloud's KMS."""

    def __init__(self, folder, name="one"):
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.id = key_id(self.private.public_key())
        create_private_key(folder / f"{name}.key", self.private)
        (folder / f"{name}.pem").write_text(pem_of(self.private))
        self.address = KmsAddress(
            uri=f"file2:{folder / name}.key", public_key=folder / f"{name}.pem"
        )


def test_the_kms_signs_and_its_key_joins_the_trust_root(tmp_path):
    kept, trust = Kept(tmp_path), tmp_path / "trust.json"
    address = builder_address(tmp_path, kms=kept.address)
    bundle = trusted_signer(address, trust, lambda: KMS)().sign(STATEMENT)
    root = read_trust_root(trust.read_bytes())
    assert verify_bundle(bundle, root, now=utc_now()).signer.identity == SIGNER
    assert [key.key_id for key in root.signing_keys] == [kept.id]
    assert [path.name for path in address.keys.iterdir() if path.suffix == ".pem"] == []


def test_without_a_key_that_is_named_nothing_is_signed(tmp_path):
    with pytest.raises(SigningFailed, match=r"signing\.mode.*builder\.kms"):
        trusted_signer(builder_address(tmp_path), None, lambda: KMS)()
    gone = KmsAddress(uri="file2:/none", public_key=tmp_path / "none.pem")
    with pytest.raises(SigningFailed, match=r"builder\.kms.*none\.pem"):
        trusted_signer(builder_address(tmp_path, kms=gone), None, lambda: KMS)()


def test_its_days_end_and_a_new_version_ends_those_of_the_old_one(tmp_path):
    now = [utc_now()]
    keys = SigningKeys(tmp_path / "k", SIGNER, rotation_days=90, clock=lambda: now[0])
    one, two = Kept(tmp_path), Kept(tmp_path, "two")
    first = keys.adopt(one.address.public_key.read_text())
    now[0] += timedelta(days=89)
    assert keys.adopt(one.address.public_key.read_text()) == first
    now[0] += timedelta(days=1)
    with pytest.raises(ValueError, match="its days are over"):
        keys.adopt(one.address.public_key.read_text())
    now[0] -= timedelta(days=60)
    keys.adopt(two.address.public_key.read_text())
    old, new = keys.public()
    assert (old.key_id, new.key_id) == (one.id, two.id)
    assert old.valid_until < first.valid_until
    keys.revoke(two.id, now[0], "stolen")
    with pytest.raises(ValueError, match="revoked: stolen"):
        keys.adopt(two.address.public_key.read_text())


def test_a_home_without_its_kms_file_is_not_set_up(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path / "home"))
    config = tmp_path / "fleet.toml"
    config.write_text('[signing]\nmode = "kms"\n')
    options = Options(config=config, temporal_port=0)
    with pytest.raises(SetupError, match=r"needs .*kms\.json"):
        set_up(options)
    (tmp_path / "home" / "builder" / "kms.json").write_text('{"uri": "x"}')
    with pytest.raises(SetupError, match=r"kms\.json: "):
        set_up(options)
