"""`chainring build`: a commit becomes a release, with its evidence."""

import asyncio
from pathlib import PurePosixPath
from typing import Annotated

import typer
from rich.markup import escape
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from models.build import BuildRequest, BuildResult, BuildState, BuildStatus
from models.build_file import BUILD_FILE
from workers.cli.output import NEGATIVE, console, emit_json, emit_table, fail
from workers.cli.temporal import control_client, next_id, run
from workers.settings import load_control

app = typer.Typer(
    help="Build, test and attest releases out of git, and look at builds.", no_args_is_help=True
)

POLL_SECONDS = 0.3

BuildArg = Annotated[str, typer.Argument(help="workflow id, such as build/web-1a2b3c4d5e6f/1")]
ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]


@app.command()
def start(
    repository: Annotated[str, typer.Argument(help="absolute path, or URL: file, ssh, https")],
    commit: Annotated[str, typer.Argument(help="all 40 hex digits")],
    ref: Annotated[
        str | None, typer.Option(help="full name; the commit must be reachable from it")
    ] = None,
    build_file: Annotated[str, typer.Option(help="in the source tree")] = BUILD_FILE,
    reproducible: Annotated[
        bool, typer.Option("--reproducible", help="build twice and compare")
    ] = False,
    actor: ActorOpt = "operator",
    reason: Annotated[str, typer.Option(help="why; kept in the receipt")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="watch until it ends")] = True,
    as_json: JsonOpt = False,
) -> None:
    """Build a commit. Exit code 1 when no release came of it.

    Example: chainring build start /srv/git/web 1a2b... --ref refs/heads/main --actor ana
    """
    request = BuildRequest(
        repository=repository,
        commit=commit,
        ref=ref,
        build_file=build_file,
        reproducible=reproducible,
        actor=actor,
        reason=reason,
    )
    build = run(_start(request))
    if not wait:
        console.print(f"started [bold]{build}[/bold]", highlight=False)
        return
    _finish(build, as_json)


@app.command()
def watch(build: BuildArg, as_json: JsonOpt = False) -> None:
    """Follow a build until it ends."""
    _finish(build, as_json)


@app.command()
def status(build: BuildArg, as_json: JsonOpt = False) -> None:
    """Show how far a build is."""
    found = run(_status(build))
    if as_json:
        emit_json(found.model_dump(mode="json"))
    else:
        _print(found)


@app.command("list")
def list_builds(as_json: JsonOpt = False) -> None:
    """List builds, newest first."""
    found = run(_list())
    if as_json:
        emit_json([each.model_dump(mode="json") for each in found])
        return
    rows = [
        (each.id, each.state, f"{each.name} {each.version}".strip(), each.release or "", each.why)
        for each in found
    ]
    emit_table(["build", "state", "release", "digest", "why"], rows)


@app.command()
def cancel(build: BuildArg) -> None:
    """Cancel a build; its commands are ended, and nothing of it is published."""
    run(_cancel(build))
    console.print(f"{build}: cancellation was asked for", highlight=False)


def workflow_prefix(request: BuildRequest) -> str:
    """``build/<repository>-<commit>``: what the workflow id says it builds."""
    name = PurePosixPath(request.repository.rstrip("/").replace(":", "/")).name
    return f"build/{name.removesuffix('.git') or 'source'}-{request.commit[:12]}"


async def _start(request: BuildRequest) -> str:
    client = await control_client()
    workflow_id = await next_id(client, "BuildRelease", workflow_prefix(request))
    await client.start_workflow(
        "BuildRelease",
        request,
        id=workflow_id,
        task_queue=load_control().temporal.task_queue,
    )
    return workflow_id


def _finish(build: str, as_json: bool) -> None:
    found = run(_watch(build, quiet=as_json))
    if as_json:
        emit_json(found.model_dump(mode="json"))
    else:
        _print(found)
    if found.state is not BuildState.BUILT:
        raise typer.Exit(NEGATIVE)


async def _watch(build: str, *, quiet: bool) -> BuildStatus:
    client = await control_client()
    handle = client.get_workflow_handle(build, result_type=BuildResult)
    said = ""
    while True:
        running = (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        found = await _query(client, build)
        if found is not None and found.state != said and not quiet:
            console.print(found.state, highlight=False)
            said = found.state
        if not running:
            return found if found is not None else await _status(build)
        await asyncio.sleep(POLL_SECONDS)


async def _status(build: str) -> BuildStatus:
    client = await control_client()
    handle = client.get_workflow_handle(build, result_type=BuildResult)
    if (await handle.describe()).status is WorkflowExecutionStatus.FAILED:
        found = await _query(client, build)
        if found is None:  # its input did not hold, so it never knew a status
            await handle.result()
            fail(f"{build}: failed")
        return found
    status: BuildStatus = await handle.query("status", result_type=BuildStatus)
    return status


async def _query(client: Client, build: str) -> BuildStatus | None:
    try:
        found: BuildStatus = await client.get_workflow_handle(build).query(
            "status", result_type=BuildStatus
        )
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise
        return None
    except Exception:  # the query fails where the workflow's input does not hold
        return None
    return found


async def _list() -> list[BuildStatus]:
    client = await control_client()
    found = []
    async for each in client.list_workflows('WorkflowType = "BuildRelease"'):
        status = await _query(client, each.id)
        if status is not None:
            found.append(status)
    return found


async def _cancel(build: str) -> None:
    await (await control_client()).get_workflow_handle(build).cancel()


def _print(found: BuildStatus) -> None:
    title = f"{found.name} {found.version}".strip()
    rows = [
        ("build", found.id),
        ("state", found.state),
        ("why", found.why),
        ("release", title),
        ("digest", found.release or ""),
        ("commit", found.commit),
        ("repository", found.repository),
        ("signed by", found.signed_by),
        ("tests", found.tests),
        ("built twice", _twice(found)),
        *((kind, digest) for kind, digest in found.evidence.items()),
        ("receipt", "" if found.receipt is None else str(found.receipt)),
    ]
    for name, value in rows:
        if value:
            console.print(f"{name:<14}{escape(value)}", soft_wrap=True, highlight=False)
    for line in found.differences:
        console.print(f"  {escape(line)}", soft_wrap=True, highlight=False)


def _twice(found: BuildStatus) -> str:
    if found.reproducible is None:
        return ""
    return "identical" if found.reproducible else "different"
