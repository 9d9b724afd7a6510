"""Tracing that was switched on: spans of workflows and activities arrive at a real receiver."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from build_harness import server
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from temporalio import activity

from models.addresses import TemporalAddress, WorkerAddress
from models.break_glass import BreakGlassState, BreakGlassStatus, EndOverride
from models.receipts import Draft
from workers.process import activities_of, connect, make_worker
from workflows.break_glass import BreakGlass

UNVERSIONED = WorkerAddress(health_port=0, metrics_port=0, versioning="off")
REQUEST = {"release": f"sha256:{'a' * 64}", "actor": "ana", "reason": "to be traced"}


class Effects:
    """The activities that a break-glass needs, without a database behind them."""

    @activity.defn
    def record(self, drafts: list[Draft]) -> list[int]:
        return [0 for _ in drafts]

    @activity.defn
    def end_override(self, step: EndOverride) -> None:
        """It counts no more."""


@asynccontextmanager
async def receiver() -> AsyncIterator[tuple[str, list[str]]]:
    """An OTLP/HTTP receiver: its address, and the names of the spans that came."""
    names: list[str] = []

    async def take(request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            services = {
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.name"
            }
            assert services == {"chainring"}
            names.extend(span.name for scope in resource.scope_spans for span in scope.spans)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}/v1/traces", names
    finally:
        await runner.cleanup()


async def test_spans_of_a_workflow_and_its_activities_arrive() -> None:
    async with receiver() as (url, names), server() as started:
        host = started.service_client.config.target_host
        place = TemporalAddress(address=host, namespace="default", task_queue="traced")
        client = await connect(place, otlp_endpoint=url)
        worker = make_worker(
            client,
            place,
            UNVERSIONED,
            deployment="traced",
            workflows=[BreakGlass],
            activities=activities_of(Effects()),
        )
        async with worker:
            handle = await client.start_workflow(
                "BreakGlass",
                REQUEST,
                id="breakglass/traced",
                task_queue="traced",
                result_type=BreakGlassStatus,
            )
            await handle.execute_update("revoke", {"actor": "ana", "reason": "seen enough"})
            assert (await handle.result()).state == BreakGlassState.REVOKED
        provider = trace.get_tracer_provider()
        await asyncio.to_thread(provider.force_flush)  # type: ignore[attr-defined]
        await asyncio.to_thread(provider.shutdown)  # type: ignore[attr-defined]

    assert "StartWorkflow:BreakGlass" in names
    assert "RunWorkflow:BreakGlass" in names
    assert {"RunActivity:record", "RunActivity:end_override"} <= set(names)
