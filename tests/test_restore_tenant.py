"""`RestoreTenant` on a real Temporal server: quarantine, in place, and when it is refused."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from recovery_harness import REGION
from restore_harness import QUEUE, Recovery, lose_a_segment, recovery_worker, until_tenant_waits
from rollout_harness import Plane
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError

from models.primary import Primary
from models.recovery import GapDecision
from models.tenant_restore import TenantRequest, TenantStatus
from stores.kv import TenantKV
from stores.primary import PrimaryFile
from stores.quarantine import verify_copy

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

TENANT = "tenant-1"
DECISION = GapDecision(actor="bo", reason="agreed with the customer")
Handle = WorkflowHandle[object, TenantStatus]


@pytest_asyncio.fixture(loop_scope="session")
async def recovery(plane: Plane, tmp_path: Path) -> AsyncIterator[Recovery]:
    async with recovery_worker(tmp_path, plane.client) as made:
        made.backup.work(12)
        made.backup.snapshot()
        made.backup.work(6)
        made.backup.ship()
        yield made


@pytest.fixture
def kv(recovery: Recovery) -> TenantKV:
    return TenantKV(recovery.backup.engine, TENANT)


async def _start(recovery: Recovery, **request: object) -> Handle:
    asked = {"tenant": TENANT, "actor": "ana", "reason": "deleted by mistake", **request}
    return await recovery.client.start_workflow(
        "RestoreTenant",
        TenantRequest.model_validate(asked),
        id=f"restore-tenant/{REGION}/{uuid.uuid4().hex[:8]}",
        task_queue=QUEUE,
        result_type=TenantStatus,
    )


async def test_a_tenant_goes_into_quarantine(recovery: Recovery, kv: TenantKV) -> None:
    before = list(kv.items())
    status = await (await _start(recovery)).result()
    assert status.state == "in quarantine" and status.copied
    said = verify_copy(Path(status.copied.directory), [recovery.backup.key.public(REGION)])
    assert (said.predicate.actor, said.predicate.report.keys) == ("ana", len(before))
    assert list(kv.items()) == before


async def test_in_place_waits_for_a_word_and_leaves_a_receipt(
    recovery: Recovery, kv: TenantKV
) -> None:
    names = [each.key.decode() for each in kv.items()]
    kv.put(names[0], b"by mistake")
    kv.delete(names[1])
    handle = await _start(recovery, in_place=True)
    status = await until_tenant_waits(handle)
    assert status.comparison and status.comparison.put == 2
    found = kv.get(names[0])
    assert found and found.value == b"by mistake"
    kv.put(names[1], b"written while they talked")

    await handle.execute_update("apply", DECISION, result_type=TenantStatus)
    status = await handle.result()

    assert status.state == "restored" and status.applied and "1 keys" in status.why
    assert (status.applied.put, status.applied.conflicts) == (1, 1)
    assert status.applied.first_conflicts == (names[1],)
    last = recovery.backup.ledger.latest(kind="tenant.restored", subject=TENANT)
    begun = recovery.backup.ledger.latest(kind="tenant.restore.begun", subject=TENANT)
    assert last is not None and begun is not None and begun.seq < last.seq
    assert last.receipt.actor == "bo" and names[1].encode() not in last.data
    applied = last.receipt.body["applied"]
    assert isinstance(applied, dict) and applied["before"] != applied["after"]
    assert not list(recovery.quarantine.rglob("*.jsonl"))
    other = await _start(recovery)
    with pytest.raises((WorkflowUpdateFailedError, RPCError)):
        await other.execute_update("apply", DECISION)
    assert (await other.result()).state == "in quarantine"


async def test_nothing_is_written_when_nobody_wants_it(recovery: Recovery, kv: TenantKV) -> None:
    kv.put("new", b"1")
    before = list(kv.items())
    handle = await _start(recovery, in_place=True)
    await until_tenant_waits(handle)
    await handle.execute_update("give_up", DECISION, result_type=TenantStatus)
    assert (await handle.result()).state == "given up"
    assert list(kv.items()) == before
    assert not list(recovery.quarantine.rglob("*.jsonl"))


async def test_a_dry_run_shows_what_differs(recovery: Recovery, kv: TenantKV) -> None:
    kv.put("new", b"1")
    before, head = list(kv.items()), recovery.backup.ledger.head()
    status = await (await _start(recovery, dry_run=True)).result()
    assert status.state == "compared" and status.comparison
    assert status.comparison.first == (f"remove new (version {kv.get('new').version})",)  # type: ignore[union-attr]
    assert (list(kv.items()), recovery.backup.ledger.head()) == (before, head)
    assert not list(recovery.quarantine.rglob("*.jsonl"))


async def test_in_place_is_refused_while_the_region_is_not_normal(
    recovery: Recovery, kv: TenantKV
) -> None:
    kv.put("new", b"1")
    before = list(kv.items())
    handle = await _start(recovery, in_place=True)
    await until_tenant_waits(handle)
    mode = PrimaryFile(recovery.mode, REGION)
    mode.switch(Primary(region=REGION, epoch=1, mode="buffered", why="disk lost"))
    said = await handle.execute_update("apply", DECISION, result_type=TenantStatus)
    assert said.state == "failed"
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert "eu is buffered: disk lost" in str(failed.value.cause)
    assert list(kv.items()) == before
    mode.switch(Primary(region=REGION, epoch=2, mode="normal"))


async def test_an_erased_tenant_is_said_and_not_restored(recovery: Recovery, kv: TenantKV) -> None:
    recovery.backup.seals.destroyed.add(TENANT)
    status = await (await _start(recovery, in_place=True)).result()
    assert status.state == "erased" and status.copied and status.copied.directory == ""
    recovery.backup.seals.destroyed.clear()


async def test_a_gap_is_named_and_nothing_is_kept(recovery: Recovery) -> None:
    lose_a_segment(recovery)
    status = await (await _start(recovery)).result()
    assert status.state == "failed" and "are missing" in status.why
    assert not list(recovery.quarantine.rglob("*.jsonl"))


async def test_a_tenant_that_never_was_fails_at_once(recovery: Recovery) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await (await _start(recovery, tenant="nobody")).result()
    assert "no document of nobody" in str(failed.value.cause)


@pytest.mark.parametrize(
    ("request_", "field"),
    [({"tenant": "Not A Tenant"}, "tenant"), ({"reason": ""}, "reason"), ({"actor": ""}, "actor")],
)
async def test_bad_input_names_the_field(
    recovery: Recovery, request_: dict[str, object], field: str
) -> None:
    with pytest.raises(ValueError, match=field):
        await _start(recovery, **request_)
