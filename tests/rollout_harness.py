"""A real control plane for tests: Temporal's dev server, real workflows, real stores, fake regions.

One server, one control worker and three regions serve a whole session (`rollout_fixtures`); each
test gets a fleet of its own. Regions are namespaces behind real Nexus endpoints; one is down when
no worker polls its queue. Only rollouts started with ``skip_time`` have a clock that jumps.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fake_region import FakeRegion
from fake_verifier import FakeVerifier
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.build import BuildActivities
from activities.control import ControlActivities
from activities.evidence import EvidenceActivities
from activities.incidents import IncidentActivities
from activities.overrides import OverrideActivities
from activities.verification import VerificationActivities
from activities.vulnerabilities import VulnerabilityActivities
from models.addresses import BuilderAddress, TemporalAddress, WorkerAddress
from models.builder import BuilderSettings
from models.config_supply import Signing
from models.contracts import endpoint
from models.ids import CONTROL_LEDGER
from models.receipts import Receipt
from models.rollout import (
    FINAL_STATES,
    DecisionAnswer,
    RolloutRequest,
    RolloutResult,
    RolloutStatus,
)
from stores.checkpoints import Notary
from stores.control import ControlStore
from stores.evidence_archive import EvidenceArchive
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.oci import ImageLayout
from stores.overrides import OverrideStore
from stores.sql import create_all, open_engine
from stores.vulnerabilities import VulnerabilityStore
from workers.builder import trusted_signer
from workers.control import CONTROL_WORKFLOWS
from workers.nexus_region import RegionService
from workers.process import activities_of, make_worker
from workers.temporal_setup import CONTROL_QUEUE, REGION_QUEUE, ensure
from workflows.region import REGION_WORKFLOWS
from workflows.regions import plain_words

TEMPORAL = Path(__file__).parent.parent / ".venv" / "bin" / "temporal"
REGIONS = ("apac", "eu", "us-east")
UNVERSIONED = WorkerAddress(health_port=0, metrics_port=0, versioning="off")
EXIT_GRACE = 0.3
BREAKER = "history.outboundQueue.circuitBreakerSettings"

Handle = WorkflowHandle[Any, RolloutResult]
_numbers = itertools.count(1)


class Plane:
    """What all tests of a session share: server, workers, stores."""

    def __init__(self, home: Path, environment: WorkflowEnvironment, client: Client) -> None:
        self.skipping = environment.client
        self.client = client
        self.engine = open_engine(f"sqlite:///{home}/control.db")
        create_all(self.engine)
        self.ledger = Ledger(self.engine, CONTROL_LEDGER)
        self.store = ControlStore(self.engine, self.ledger)
        self.overrides = OverrideStore(self.engine, self.ledger)
        self.layout = ImageLayout(home / "releases")
        self.verifier = FakeVerifier()
        self.archive = EvidenceArchive(home / "evidence")
        self.config = home / "config.toml"
        self.incidents = IncidentActivities(
            store=self.store, ledger=self.ledger, layout=self.layout, config=self.config
        )
        self.signers = home / "allowed_signers"
        self.signers.touch()
        builder = BuilderAddress(
            settings=home, work=home / "work", keys=home / "keys", clock=home / "clock"
        )
        self.build = BuildActivities(
            settings=BuilderSettings(
                id="urn:test:builder", allowed_signers=self.signers, path=os.environ["PATH"]
            ),
            work=builder.work,
            shelf=self.layout,
            signer=trusted_signer(builder, home / "trust.json", Signing),
            python=sys.executable,
        )
        self.known = VulnerabilityStore(home / "known.db")
        self.vulnerabilities = VulnerabilityActivities(self.known, self.config)
        self.regions = {code: FakeRegion(code) for code in REGIONS}
        self._notary = Notary(self.ledger, ensure_key(home / "key.pem"))
        self._workers: dict[str, Worker] = {}
        self.environment = environment

    def control_worker(self) -> Worker:
        activities = ControlActivities(
            store=self.store,
            ledger=self.ledger,
            layout=self.layout,
            config=self.config,
            notary=self._notary,
            clock=workflow_clock,
        )
        verification = VerificationActivities(
            verifier=self.verifier,
            layout=self.layout,
            ledger=self.ledger,
            overrides=self.overrides,
            clock=workflow_clock,
        )
        return make_worker(
            self.client,
            address("default", CONTROL_QUEUE),
            UNVERSIONED,
            deployment="control",
            workflows=CONTROL_WORKFLOWS,
            activities=activities_of(
                *(activities, verification, self.incidents, OverrideActivities(self.overrides)),
                *(self.build, self.vulnerabilities),
                EvidenceActivities(self.ledger, self.archive),
            ),
        )

    async def up(self, code: str) -> None:
        """Let the region answer; nothing happens when it does already."""
        if code in self._workers:
            return
        region = self.regions[code]
        worker = make_worker(
            await self.region_client(code),
            address(code, REGION_QUEUE),
            UNVERSIONED,
            deployment="region",
            workflows=REGION_WORKFLOWS,
            activities=activities_of(region),
            nexus=[RegionService(code, region, region, region)],  # type: ignore[arg-type]
        )
        self._workers[code] = worker
        await worker.__aenter__()

    async def region_client(self, code: str) -> Client:
        """A client of the region's namespace."""
        return await self.environment.connect_client(
            namespace=code, data_converter=pydantic_data_converter
        )

    async def down(self, code: str) -> None:
        """Let the region fall silent; nothing happens when it is silent already."""
        if code in self._workers:
            await self._workers.pop(code).__aexit__(None, None, None)


class Fleet:
    """One test's fleet: its configuration, its releases, and the rollouts it started."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.regions = plane.regions
        self.name = f"fleet-{next(_numbers)}"
        self.handles: list[Handle] = []
        self.old = self.release("1.0.0")
        self.configure()

    def configure(
        self,
        regions: tuple[str, ...] = ("eu", "us-east"),
        *,
        calendar: str = "",
        gates: dict[str, Any] | None = None,
        **rollout: Any,
    ) -> None:
        """Write the configuration, and reset ``regions`` to five shards each on the old release."""
        fast = {"bake_seconds": 0, "looks": 1, "min_samples": 100, "hold_seconds": 3600}
        rings = {
            "canary_percentage": 20,
            "max_blast_radius_percent": 20,
            "rollout_rings": [100],
            "region_down_after_seconds": 5,
        }
        text = [f'[fleet]\nname = "{self.name}"', "[rollout]", *_lines(rings | rollout), "[gates]"]
        text += _lines(fast | (gates or {}))
        for number, code in enumerate(regions, start=1):
            keys = {"name": code, "catalog_shard": number, "receipt_partition": number}
            text += [f"[regions.{code}]", *_lines(keys)]
            self.regions[code].reset(shards=5, release=self.old)
        self.plane.config.write_text("\n".join([*text, calendar, ""]))

    def release(self, version: str) -> str:
        """A release of this test alone; its digest."""
        program = self.plane.config.parent / "program"
        program.mkdir(exist_ok=True)
        (program / "serve").write_text(self.name)
        return self.plane.layout.put_release(self.name, version, program, entrypoint=["serve"])

    def traffic(self, release: str, kind: Any) -> None:
        """How a release does from now on, wherever it runs."""
        for region in self.regions.values():
            region.traffic[release] = kind

    async def start(self, release: str, *, skip_time: bool = False, **fields: Any) -> Handle:
        """Start a rollout as the CLI does."""
        request = RolloutRequest(release=release, **fields).model_dump(mode="json")
        return await self.start_raw(request, skip_time=skip_time)

    async def start_raw(self, request: object, *, skip_time: bool = False) -> Handle:
        """Start a rollout with any input."""
        client = self.plane.skipping if skip_time else self.plane.client
        handle = await client.start_workflow(
            "FleetRollout",
            request,
            id=f"rollout/{self.name}/{len(self.handles) + 1}",
            task_queue=CONTROL_QUEUE,
            result_type=RolloutResult,
        )
        self.handles.append(handle)
        return handle

    def receipts(self, handle: Handle) -> list[Receipt]:
        """The control ledger's receipts about a rollout, oldest first."""
        return [stored.receipt for stored in self.plane.ledger.read(subject=handle.id)]

    def kinds(self, handle: Handle) -> list[str]:
        return [receipt.kind for receipt in self.receipts(handle)]

    def running(self) -> set[str | None]:
        """The releases that the shards of the configured regions run."""
        return {
            release
            for region in self.regions.values()
            for release in region.running.values()
            if release is not None
        }

    def holder(self) -> str:
        return self.plane.store.holder(self.name)

    async def close(self) -> None:
        """Let nothing of this test go on into the next one."""
        for region in self.regions.values():
            region.let_go()
        debts = [
            self.plane.client.get_workflow_handle(f"debt/{handle.id}/{code}")
            for handle in self.handles
            for code in REGIONS
        ]
        for handle in [*self.handles, *debts]:
            with contextlib.suppress(RPCError):  # ended, or never there
                await self.plane.client.get_workflow_handle(handle.id).terminate()
        for region in self.regions.values():
            region.reset(shards=0, release=None)
        self.plane.verifier.reset()


async def status_of(handle: Handle) -> RolloutStatus:
    found: RolloutStatus = await handle.query("status", result_type=RolloutStatus)
    return found


async def until(handle: Handle, state: str, **fields: object) -> RolloutStatus:
    """Wait until a rollout's status is in a state, and has these fields."""
    deadline = time.monotonic() + 20
    while True:
        status = await status_of(handle)
        if fields.items() <= dict(status).items() and status.state == state:
            return status
        ended = status.state in FINAL_STATES and status.ended is not None
        assert not ended, f"ended {status.state}: {status.why}"
        assert time.monotonic() < deadline, f"never {state} {fields}: {status}"
        await asyncio.sleep(0.05)


async def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something outside Temporal is so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.02)


async def decide(handle: Handle, what: str, *, actor: str = "ana", **fields: Any) -> DecisionAnswer:
    """Take a decision about a rollout."""
    decision = {"actor": actor, "reason": f"to {what}", **fields}
    made: DecisionAnswer = await handle.execute_update(what, decision, result_type=DecisionAnswer)
    return made


async def only_waits_for(handle: Handle, code: str) -> None:
    """Wait until a region is the only one that has not answered."""
    while True:
        described = (await handle.describe()).raw_description
        if [each.endpoint for each in described.pending_nexus_operations] == [endpoint(code)]:
            return
        await asyncio.sleep(0.05)


async def hurry(fleet: Fleet, handle: Handle) -> None:
    """Let the clock of a running rollout jump from now on."""
    with contextlib.suppress(RPCError):  # it has ended already
        await fleet.plane.environment.fast_forward(handle)


async def end(handle: Handle) -> RolloutStatus:
    """Wait for a rollout's result; its final status."""
    return (await asyncio.wait_for(handle.result(), 30)).status


async def closed_as(handle: Handle) -> WorkflowExecutionStatus | None:
    return (await handle.describe()).status


def workflow_clock() -> datetime:
    """The time as the workflow that runs this activity has it: its clock may have jumped."""
    if not activity.in_activity():
        return datetime.now(UTC)
    return activity.info().current_attempt_scheduled_time


def address(namespace: str, queue: str) -> TemporalAddress:
    return TemporalAddress(address="given by the client", namespace=namespace, task_queue=queue)


@contextlib.asynccontextmanager
async def running_plane(home: Path) -> AsyncIterator[Plane]:
    """Start a server, the control worker and the regions; end them on the way out."""
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(TEMPORAL),
        dev_server_log_level="error",
        dev_server_extra_args=[
            *("--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"),
            # Else a region that was silent is not asked for a minute more after it is back.
            *("--dynamic-config-value", f'{BREAKER}={{"timeout": 1}}'),
        ],
    )
    async with environment:
        client = await environment.connect_client(data_converter=pydantic_data_converter)
        await ensure(client, list(REGIONS))
        made = Plane(home, environment, client)
        async with made.control_worker():
            await asyncio.gather(*(made.up(code) for code in REGIONS))
            yield made
            await asyncio.gather(*(made.down(code) for code in REGIONS))
    # The SDK's threads may still call Python for a moment, which aborts a process that exits.
    await asyncio.sleep(EXIT_GRACE)


async def failure_of(handle: Handle) -> str:
    """Wait for a rollout to fail; what its innermost cause says."""
    try:
        result = await asyncio.wait_for(handle.result(), 20)
    except WorkflowFailureError as error:
        return plain_words(error)
    raise AssertionError(f"it did not fail: {result}")


async def search_attributes(handle: Handle) -> dict[str, Any]:
    """The rollout's own search attributes, by name."""
    pairs = (await handle.describe()).typed_search_attributes
    return {pair.key.name: pair.value for pair in pairs if pair.key.name.startswith("Chainring")}


async def look(handle: Handle) -> str:
    """What the web UI shows of a rollout: its current details."""
    metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return str(metadata.current_details)


async def reset_to(handle: Handle, summary: str) -> Handle:
    """Reset a rollout to just before it did the step whose label begins with ``summary``."""
    point = 0
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            point = event.event_id
        if event.user_metadata.summary.data.decode().startswith(f'"{summary}'):
            break
    else:
        raise AssertionError(f"no step {summary!r}")
    made = await handle._client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=handle._client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=""),
            reason="test",
            request_id=f"{handle.id}/{summary}",
            workflow_task_finish_event_id=point,
        )
    )
    return handle._client.get_workflow_handle(
        handle.id, run_id=made.run_id, result_type=RolloutResult
    )


def _lines(keys: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
