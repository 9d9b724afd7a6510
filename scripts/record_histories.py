"""Record histories of real rollouts for tests/test_replay.py.

    .venv/bin/python scripts/record_histories.py [SCENARIO ...]

Run it when a workflow was changed on purpose and no rollout of the old code runs any more; until
then, guard the change with ``workflow.patched`` and keep the recorded histories as they are.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from restore_harness import (
    QUEUE,
    Recovery,
    lose_a_segment,
    recovery_worker,
    until_restore,
    until_tenant_waits,
)
from rollout_harness import (
    CONTROL_QUEUE,
    REGIONS,
    Fleet,
    Handle,
    Plane,
    decide,
    end,
    eventually,
    only_waits_for,
    running_plane,
    until,
)
from temporalio.client import WorkflowFailureError
from test_notices import receiving
from test_production import Source, until_production
from test_validate_backup import flip_a_chunk
from vulnerability_harness import directory, osv
from watch_harness import watched_region

from models.backup_retention import NONE, Limits
from models.drill import DrillRequest
from models.ids import short
from models.production import ProductionState
from models.prune import PruneRequest
from models.recovery import GapDecision, SnapshotRequest
from models.tenant_restore import TenantRequest, TenantStatus
from models.validation import ValidateRequest
from models.watch import Decision
from stores.kv import TenantKV
from stores.notices import NoticeBoard
from stores.sql import open_engine
from stores.webhook import Webhook

HISTORIES = ROOT / "tests" / "histories"
Scenario = Callable[[Plane, Fleet], Awaitable[dict[str, Any]]]


async def completed(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """Two rings pass; the region's side of it too."""
    handle = await fleet.start(fleet.release("1.1.0"), overrides={"gates.bake_seconds": 1})
    await end(handle)
    return {"completed": handle, **await _region_side(plane, handle, "stage/{}/e1", "retire/{}/e1")}


async def steered(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """Every kind of decision on the way through."""
    release = fleet.release("1.1.0")
    fleet.traffic(release, "quiet")
    fleet.regions["eu"].hold("stage")
    handle = await fleet.start(release)
    await until(handle, "staging")
    await decide(handle, "pause")
    fleet.regions["eu"].let_go()
    await until(handle, "paused")
    await decide(handle, "resume")
    await until(handle, "holding", ring="canary")
    await decide(handle, "retry_gate")
    await eventually(lambda: fleet.kinds(handle).count("gate.verdict") == 2)
    await until(handle, "holding", ring="canary")
    await decide(handle, "promote")
    await until(handle, "holding", ring="100%")
    await decide(handle, "abort", rollback=False)
    await end(handle)
    return {"steered": handle, **await _region_side(plane, handle, "ring/{}/e1/canary")}


async def rolled_back(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """A gate fails."""
    release = fleet.release("1.1.0")
    fleet.traffic(release, "errors")
    handle = await fleet.start(release)
    await end(handle)
    return {"rolled-back": handle, **await _region_side(plane, handle, "rollback/{}/e2")}


async def cancelled(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """A region is down, the rollout is cancelled, and the region comes back."""
    fleet.configure(REGIONS, region_down_after_seconds=3)
    fleet.regions["eu"].hold("stage")
    handle = await fleet.start(fleet.release("1.1.0"))
    await until(handle, "staging")
    await only_waits_for(handle, "eu")
    await plane.down("apac")
    fleet.regions["eu"].let_go()
    await until(handle, "activating", waiting_for=["apac"])
    await handle.cancel()
    await until(handle, "rolling back", waiting_for=["apac"])
    await plane.up("apac")
    await end(handle)
    return {"cancelled": handle}


async def skipped(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """A region is down and its part becomes a debt, which is paid."""
    fleet.configure(REGIONS, region_down="skip", region_down_after_seconds=3)
    fleet.regions["eu"].hold("stage")
    handle = await fleet.start(fleet.release("1.1.0"))
    await until(handle, "staging")
    await only_waits_for(handle, "eu")
    await plane.down("apac")
    fleet.regions["eu"].let_go()
    await end(handle)
    await plane.up("apac")
    debt = plane.client.get_workflow_handle(f"debt/{handle.id}/apac")
    await debt.result()
    return {"skipped": handle, "debt": debt}


async def waited(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """Two rollouts at once: the second supersedes the first."""
    first = await fleet.start(fleet.release("1.1.0"), overrides={"gates.bake_seconds": 600})
    await until(first, "baking")
    second = await fleet.start(fleet.release("1.2.0"), when_busy="supersede")
    await end(first)
    await end(second)
    return {"superseded": first, "waited": second}


async def broken_glass(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """Opened, approved, and taken back."""
    handle = await plane.client.start_workflow(
        "BreakGlass",
        {"release": fleet.old, "actor": "ana", "reason": "recorded"},
        id=f"breakglass/{fleet.name}/1",
        task_queue=CONTROL_QUEUE,
    )
    for update, actor in (("approve", "ben"), ("revoke", "ana")):
        await handle.execute_update(update, {"actor": actor, "reason": "recorded"})
    await handle.result()
    return {"break-glass": handle}


async def verified(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """Verified at the start, held before a ring, asked again, and refused before the last one."""
    release = fleet.release("1.1.0")
    plane.verifier.say(release, "error", "ring canary")
    plane.verifier.say(release, "fail", "ring 100%")
    handle = await fleet.start(release)
    await until(handle, "holding", ring="canary")
    plane.verifier.say(release, "pass", "ring canary")
    await decide(handle, "retry_gate")
    await end(handle)
    asked = await plane.client.start_workflow(
        "VerifyRelease",
        {"release": release},
        id=f"verify/{fleet.name}/1",
        task_queue=CONTROL_QUEUE,
    )
    await asked.result()
    return {"verified": handle, "verify": asked}


async def incident(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """New data, a release that does not stand any more, and the way back to one that does."""
    _configure_follow_up(fleet)
    good, bad = fleet.release("1.1.0"), fleet.release("1.2.0")
    for release in (good, bad):
        await end(await fleet.start(release))
    plane.verifier.say(bad, "fail")
    feed = directory(plane.config.parent / "feed", osv("GHSA-1", events=[{"introduced": "0"}]))
    refresh = await _start(
        plane, "RefreshVulnerabilities", f"refresh/{fleet.name}", {"feeds": {"osv": str(feed)}}
    )
    after = (await refresh.result())["after"]
    rejudge = plane.client.get_workflow_handle(f"rejudge/{refresh.id}/{short(after)}")
    [opened] = (await rejudge.result())["incidents"]
    handle = plane.client.get_workflow_handle(opened)
    for update in ("acknowledge", "accept_rollback"):
        await handle.execute_update(update, {"actor": "ana", "reason": "recorded"})
    await plane.client.get_workflow_handle((await handle.query("status"))["rollback"]).result()
    again = await _start(plane, "RejudgeDeployments", f"rejudge/{fleet.name}/2", {})
    await again.result()
    await handle.result()
    return {"refresh": refresh, "rejudge": rejudge, "incident": handle, "resolved": again}


def _configure_follow_up(fleet: Fleet) -> None:
    text = fleet.plane.config.read_text()
    follow_up = '[deployment_verification]\nfollow_up = "propose_rollback"'
    fleet.plane.config.write_text(f"{text}\n{follow_up}\n")


async def production(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """A commit that is refused at first, built once, and rolled out after a retry."""
    source = Source(fleet, Path(tempfile.mkdtemp(dir=plane.config.parent)))
    commit = source.commit("2.0.0")
    plane.verifier.otherwise = "fail"
    handle = await source.release(commit)
    await until_production(handle, ProductionState.HOLDING)
    plane.verifier.reset()
    await handle.execute_update("retry", {"actor": "ben", "reason": "recorded"})
    await handle.result()
    build = plane.client.get_workflow_handle(f"build/{handle.id}/1")
    return {"production": handle, "build": build}


async def evidence(plane: Plane, fleet: Fleet) -> dict[str, Any]:
    """A verdict of which the archive has nothing: its loss is a receipt."""
    await end(await fleet.start(fleet.release("1.1.0")))
    handle = await _start(plane, "CheckEvidence", f"evidence/{fleet.name}", {})
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()
    return {"evidence": handle}


async def _start(plane: Plane, workflow: str, workflow_id: str, request: object) -> Any:
    return await plane.client.start_workflow(
        workflow, request, id=workflow_id, task_queue=CONTROL_QUEUE
    )


async def restored(plane: Plane, _fleet: Fleet) -> dict[str, Any]:
    """A store is snapshotted and restored; then a gap waits for a word."""
    with tempfile.TemporaryDirectory() as directory:
        async with recovery_worker(Path(directory), plane.client) as recovery:
            recovery.backup.work(10)
            recovery.backup.snapshot()
            recovery.backup.work(5)
            recovery.backup.ship()
            taken = await plane.client.start_workflow(
                "SnapshotRegion", SnapshotRequest(), id="snapshot/eu/1", task_queue=QUEUE
            )
            await taken.result()
            recovery.close()
            tenant = await _tenant_in_place(recovery)
            recovery.backup.work(5)
            recovery.backup.ship()
            lose_a_segment(recovery)
            waiting = await recovery.start()
            await until_restore(waiting, "waiting")
            decision = GapDecision(actor="bo", reason="lost with the bucket")
            await waiting.execute_update("accept_gap", decision)
            await waiting.result()
            return {
                "snapshot-region": taken,
                "restore-region": waiting,
                "restore-tenant": tenant,
            }


async def watched(plane: Plane, _fleet: Fleet) -> dict[str, Any]:
    """A person pauses the watch and resumes it; then the store is lost and failed over."""
    with tempfile.TemporaryDirectory() as directory, receiving(200) as receiver:
        hook = Webhook(receiver.url)
        async with watched_region(Path(directory), plane.client, webhook=hook) as region:
            decision = Decision(actor="ana", reason="recorded")
            await region.watch.execute_update("pause", decision)
            await region.until(lambda found: found.state == "paused")
            await region.watch.execute_update("resume", decision)
            await region.until_probed()
            region.lose_the_store()
            await region.until(lambda found: bool(found.ended))
            await region.until_probed()
            over = plane.client.get_workflow_handle((await region.status()).failover)
            (first, _) = NoticeBoard(Path(directory) / "path", "eu").inbox("any-tenant")
            told = plane.client.get_workflow_handle(f"notice/eu/1-{first.id[:6]}")
            await told.result()
        return {"watch-region": region.watch, "fail-over": over, "deliver-notice": told}


async def _tenant_in_place(recovery: Recovery) -> Any:
    """One tenant is compared with its backup, and written when somebody says so."""
    engine = open_engine(recovery.primary().database)
    TenantKV(engine, "tenant-1").put("new", b"1")
    engine.dispose()
    handle = await recovery.client.start_workflow(
        "RestoreTenant",
        TenantRequest(
            tenant="tenant-1",
            in_place=True,
            actor="ana",
            reason="deleted by mistake",
        ),
        id="restore-tenant/eu/tenant-1/1",
        task_queue=QUEUE,
        result_type=TenantStatus,
    )
    await until_tenant_waits(handle)
    await handle.execute_update("apply", GapDecision(actor="bo", reason="agreed"))
    await handle.result()
    return handle


async def drilled(plane: Plane, _fleet: Fleet) -> dict[str, Any]:
    """A drill that does not get there, and the incident that it opens."""
    with tempfile.TemporaryDirectory() as directory:
        async with recovery_worker(Path(directory), plane.client) as recovery:
            recovery.backup.work(10)
            recovery.backup.snapshot()
            recovery.backup.work(5)
            recovery.backup.ship()
            lose_a_segment(recovery)
            drill = await plane.client.start_workflow(
                "RecoveryDrill", DrillRequest(), id="drill/eu/1", task_queue=QUEUE
            )
            with contextlib.suppress(WorkflowFailureError):
                await drill.result()
            [opened] = (await drill.query("status"))["incidents"]
            incident = plane.client.get_workflow_handle(opened)
            for update in ("acknowledge", "resolve"):
                await incident.execute_update(update, {"actor": "ana", "reason": "recorded"})
            await incident.result()
        return {"recovery-drill": drill, "recovery-incident": incident}


async def validated(plane: Plane, _fleet: Fleet) -> dict[str, Any]:
    """A chunk of the backup has a flipped bit."""
    with tempfile.TemporaryDirectory() as directory:
        async with recovery_worker(Path(directory), plane.client) as recovery:
            recovery.backup.work(10)
            recovery.backup.snapshot()
            flip_a_chunk(recovery.backup)
            found = await plane.client.start_workflow(
                "ValidateBackup",
                ValidateRequest(everything=True),
                id="validate/eu/1",
                task_queue=QUEUE,
            )
            await found.result()
        return {"validate-backup": found}


async def pruned(plane: Plane, _fleet: Fleet) -> dict[str, Any]:
    """All but the newest snapshot goes."""
    with tempfile.TemporaryDirectory() as directory:
        async with recovery_worker(Path(directory), plane.client) as recovery:
            for _ in range(2):
                recovery.backup.work(6)
                recovery.backup.snapshot()
            recovery.limits = Limits(retention=NONE, step=NONE)
            done = await plane.client.start_workflow(
                "PruneBackup", PruneRequest(), id="prune/eu/1", task_queue=QUEUE
            )
            await done.result()
        return {"prune-backup": done}


SCENARIOS: list[Scenario] = [
    *(completed, steered, rolled_back, cancelled, skipped, waited, verified),
    *(broken_glass, incident, production, evidence, restored, watched, drilled),
    *(validated, pruned),
]


async def _region_side(plane: Plane, handle: Handle, *ids: str) -> dict[str, Any]:
    """The workflows of region eu that did a rollout's steps."""
    client = await plane.region_client("eu")
    return {
        f"region-{each.split('/')[0]}": client.get_workflow_handle(each.format(handle.id))
        for each in ids
    }


def _compact(text: str) -> str:
    """One line, in which no trace names where the tree was."""
    return json.dumps(json.loads(text.replace(f"{ROOT}/", "")), separators=(",", ":")) + "\n"


async def main() -> None:
    HISTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        async with running_plane(Path(home)) as plane:
            for scenario in SCENARIOS:
                if sys.argv[1:] and scenario.__name__ not in sys.argv[1:]:
                    continue
                fleet = Fleet(plane)
                for name, handle in (await scenario(plane, fleet)).items():
                    history = await handle.fetch_history()
                    (HISTORIES / f"{name}.json").write_text(_compact(history.to_json()))
                    print(f"{name}: {len(history.events)} events")
                await fleet.close()


if __name__ == "__main__":
    asyncio.run(main())
