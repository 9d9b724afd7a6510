"""Full rollout against a bare workflow with the same calls, in one run (`scripts/bench rollout`).

Both run on one embedded stack of 5 regions with 10,000 tenants in 100 shards, in turn. The ratio
is what Chainring's own work costs: SQL with receipts, route swaps in Envoy, planning. Gates are
skipped, so nothing bakes.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from bare_rollout import CONTROL_QUEUE, REGION_QUEUE, BareRollout, Call, Phase, Shape, Step
from embedded import Stack, running_stack
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client

from models.config_sections import Rollout
from models.rollout import RolloutRequest, RolloutResult, RolloutState
from stores.templates import render_default_config
from workers.children import die_with_parent

REGIONS = ("apac", "eu", "latam", "us-east", "us-west")


def shape(rings: list[dict[str, int]], retired: int) -> Shape:
    """What `FleetRollout` calls for these rings: see `workflows/rollout.py`, phase by phase."""

    def everywhere(name: str, activities: int, *, quick: bool = False) -> list[Call]:
        step = Step(activities=activities, at_once=1, name=name)
        return [
            Call(
                region=region,
                step=step.model_copy(update={"name": f"{name}/{region}"}),
                quick=quick,
            )
            for region in REGIONS
        ]

    phases = [
        Phase(activities=3),  # prepare, claim, verify
        Phase(
            calls=everywhere("catalog", 0, quick=True), after_each=1, activities=2
        ),  # plan, record
        Phase(calls=everywhere("stage", 1)),
    ]
    for number, ring in enumerate(rings):
        calls = [
            Call(
                region=region,
                step=Step(
                    activities=shards,
                    at_once=Rollout().concurrent_shards(shards),
                    name=f"ring-{number}/{region}",
                ),
            )
            for region, shards in ring.items()
        ]
        phases += [
            Phase(activities=2),
            Phase(calls=calls, activities=1),
        ]  # calendar, verify; record
    phases.append(Phase(calls=everywhere("retire", 2 + retired), activities=2))  # record, free
    return Shape(phases=phases)


async def _prepare_bare(client: Client) -> None:
    for region in REGIONS:
        worker = EndpointTarget.Worker(namespace=region, task_queue=REGION_QUEUE)
        spec = EndpointSpec(name=f"bare-{region}", target=EndpointTarget(worker=worker))
        await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))


async def _bare(client: Client, number: int, plan: Shape) -> float:
    began = time.perf_counter()
    await client.execute_workflow(
        BareRollout.run, plan, id=f"bare/{number}", task_queue=CONTROL_QUEUE
    )
    return time.perf_counter() - began


async def _real(client: Client, number: int, release: str) -> tuple[float, RolloutResult]:
    request = RolloutRequest(release=release, skip_gates="benchmark: nothing to judge")
    began = time.perf_counter()
    result: RolloutResult = await client.execute_workflow(
        "FleetRollout",
        request,
        id=f"rollout/bench/{number}",
        task_queue="control",
        result_type=RolloutResult,
    )
    took = time.perf_counter() - began
    assert result.status.state == RolloutState.COMPLETED, result.status.why
    return took, result


async def _measure(stack: Stack, rounds: int) -> list[tuple[float, float]]:
    client = await stack.client()
    await _prepare_bare(client)
    listed = {
        item["version"]: item["digest"]
        for item in stack.json("releases", "list")
        if item["name"] == "catalog"
    }
    releases = [listed["1.0.0"], listed["1.1.0"]]
    plan = stack.json("rollout", "plan", "catalog:1.0.0")
    rings = [
        {region: len(found) for region, found in ring["by_region"].items()}
        for ring in plan["rings"]
    ]
    floor = shape(rings, retired=1)
    await _real(client, 0, releases[0])
    await _bare(client, 0, floor)
    pairs = []
    for number in range(1, rounds + 1):
        real, _ = await _real(client, number, releases[number % 2])
        bare = await _bare(client, number, floor)
        pairs.append((real, bare))
        print(f"  pair {number}: rollout {real:.2f} s, bare {bare:.2f} s", file=sys.stderr)
    return pairs


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        os.environ["CHAINRING_HOME"] = str(home)
        with running_stack(home, render_default_config()) as stack:
            stack.chainring("fleet", "seed", "--tenants", "10000", "--shards", "100")
            stack.build_samples("1.0.0", "1.1.0")
            address = stack.addresses("control")["temporal"]["address"]
            workers = [
                subprocess.Popen(
                    [sys.executable, str(ROOT / "scripts" / "bare_rollout.py"), place, address],
                    preexec_fn=die_with_parent,
                )
                for place in ("control", *REGIONS)
            ]
            try:
                pairs = asyncio.run(_measure(stack, given.rounds))
            finally:
                for worker in workers:
                    worker.terminate()
                    worker.wait()
    real, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(mine / floor for mine, floor in pairs)
    print("| full rollout, 10,000 tenants, 100 shards, 4 rings | median of", len(pairs), "pairs |")
    print("|---|--:|")
    print(f"| FleetRollout | {real:.2f} s |")
    print(f"| bare workflow, same calls | {bare:.2f} s |")
    print(f"| ratio (target 1.5 or less) | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
