"""A commit is built, verified and rolled out as one process that holds where a step fails."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from build_harness import BUILD, CHECK, MAKE
from git_harness import Repository, allow, ssh_key
from rollout_harness import CONTROL_QUEUE, Fleet, hurry, look
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError

from models.production import ProductionState, ProductionStatus
from models.rollout import RolloutState

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

Handle = WorkflowHandle[Any, ProductionStatus]


class Source:
    """A repository of one test, whose signer the plane's builder knows."""

    def __init__(self, fleet: Fleet, path: Path) -> None:
        self.fleet = fleet
        key = ssh_key(path / "ana")
        own = allow(path / "signers", "ana@example.org", key)
        known = fleet.plane.signers
        known.write_text(known.read_text() + own.read_text())
        self.repository = Repository.create(path / "origin")
        self.repository.sign_with_ssh(key)

    def commit(self, version: str, check: str = CHECK) -> str:
        text = BUILD.format(version=version).replace('"web"', f'"{self.fleet.name}"')
        return self.repository.commit(
            {
                "chainring.build.toml": text,
                "make.py": MAKE,
                "check.py": check,
                "serve.py": f"print('{self.fleet.name}')\n",
                "requirements.txt": "",
            }
        )

    async def release(self, commit: str, **fields: Any) -> Handle:
        build = {"repository": str(self.repository.path), "commit": commit}
        handle = await self.fleet.plane.client.start_workflow(
            "ReleaseToProduction",
            {"build": build, "actor": "ana", "reason": "weekly", **fields},
            id=f"production/{self.fleet.name}/1",
            task_queue=CONTROL_QUEUE,
            result_type=ProductionStatus,
        )
        rollout = self.fleet.plane.client.get_workflow_handle(f"rollout/{handle.id}/1")
        self.fleet.handles.append(rollout)
        return handle


@pytest.fixture
def source(fleet: Fleet, tmp_path: Path) -> Source:
    return Source(fleet, tmp_path)


async def until_production(handle: Handle, state: ProductionState) -> ProductionStatus:
    """Wait until it is in a state."""
    for _ in range(600):
        status: ProductionStatus = await handle.query("status", result_type=ProductionStatus)
        if status.state == state:
            return status
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {state}: {status}")


async def _say(handle: Handle, update: str) -> ProductionStatus:
    said = {"actor": "ben", "reason": f"to {update}"}
    status: ProductionStatus = await handle.execute_update(
        update, said, result_type=ProductionStatus
    )
    return status


async def test_a_commit_arrives_on_the_whole_fleet(fleet: Fleet, source: Source) -> None:
    handle = await source.release(source.commit("2.0.0"))

    status = await handle.result()

    assert status.state == ProductionState.COMPLETED
    assert fleet.running() == {status.release}
    assert (status.name, status.version) == (fleet.name, "2.0.0")
    assert [step.step for step in status.steps] == ["building", "verifying", "rolling out"]
    kinds = [stored.kind for stored in fleet.plane.ledger.read(subject=handle.id)]
    assert kinds == ["production.started", "production.ended"]
    assert "| rolling out | 1 |" in await look(handle)  # type: ignore[arg-type]


async def test_a_refusal_holds_until_it_is_mended_and_goes_on_from_there(
    fleet: Fleet, source: Source
) -> None:
    commit = source.commit("2.0.0")
    fleet.plane.verifier.otherwise = "fail"
    handle = await source.release(commit)
    held = await until_production(handle, ProductionState.HOLDING)
    assert "verifying failed" in held.why
    assert fleet.running() == {fleet.old}

    fleet.plane.verifier.reset()
    await _say(handle, "retry")

    status = await handle.result()
    assert status.state == ProductionState.COMPLETED
    assert [step.step for step in status.steps].count(ProductionState.BUILDING) == 1
    assert [made.what for made in status.decisions] == ["retried"]


async def test_a_build_that_fails_can_be_given_up(fleet: Fleet, source: Source) -> None:
    handle = await source.release(source.commit("2.0.0", check="print('1..1\\nnot ok 1')"))
    held = await until_production(handle, ProductionState.HOLDING)
    assert "tests" in held.why

    await _say(handle, "give_up")

    status = await handle.result()
    assert status.state == ProductionState.GIVEN_UP
    with pytest.raises(Exception, match=r"not found|completed"):
        await _say(handle, "retry")


async def test_a_rollout_that_goes_back_holds_too_and_fails_at_its_deadline(
    fleet: Fleet, source: Source
) -> None:
    fleet.configure(gates={"min_samples": 100})
    commit = source.commit("2.0.0")
    for region in fleet.regions.values():
        region.other_traffic = "errors"
    fleet.traffic(fleet.old, "good")
    handle = await source.release(commit, hold_minutes=5)
    held = await until_production(handle, ProductionState.HOLDING)
    assert held.rollout_state == RolloutState.ROLLED_BACK

    await hurry(fleet, handle)  # type: ignore[arg-type]

    status = await handle.result()
    assert status.state == ProductionState.FAILED
    assert fleet.running() == {fleet.old}


async def test_nobody_decides_while_nothing_holds(fleet: Fleet, source: Source) -> None:
    handle = await source.release(source.commit("2.0.0"))
    with pytest.raises(WorkflowUpdateFailedError):
        await _say(handle, "give_up")
    await handle.result()
