"""A local authority over HTTP, a signer that uses it, and the trust in it."""

import asyncio
import json
import threading
from contextlib import contextmanager

from aiohttp import web

from models.addresses import AuthorityAddress, ClientToken
from models.canonical import canonical
from models.trust import TrustRoot
from stores.authority_tokens import enrol
from stores.id_tokens import token_source
from stores.keyless import KeylessSigner, read_services
from workers.authority import CLIENTS, authority_app, open_authority
from workers.stack_plan import free_ports

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
    """One authority in a directory, with one builder as its client."""

    def __init__(self, directory, identity=BUILDER):
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.address = AuthorityAddress(directory=directory / "authority", url=self.url)
        self.address.directory.mkdir(parents=True)
        self.secret = directory / "secret"
        enrol(self.address.directory / CLIENTS, "builder", identity, self.secret)
        self.authority = open_authority(self.address)
        self.keys = self.authority.keys
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


def entry_of(data):
    """The log entry of a bundle."""
    [entry] = json.loads(data)["verificationMaterial"]["tlogEntries"]
    return entry
