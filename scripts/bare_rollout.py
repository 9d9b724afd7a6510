"""The floor for `bench_rollout.py`: the calls of a full rollout with nothing behind them.

The same number of Nexus operations, region workflows and activities in the same order and with the
same concurrency as `FleetRollout` makes for 100 shards in 5 regions and 4 rings; each activity
returns at once. Also a worker process: `bare_rollout.py control|REGION ADDRESS`.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import nexusrpc
import nexusrpc.handler
from pydantic import BaseModel
from temporalio import activity, nexus, workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

LIMIT = timedelta(seconds=60)
CONTROL_QUEUE, REGION_QUEUE = "bare-control", "bare-region"


class Step(BaseModel):
    """So many empty activities, so many at once."""

    activities: int
    at_once: int
    name: str


class Call(BaseModel):
    """One region's share of one phase; ``quick`` is answered without a workflow."""

    region: str
    step: Step
    quick: bool = False


class Phase(BaseModel):
    """Calls made together, then activities of the control plane one after the other."""

    calls: list[Call] = []
    after_each: int = 0
    activities: int = 0


class Shape(BaseModel):
    phases: list[Phase]


@nexusrpc.service
class Bare:
    quick: nexusrpc.Operation[Step, Step]
    work: nexusrpc.Operation[Step, Step]


@activity.defn
def nothing(step: Step) -> Step:
    return step


async def _empty(step: Step) -> None:
    await workflow.execute_activity(nothing, step, start_to_close_timeout=LIMIT, summary=step.name)


@workflow.defn
class BareRegion:
    @workflow.run
    async def run(self, step: Step) -> Step:
        slots = asyncio.Semaphore(step.at_once)

        async def one() -> None:
            async with slots:
                await _empty(step)

        await asyncio.gather(*(one() for _ in range(step.activities)))
        return step


@nexusrpc.handler.service_handler(service=Bare)
class BareService:
    @nexusrpc.handler.sync_operation
    async def quick(self, ctx: nexusrpc.handler.StartOperationContext, step: Step) -> Step:
        return step

    @nexus.workflow_run_operation
    async def work(
        self, ctx: nexus.WorkflowRunOperationContext, step: Step
    ) -> nexus.WorkflowHandle[Step]:
        return await ctx.start_workflow(BareRegion.run, step, id=step.name)


@workflow.defn
class BareRollout:
    @workflow.run
    async def run(self, shape: Shape) -> int:
        for phase in shape.phases:
            await asyncio.gather(*(self._call(call, phase.after_each) for call in phase.calls))
            for _ in range(phase.activities):
                await _empty(Step(activities=1, at_once=1, name="control"))
        return len(shape.phases)

    async def _call(self, call: Call, after: int) -> None:
        client = workflow.create_nexus_client(service=Bare, endpoint=f"bare-{call.region}")
        operation = Bare.quick if call.quick else Bare.work
        name = f"{workflow.info().workflow_id}/{call.step.name}"
        step = call.step.model_copy(update={"name": name})
        await client.execute_operation(operation, step, schedule_to_close_timeout=LIMIT)
        for _ in range(after):
            await _empty(step)


async def serve(place: str, address: str) -> None:
    """One worker process, as Chainring has one for the control plane and one a region."""
    control = place == "control"
    client = await Client.connect(
        address,
        namespace="default" if control else place,
        data_converter=pydantic_data_converter,
    )
    worker = Worker(
        client,
        task_queue=CONTROL_QUEUE if control else REGION_QUEUE,
        workflows=[BareRollout if control else BareRegion],
        activities=[nothing],
        activity_executor=ThreadPoolExecutor(40),
        max_concurrent_activities=40,
        nexus_service_handlers=[] if control else [BareService()],
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
