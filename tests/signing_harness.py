"""A key, a clock and a trust root for tests of signed statements, and ways to spoil a bundle."""

import json
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner
from timestamp_authority import START, Authority

from models.addresses import BuilderAddress
from models.statement import SIGNATURE, write_statement
from models.trust import TrustedKey, TrustRoot
from stores.signing import KeySigner

DIGEST = "sha256:" + "ab" * 32
STATEMENT = write_statement([("app", DIGEST)], SIGNATURE, {})
NOW = START + timedelta(days=60)


def pem_of(private):
    """The public half, PEM."""
    public = private.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def trusted_key(private, **changes):
    """A trust root's entry for a key, valid for the first 90 days."""
    said = {
        "identity": "builder",
        "public_key": pem_of(private),
        "valid_from": START,
        "valid_until": START + timedelta(days=90),
    }
    return TrustedKey.model_validate(said | changes)


def builder_address(tmp_path, **more):
    return BuilderAddress(
        settings=tmp_path, work=tmp_path / "w", keys=tmp_path / "k", clock=tmp_path / "c", **more
    )


class World:
    """One key, one clock, and a root that trusts both."""

    def __init__(self):
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.clock = Authority()

    def signer(self, private=None, clocks=None):
        private = private or self.private
        clocks = [self.clock] if clocks is None else clocks
        return KeySigner(CryptoSigner(private), pem_of(private), clocks)

    def bundle(self, statement=STATEMENT, at=None, **how):
        """A signed bundle whose timestamp says ``at``."""
        self.clock.now = at or START + timedelta(days=10)
        return self.signer(**how).sign(statement)

    def trust(self, **changes):
        """The trust root; ``changes`` are to its key."""
        return TrustRoot(
            signing_keys=[trusted_key(self.private, **changes)],
            timestamp_authorities=[self.clock.trusted()],
        )


def changed(data, change):
    """A bundle with ``change(parsed)`` done to it."""
    value = json.loads(data)
    change(value)
    return json.dumps(value).encode()
