"""What Temporal must know before work can start: namespaces, search attributes, Nexus endpoints.

Idempotent, and the same for the embedded server and for a cluster (`chainring setup`).
"""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    CreateNexusEndpointRequest,
    ListNexusEndpointsRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from models.contracts import endpoint

SEARCH_ATTRIBUTES = {
    "ChainringState": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "ChainringRelease": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "ChainringRing": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "ChainringEpoch": IndexedValueType.INDEXED_VALUE_TYPE_INT,
}
REGION_QUEUE = "region"
CONTROL_QUEUE = "control"
RECOVERY_QUEUE = "recovery"
"""In a region's namespace, served by a process that does not need the region's store."""
RETENTION = timedelta(days=30)


async def ensure(client: Client, regions: list[str]) -> None:
    """Create what is missing, in the control plane's namespace and one a region."""
    for region in regions:
        await _ensure_namespace(client, region)
    for namespace in (client.namespace, *regions):  # each has names of its own for them
        await _ensure_search_attributes(client, namespace)
    await _ensure_endpoints(client, regions)


async def _ensure_namespace(client: Client, name: str) -> None:
    seconds = Duration(seconds=int(RETENTION.total_seconds()))
    request = RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=seconds)
    try:
        await client.workflow_service.register_namespace(request)
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise


async def _ensure_search_attributes(client: Client, namespace: str) -> None:
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=namespace)
    )
    missing = {
        name: kind
        for name, kind in SEARCH_ATTRIBUTES.items()
        if name not in known.custom_attributes
    }
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=namespace, search_attributes=missing)
        )


async def _ensure_endpoints(client: Client, regions: list[str]) -> None:
    listed = await client.operator_service.list_nexus_endpoints(ListNexusEndpointsRequest())
    known = {item.spec.name for item in listed.endpoints}
    for region in regions:
        if endpoint(region) in known:
            continue
        worker = EndpointTarget.Worker(namespace=region, task_queue=REGION_QUEUE)
        spec = EndpointSpec(name=endpoint(region), target=EndpointTarget(worker=worker))
        await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
