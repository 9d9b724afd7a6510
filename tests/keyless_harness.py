"""A local authority over HTTP, a signer that uses it, and the trust in it."""

import asyncio
import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from datetime import timedelta

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from ports import free_port
from signing_harness import STATEMENT

from models.addresses import AuthorityAddress, ClientToken
from models.bundle import write_bundle
from models.canonical import canonical
from models.dsse import IN_TOTO_TYPE, Envelope, Signature, pae
from models.trust import TrustRoot
from stores.authority import LocalAuthority
from stores.authority_certificates import CertificateIssuer
from stores.authority_keys import AuthorityKeys
from stores.authority_tokens import enrol, read_clients
from stores.id_tokens import token_source
from stores.keyless import KeylessSigner, read_services
from stores.ledger import utc_now
from workers.authority import CLIENTS, authority_app

BUILDER = "urn:chainring:builder:embedded"


@contextmanager
def serving(app, port):
    """An application on a port of loopback, in a thread of its own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def start():
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ready.set()
        return runner

    def run():
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


class Home:
    """One authority in a directory, with one builder as its client; ``late`` sets its clock."""

    def __init__(self, directory, identity=BUILDER):
        self.late = timedelta()
        address = AuthorityAddress(
            directory=directory / "authority", url=f"http://127.0.0.1:{free_port()}"
        )
        address.directory.mkdir(parents=True)
        self.secret = directory / "secret"
        enrol(address.directory / CLIENTS, "builder", identity, self.secret)
        self._of(address, directory)
        self.authority = LocalAuthority(self.keys, read_clients(address.directory / CLIENTS))

    @classmethod
    def at(cls, address, secret, directory):
        """The home of an authority that runs elsewhere."""
        self = cls.__new__(cls)
        self.late, self.secret = timedelta(), secret
        self._of(address, directory)
        return self

    def _of(self, address, directory):
        self.address, self.url = address, address.url
        self.keys = AuthorityKeys(address.directory, self.url, clock=lambda: utc_now() + self.late)
        self.services = directory / "services.json"
        self.services.write_bytes(canonical(self.keys.trust_config()))

    @contextmanager
    def served(self):
        with self.authority, serving(authority_app(self.authority), self.address.port):
            yield self

    def token(self):
        """A token of the builder's."""
        return self.authority.tokens.issue("builder", self.secret.read_text())

    def signer(self, tokens=None, issuer=None, services=None):
        address = ClientToken(client="builder", secret_file=self.secret)
        return KeylessSigner(
            read_services(services or self.services),
            tokens or token_source(address, self.url),
            issuer or self.url,
        )

    def trust(self, **changes):
        """A root that trusts this authority; ``changes`` are to its entry."""
        said = self.keys.trusted().model_dump() | changes
        return TrustRoot.model_validate({"keyless_authorities": [said]})

    def handmade(
        self,
        *,
        private=None,
        statement=STATEMENT,
        identity=BUILDER,
        issuer=None,
        change=None,
        chain=None,
        stamps=None,
        stamped_late=timedelta(),
        entries=None,
    ):
        """A bundle made step by step, each of which may be made wrong.

        Args:
            change: does something to the certificate's extensions, a list.
            chain: makes the certificate in place of this authority.
            stamps: makes the timestamps over a signature.
            entries: changes the log's entries.
        """
        private = private or ec.generate_private_key(ec.SECP256R1())
        chain = chain or Forger(self.authority, change or (lambda found: found)).issue
        leaf, *_ = chain(identity, issuer or self.url, private.public_key())
        signature = private.sign(pae(IN_TOTO_TYPE, statement), ec.ECDSA(SHA256()))
        self.late += stamped_late
        stamped = (stamps or (lambda each: [self.keys.timestamps.timestamp(each)]))(signature)
        self.late -= stamped_late
        logged = [self.authority.log_entry(log_request(statement, signature, leaf))]
        return write_bundle(
            Envelope(
                payload=statement,
                payload_type=IN_TOTO_TYPE,
                signatures=[Signature(sig=signature)],
            ),
            certificate=leaf.public_bytes(Encoding.DER),
            timestamps=stamped,
            log_entries=entries(logged) if entries else logged,
        )


class Forger(CertificateIssuer):
    """Has an authority's keys, and puts into certificates what the authority never would."""

    def __init__(self, authority, change):
        super().__init__(authority.keys, authority._issuer._log)
        self._change = change

    def _signed(self, builder, timestamps):
        final = builder.add_extension(x509.UnrecognizedExtension(SCT, timestamps), critical=False)
        found = self._change(list(final._extensions))
        return x509.CertificateBuilder(
            final._issuer_name,
            final._subject_name,
            final._public_key,
            final._serial_number,
            final._not_valid_before,
            final._not_valid_after,
            found,
        ).sign(self._keys.certificates, SHA256())


SCT = x509.oid.ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS


def without(*oids):
    """Takes extensions out."""
    return lambda found: [each for each in found if each.oid not in oids]


def instead(value, *, critical=False):
    """Puts an extension in the place of the one of its kind."""

    def change(found):
        kept = [each for each in found if each.oid != value.oid]
        return [*kept, x509.Extension(value.oid, critical, value)]

    return change


def unlogged(forge=lambda timestamps: None):
    """Changes a certificate's timestamps after they were made; None takes them out."""
    seen = []

    def change(found):
        seen.append(found)
        if len(seen) == 1:  # the draft, over which the log signs
            return found
        timestamps = forge(found[-1].value.value)
        if timestamps is None:
            return without(SCT)(found)
        return instead(x509.UnrecognizedExtension(SCT, timestamps))(found)

    return change


def base64_of(data):
    return base64.b64encode(data).decode()


def log_request(statement, signature, leaf):
    """What a signer asks the log to take."""
    digest = hashlib.sha256(pae(IN_TOTO_TYPE, statement)).digest()
    verifier = {
        "x509Certificate": {"rawBytes": base64_of(leaf.public_bytes(Encoding.DER))},
        "keyDetails": "PKIX_ECDSA_P256_SHA_256",
    }
    signed = {"content": base64_of(signature), "verifier": verifier}
    asked = {"digest": base64_of(digest), "signature": signed}
    return json.dumps({"hashedRekordRequestV002": asked}).encode()


def entry_of(data):
    """The log entry of a bundle."""
    [entry] = json.loads(data)["verificationMaterial"]["tlogEntries"]
    return entry
