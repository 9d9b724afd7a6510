"""Running rollouts must survive a new build: recorded histories replay on today's workflows.

Where one does not, guard the change with ``workflow.patched``; see scripts/record_histories.py.
"""

import json
from pathlib import Path

import pydantic
import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, WorkflowRunner

from workers.control import CONTROL_WORKFLOWS
from workers.process import sandbox
from workers.recovery import RECOVERY_WORKFLOWS
from workflows.region import REGION_WORKFLOWS
from workflows.rings import stage_everywhere

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def _history(path: Path) -> WorkflowHistory:
    recorded = json.loads(path.read_text())
    started = recorded["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], recorded)  # child ids come from it


def _workflow_type(history: WorkflowHistory) -> str:
    return history.events[0].workflow_execution_started_event_attributes.workflow_type.name


async def _replay(path: Path, runner: WorkflowRunner | None = None) -> Exception | None:
    replayer = Replayer(
        workflows=[*CONTROL_WORKFLOWS, *REGION_WORKFLOWS, *RECOVERY_WORKFLOWS],
        workflow_runner=runner or sandbox(),
        data_converter=pydantic_data_converter,
        workflow_failure_exception_types=[pydantic.ValidationError],
    )
    result = await replayer.replay_workflow(_history(path), raise_on_replay_failure=False)
    return result.replay_failure


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    assert await _replay(path) is None


def test_every_workflow_has_a_recorded_history() -> None:
    recorded = {_workflow_type(_history(path)) for path in HISTORIES}
    assert recorded == {
        workflow._Definition.must_from_class(each).name
        for each in [*CONTROL_WORKFLOWS, *REGION_WORKFLOWS, *RECOVERY_WORKFLOWS]
    }


async def test_a_changed_workflow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay can fail: a timer before staging, which no running rollout has in its history."""

    async def later(journey: object) -> None:
        await workflow.sleep(60)
        await stage_everywhere(journey)  # type: ignore[arg-type]

    monkeypatch.setattr("workflows.rollout.stage_everywhere", later)
    path = next(path for path in HISTORIES if path.stem == "completed")

    failure = await _replay(path, UnsandboxedWorkflowRunner())

    assert isinstance(failure, workflow.NondeterminismError)
