"""`chainring rollout`: the operator's path, the same that `temporal workflow` commands take."""

import json
import uuid
from typing import Annotated, Any

import typer
from rich.markup import escape
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)

from models.ids import CONTROL_LEDGER, short
from models.planning import Plan
from models.receipts import Draft
from models.rollout import (
    AbortDecision,
    Decision,
    DecisionAnswer,
    RolloutRequest,
    RolloutResult,
    RolloutState,
    RolloutStatus,
)
from stores.control import ControlStore
from stores.ledger import Ledger
from stores.oci import ReleaseError
from stores.sql import open_engine
from workers.cli.output import NEGATIVE, USAGE, console, emit_json, emit_table, fail
from workers.cli.temporal import control_client, next_id, run
from workers.cli.watching import watch_rollout
from workers.release_store import open_releases
from workers.settings import load_control
from workflows.regions import plain_words

app = typer.Typer(help="Plan, start, watch and steer rollouts.", no_args_is_help=True)

_GOOD = {RolloutState.COMPLETED, RolloutState.COMPLETED_WITH_DEBT}

ReleaseArg = Annotated[str, typer.Argument(help="name:version or sha256:... digest")]
RolloutArg = Annotated[str, typer.Argument(help="workflow id, such as rollout/web-1.2.0/1")]
ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
ReasonOpt = Annotated[str, typer.Option(help="why; kept in the receipt")]
JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]
SetOpt = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE: a configuration key, this time only")
]


@app.command()
def plan(release: ReleaseArg, overrides: SetOpt = None, as_json: JsonOpt = False) -> None:
    """Show the rings a rollout would take; nothing changes.

    Example: chainring rollout plan catalog:1.1.0
    """
    request = _request(release, overrides, dry_run=True)
    result = run(_execute(request, "plan"))
    assert result.plan is not None
    if as_json:
        emit_json(result.plan.model_dump(mode="json"))
        return
    print_plan(result.plan)


@app.command()
def start(
    release: ReleaseArg,
    actor: ActorOpt = "operator",
    reason: ReasonOpt = "",
    overrides: SetOpt = None,
    when_busy: Annotated[
        str | None, typer.Option(help="wait, supersede or refuse while another one runs")
    ] = None,
    accept_known_bad: Annotated[
        str | None, typer.Option(help="why a release that failed before is tried again")
    ] = None,
    skip_gates: Annotated[
        str | None, typer.Option(help="why no gate judges it: first installation, emergency")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="watch until it ends")] = True,
) -> None:
    """Start a rollout and watch it. Exit code 1 when the release is not on the fleet at the end.

    Example: chainring rollout start catalog:1.1.0 --actor ana --reason "weekly release"
    """
    request = _request(
        release,
        overrides,
        actor=actor,
        reason=reason,
        when_busy=when_busy,
        accept_known_bad=accept_known_bad,
        skip_gates=skip_gates,
    )
    workflow_id = run(_start(request))
    console.print(f"started [bold]{workflow_id}[/bold]")
    if wait:
        _finish(run(_watch(workflow_id)))


@app.command()
def watch(rollout: RolloutArg) -> None:
    """Follow a rollout until it ends."""
    _finish(run(_watch(rollout)))


@app.command()
def status(rollout: RolloutArg, as_json: JsonOpt = False) -> None:
    """Show where a rollout is."""
    found = run(_query(rollout))
    if as_json:
        emit_json(found.model_dump(mode="json"))
    else:
        print_status(found)


@app.command("list")
def list_rollouts(as_json: JsonOpt = False) -> None:
    """List rollouts, newest first."""
    rows = run(_list())
    if as_json:
        emit_json(rows)
    else:
        emit_table(["rollout", "state", "ring", "started"], [list(row.values()) for row in rows])


@app.command()
def pause(rollout: RolloutArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Start no further ring; a failing gate still rolls back."""
    _decide(rollout, "pause", Decision(actor=actor, reason=reason))


@app.command()
def resume(rollout: RolloutArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Go on after a pause."""
    _decide(rollout, "resume", Decision(actor=actor, reason=reason))


@app.command()
def promote(rollout: RolloutArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Skip the rest of the ring's bake, or let a held gate pass."""
    _decide(rollout, "promote", Decision(actor=actor, reason=reason))


@app.command("retry-gate")
def retry_gate(rollout: RolloutArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Bake the ring again after a gate that gave no answer."""
    _decide(rollout, "retry_gate", Decision(actor=actor, reason=reason))


@app.command("override-freeze")
def override_freeze(rollout: RolloutArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Let the ring start although the calendar forbids it."""
    _decide(rollout, "override_freeze", Decision(actor=actor, reason=reason))


@app.command()
def abort(
    rollout: RolloutArg,
    actor: ActorOpt,
    reason: ReasonOpt,
    rollback: Annotated[bool, typer.Option("--rollback/--no-rollback")] = True,
) -> None:
    """Stop for good; changed shards go back unless --no-rollback."""
    _decide(rollout, "abort", AbortDecision(actor=actor, reason=reason, rollback=rollback))


@app.command("known-bad")
def known_bad(as_json: JsonOpt = False) -> None:
    """List releases that a gate stopped; a new rollout of one is refused."""
    found = _control_store().known_bad()
    if as_json:
        emit_json(found)
    else:
        emit_table(["release", "why"], [(short(release), why) for release, why in found.items()])


@app.command()
def pardon(release: ReleaseArg, actor: ActorOpt, reason: ReasonOpt) -> None:
    """Take a release off the list of known bad ones; a receipt says who and why.

    Example: chainring rollout pardon catalog:1.1.0 --actor ana --reason "the database was slow"
    """
    digest = _digest(release)
    decision = Decision(actor=actor, reason=reason)
    draft = Draft(
        kind="release.pardoned",
        actor=decision.actor,
        subject=digest,
        body={"release": digest, "reason": decision.reason},
        idempotency_key=f"pardon/{digest}/{uuid.uuid4()}",
    )
    if not _control_store().pardon(digest, draft):
        fail(f"{release} is not known bad", NEGATIVE)
    console.print(f"{release} may be rolled out again")


def _control_store() -> ControlStore:
    engine = open_engine(load_control().database)
    return ControlStore(engine, Ledger(engine, CONTROL_LEDGER))


def print_plan(plan: Plan) -> None:
    """The rings, the blast radius and what the plan has to say about itself."""
    rows = [
        (
            ring.name,
            len(ring.shards),
            ring.tenants,
            f"{ring.cumulative_percent:.1f} %",
            ", ".join(f"{region} {len(found)}" for region, found in sorted(ring.by_region.items())),
            ", ".join(f"{name} {count}" for name, count in sorted(ring.size_classes.items())),
        )
        for ring in plan.rings
    ]
    columns = ["ring", "shards", "tenants", "share in all", "regions", "size classes"]
    title = f"{short(plan.release)}: {plan.total_tenants} tenants in {plan.total_shards} shards"
    emit_table(columns, rows, title)
    console.print(f"blast radius {plan.blast_radius_percent:.1f} % of tenants before a gate passes")
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False)


def print_status(status: RolloutStatus) -> None:
    """Where the rollout is, ring by ring, with the last verdict in words."""
    console.print(f"[bold]{status.rollout}[/bold] {status.name} {status.version}: {status.state}")
    if status.why:
        console.print(escape(status.why), highlight=False)
    rows = [
        (ring.name, ring.tenants, ring.shards, ring.activated, ring.outcome or "-")
        for ring in status.rings
    ]
    emit_table(["ring", "tenants", "shards", "activated", "gate"], rows)
    for ring in status.rings:
        if ring.verdict is not None and ring.verdict.outcome != "pass":
            for metric in ring.verdict.metrics:
                console.print(
                    f"  {ring.name} {metric.metric}: {metric.outcome}: {escape(metric.why)}",
                    highlight=False,
                )
    if status.verification is not None:
        for line in status.verification.markdown():
            console.print(f"  {escape(line.replace('**', ''))}", highlight=False)
    for warning in status.warnings:
        console.print(f"  [yellow]warning:[/yellow] {escape(warning)}", highlight=False)
    for made in status.decisions:
        console.print(f"  {made.at:%H:%M:%S} {made.what} by {made.actor}: {escape(made.reason)}")


def _request(release: str, overrides: list[str] | None, **fields: Any) -> RolloutRequest:
    digest = _digest(release)
    given = {name: value for name, value in fields.items() if value is not None}
    return RolloutRequest(release=digest, overrides=overrides_of(overrides or []), **given)


def _digest(reference: str) -> str:
    try:
        return open_releases(load_control()).resolve(reference)
    except ReleaseError as error:
        fail(str(error), USAGE)


def overrides_of(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE options as a rollout's overrides; a value that is no JSON is a text."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            fail(f"--set: {pair!r} is not KEY=VALUE", USAGE)
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


async def _name(client: Client, request: RolloutRequest, kind: str) -> str:
    release = open_releases(load_control()).describe(request.release)
    return await next_id(client, "FleetRollout", f"{kind}/{release.name}-{release.version}")


async def _start(request: RolloutRequest, kind: str = "rollout") -> str:
    client, addresses = await control_client(), load_control()
    workflow_id = await _name(client, request, kind)
    await client.start_workflow(
        "FleetRollout", request, id=workflow_id, task_queue=addresses.temporal.task_queue
    )
    return workflow_id


async def _execute(request: RolloutRequest, kind: str) -> RolloutResult:
    workflow_id = await _start(request, kind)
    handle = (await control_client()).get_workflow_handle(workflow_id, result_type=RolloutResult)
    result: RolloutResult = await handle.result()
    return result


async def _watch(rollout: str) -> RolloutStatus:
    return await watch_rollout(await control_client(), rollout)


async def _query(rollout: str) -> RolloutStatus:
    handle = (await control_client()).get_workflow_handle(rollout)
    found: RolloutStatus = await handle.query("status", result_type=RolloutStatus)
    return found


async def _list() -> list[dict[str, str]]:
    client = await control_client()
    rows = []
    async for found in client.list_workflows('WorkflowType = "FleetRollout"'):
        attributes = {pair.key.name: pair.value for pair in found.typed_search_attributes}
        if attributes.get("ChainringState") == RolloutState.PLANNED:
            continue
        rows.append(
            {
                "rollout": found.id,
                "state": await _state(client, found, attributes.get("ChainringState")),
                "ring": str(attributes.get("ChainringRing", "")),
                "started": f"{found.start_time:%Y-%m-%d %H:%M:%S}",
            }
        )
    return rows


async def _state(client: Client, found: WorkflowExecution, said: object) -> str:
    """The rollout's own state; of one that failed, which has none, why it did."""
    if found.status in (WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.COMPLETED):
        return str(said or "")
    ended = found.status.name.lower().replace("_", " ") if found.status else "unknown"
    try:
        await client.get_workflow_handle(found.id, run_id=found.run_id).result()
    except WorkflowFailureError as error:
        return f"{ended}: {plain_words(error)}"
    return ended


def _decide(rollout: str, update: str, decision: Decision) -> None:
    answer = run(_update(rollout, update, decision))
    console.print(f"{rollout}: {answer.decided}, recorded: {answer.then}", highlight=False)


async def _update(rollout: str, update: str, decision: Decision) -> DecisionAnswer:
    handle = (await control_client()).get_workflow_handle(rollout)
    answer: DecisionAnswer = await handle.execute_update(
        update, decision, result_type=DecisionAnswer
    )
    return answer


def _finish(status: RolloutStatus) -> None:
    print_status(status)
    if status.state not in _GOOD:
        raise typer.Exit(NEGATIVE)
