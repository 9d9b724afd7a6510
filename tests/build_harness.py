"""A builder for tests: a real server and worker, real repositories, real signatures and stores."""

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from git_harness import Repository, allow, ssh_key
from rollout_harness import UNVERSIONED, address
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from activities.build import BuildActivities
from activities.control import ControlActivities
from models.addresses import BuilderAddress, KeylessAddress
from models.build import BuildRequest, BuildResult, BuildStatus
from models.builder import BuilderSettings
from models.config_supply import Signing
from models.ids import CONTROL_LEDGER
from models.receipts import Receipt
from models.trust import read_trust_root
from stores.bundle_verifier import verify_bundle
from stores.checkpoints import Notary
from stores.control import ControlStore
from stores.keys import ensure_key
from stores.ledger import Ledger, utc_now
from stores.oci import ImageLayout
from stores.sql import create_all, open_engine
from workers.builder import trusted_signer
from workers.process import activities_of, make_worker
from workers.temporal_setup import CONTROL_QUEUE, ensure
from workflows.build_release import BuildRelease

TEMPORAL = Path(__file__).parent.parent / ".venv" / "bin" / "temporal"
KEY = Signing()
_numbers = itertools.count(1)

BUILD = """
name = "web"
version = "{version}"
build = [["{{python}}", "-I", "-S", "make.py"]]
test = [["{{python}}", "-I", "-S", "check.py"]]
output = "dist"
"""
MAKE = """
from pathlib import Path
out = Path("dist")
out.mkdir()
(out / "serve.py").write_text(Path("serve.py").read_text())
(out / "release.json").write_text('{"entrypoint": ["python3", "serve.py"]}')
"""
CHECK = """
from pathlib import Path
assert Path("dist/serve.py").exists()
print("ok 1 - serves")
print("ok 2 - answers")
print("1..2")
"""
SPEC = "@prefix a: <urn:a#> .\na:web a:listens a:port .\n"


class Builder:
    """The parts of a builder below ``home``, without its worker."""

    def __init__(
        self,
        home: Path,
        signers: Path,
        signing: Signing = KEY,
        keyless: KeylessAddress | None = None,
        database: str = "",
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.layout = ImageLayout(home / "releases")
        engine = open_engine(database or f"sqlite:///{home}/control.db")
        create_all(engine)
        self.ledger = Ledger(engine, CONTROL_LEDGER)
        self.trust = home / "trust.json"
        config = home / "config.toml"
        config.touch()
        address = BuilderAddress(
            settings=home,
            work=home / "work",
            keys=home / "keys",
            clock=home / "clock",
            keyless=keyless,
        )
        settings = BuilderSettings(
            id="urn:test:builder", allowed_signers=signers, path=os.environ["PATH"]
        )
        self.activities = BuildActivities(
            settings=settings,
            work=address.work,
            shelf=self.layout,
            signer=trusted_signer(address, self.trust, lambda: signing),
            python=sys.executable,
        )
        self.control = ControlActivities(
            store=ControlStore(engine, self.ledger),
            ledger=self.ledger,
            layout=self.layout,
            config=config,
            notary=Notary(self.ledger, ensure_key(home / "key.pem")),
        )

    def worker(self, client: Client, queue: str = CONTROL_QUEUE) -> Any:
        return make_worker(
            client,
            address("default", queue),
            UNVERSIONED,
            deployment="control",
            workflows=[BuildRelease],
            activities=activities_of(self.activities, self.control),
        )


class Yard:
    """One test's source repository, its signer and its builder."""

    def __init__(self, directory: Path, **how: Any) -> None:
        key = ssh_key(directory / "ana")
        signers = allow(directory / "signers", "ana@example.org", key)
        self.repository = Repository.create(directory / "origin")
        self.repository.sign_with_ssh(key)
        self.builder = Builder(directory / "home", signers, **how)

    def commit(self, version: str = "1.0.0", **files: str) -> str:
        """Commit a small program that can be built; ``files`` by name with ``_`` for ``.``."""
        named = {
            "chainring.build.toml": BUILD.format(version=version),
            "make.py": MAKE,
            "check.py": CHECK,
            "serve.py": "print('hello')\n",
            "requirements.txt": "",
            ".specify/web.ttl": SPEC,
        }
        named |= {name.replace("__", "/").replace("_", "."): text for name, text in files.items()}
        return self.repository.commit(named)

    def request(self, commit: str, **fields: Any) -> BuildRequest:
        return BuildRequest(
            repository=str(self.repository.path), commit=commit, reason="test", **fields
        )


def statements(yard: Yard, release: str) -> dict[str, Any]:
    """Verified statements about a release, by predicate type; each type once."""
    root = read_trust_root(yard.builder.trust.read_bytes())
    found: dict[str, Any] = {}
    for bundle in yard.builder.layout.evidence(release):
        signed = verify_bundle(bundle, root, now=utc_now())
        assert signed.statement.is_about(release)
        assert signed.statement.predicate_type not in found
        found[signed.statement.predicate_type] = signed.statement.predicate
    return found


def only(yard: Yard, kind: str) -> Receipt:
    """The one receipt of a kind."""
    [stored] = yard.builder.ledger.read(kinds=[kind])
    return stored.receipt


async def start(client: Client, request: object, queue: str = CONTROL_QUEUE) -> Any:
    """Start a build as the CLI does."""
    return await client.start_workflow(
        "BuildRelease",
        request,
        id=f"build/test/{next(_numbers)}",
        task_queue=queue,
        result_type=BuildResult,
    )


async def status_of(handle: Any) -> BuildStatus:
    found: BuildStatus = await handle.query("status", result_type=BuildStatus)
    return found


async def until(handle: Any, state: str) -> BuildStatus:
    """Wait until a build is in a state."""
    for _ in range(600):
        status = await status_of(handle)
        if status.state == state:
            return status
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {state}: {status}")


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[Client]:
    """A server of this test's own."""
    environment = await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(TEMPORAL),
        dev_server_log_level="error",
    )
    async with environment:
        await ensure(environment.client, [])
        yield environment.client
