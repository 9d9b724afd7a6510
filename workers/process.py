"""What every worker process shares: connection, metrics, health, versioning, a graceful end."""

import asyncio
import contextlib
import hashlib
import inspect
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydantic
from aiohttp import web
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client, Interceptor
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker, WorkerDeploymentConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from models.addresses import TemporalAddress, WorkerAddress

log = logging.getLogger("chainring")

DRAIN = timedelta(seconds=30)
ACTIVITY_THREADS = 40
BEAT = timedelta(seconds=2)
"""Heartbeats are sent this often at least: the answer to one is what brings cancellation."""
PATIENCE = 60.0
"""Seconds that a worker waits for Temporal when it starts: both may have been started together."""
STICKY = timedelta(seconds=3)
"""How long a workflow waits for the worker that has it in memory; another one replays it then."""
_BEHAVIORS = {
    "pinned": VersioningBehavior.PINNED,
    "auto_upgrade": VersioningBehavior.AUTO_UPGRADE,
}


def build_id() -> str:
    """Identity of this build: ``$CHAINRING_BUILD_ID``, else a hash of the workflow code."""
    named = os.environ.get("CHAINRING_BUILD_ID")
    if named:
        return named
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("workflows/*.py"), *root.glob("models/*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


async def connect(
    address: TemporalAddress,
    *,
    metrics_port: int = 0,
    otlp_endpoint: str | None = None,
    patience: float = 0,
) -> Client:
    """A client of one namespace, with Prometheus metrics on loopback when a port is given.

    Args:
        patience: seconds to wait for a server that does not listen yet.

    Raises:
        RuntimeError: nothing answers there.
    """
    await _listens(address.address, patience)
    runtime = None
    if metrics_port:
        metrics = PrometheusConfig(bind_address=f"127.0.0.1:{metrics_port}")
        runtime = Runtime(telemetry=TelemetryConfig(metrics=metrics))
    return await Client.connect(
        address.address,
        namespace=address.namespace,
        data_converter=pydantic_data_converter,
        interceptors=_tracing(otlp_endpoint),
        runtime=runtime,
        tls=address.tls,
        api_key=address.api_key_file.read_text().strip() if address.api_key_file else None,
    )


async def _listens(address: str, patience: float) -> None:
    """Wait until something listens there, or no longer."""
    place = urlsplit(f"//{address}")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while loop.time() < deadline:
        try:
            _, writer = await asyncio.open_connection(place.hostname, place.port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


def _tracing(endpoint: str | None) -> list[Interceptor]:
    """OpenTelemetry spans of workflows and activities, exported over HTTP; none by default."""
    if endpoint is None:
        return []
    from opentelemetry import trace  # noqa: PLC0415  # 60 ms of imports that few processes need
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from temporalio.contrib.opentelemetry import TracingInterceptor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": "chainring"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    return [TracingInterceptor(provider.get_tracer("chainring"))]


def activities_of(*holders: object) -> list[Callable[..., Any]]:
    """The methods of ``holders`` that are activities."""
    methods = (
        method for holder in holders for _, method in inspect.getmembers(holder, inspect.ismethod)
    )
    return [method for method in methods if hasattr(method, "__temporal_activity_definition")]


def sandbox() -> SandboxedWorkflowRunner:
    """The workflow sandbox, with the pure domain passed through.

    Every run of a workflow imports anew what is not passed through. ``models`` holds no state and
    does no I/O (a test sees to that), and building its classes for each run took 0.1 s of CPU.
    """
    restrictions = SandboxRestrictions.default.with_passthrough_modules(
        "models", "pydantic", "pydantic_core", "annotated_types", "nexusrpc", "rfc8785"
    )
    return SandboxedWorkflowRunner(restrictions=restrictions)


def make_worker(
    client: Client,
    address: TemporalAddress,
    worker: WorkerAddress,
    *,
    deployment: str,
    workflows: Sequence[type],
    activities: Sequence[Any],
    nexus: Sequence[Any] = (),
) -> Worker:
    """A worker that fails a workflow with a readable message when its input does not hold."""
    versioning = None
    if worker.versioning != "off":
        versioning = WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(deployment, build_id()),
            use_worker_versioning=True,
            default_versioning_behavior=_BEHAVIORS[worker.versioning],
        )
    return Worker(
        client,
        task_queue=address.task_queue,
        workflows=workflows,
        activities=activities,
        nexus_service_handlers=nexus,
        activity_executor=ThreadPoolExecutor(ACTIVITY_THREADS, thread_name_prefix="activity"),
        max_concurrent_activities=ACTIVITY_THREADS,
        graceful_shutdown_timeout=DRAIN,
        max_heartbeat_throttle_interval=BEAT,
        sticky_queue_schedule_to_start_timeout=STICKY,
        workflow_failure_exception_types=[pydantic.ValidationError],
        deployment_config=versioning,
        workflow_runner=sandbox(),
    )


async def serve(
    name: str, client: Client, address: WorkerAddress, worker: Worker, deployment: str
) -> int:
    """Run a worker until SIGTERM or SIGINT, then let it finish what it holds.

    Health: ``GET /healthz`` answers 200 once the worker polls, 503 before and while it drains.
    """
    state = {"ready": False}
    stop = stop_asked()
    async with _health(address.health_port, state), worker:
        if address.versioning != "off" and address.make_current:
            await _make_current(client, deployment)
        state["ready"] = True
        log.info("%s is ready, build %s", name, build_id())
        await stop.wait()
        state["ready"] = False
        log.info("%s drains", name)
    return 0


def stop_asked() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _make_current(client: Client, deployment: str) -> None:
    """Route new work to this build; the server knows it from its first poll on.

    Asked first whether it is current already: after a restart of the server the change takes it ten
    seconds, the question one.
    """
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=client.namespace,
        deployment_name=deployment,
        build_id=build_id(),
        identity=client.identity,
        ignore_missing_task_queues=True,
    )
    while True:
        try:
            if await _is_current(client, deployment):
                return
            await client.workflow_service.set_worker_deployment_current_version(request)
        except RPCError as error:
            log.debug("build not current yet: %s", error)
            await asyncio.sleep(0.3)
        else:
            return


async def _is_current(client: Client, deployment: str) -> bool:
    request = DescribeWorkerDeploymentRequest(
        namespace=client.namespace, deployment_name=deployment
    )
    try:
        found = await client.workflow_service.describe_worker_deployment(request)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return False
        raise
    routing = found.worker_deployment_info.routing_config
    return routing.current_deployment_version.build_id == build_id()


@contextlib.asynccontextmanager
async def _health(port: int, state: dict[str, bool]) -> AsyncIterator[None]:
    async def answer(request: web.Request) -> web.Response:
        ready = state["ready"]
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    app = web.Application()
    app.router.add_get("/healthz", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()
