"""`chainring verify`: one verdict over all of a release's evidence, asked of the control plane."""

from typing import Annotated

import typer
from rich.markdown import Markdown

from models.ids import short
from models.release_verdict import ReleaseVerdict, VerifyRequest, render_verdict
from stores.oci import ReleaseError
from workers.cli.output import NEGATIVE, OK, UNREACHABLE, USAGE, console, emit_json, fail
from workers.cli.temporal import control_client, next_id, run
from workers.release_store import open_releases
from workers.settings import load_control

_EXIT = {"pass": OK, "fail": NEGATIVE, "error": UNREACHABLE}


def verify(
    release: Annotated[str, typer.Argument(help="name:version or sha256:... digest")],
    actor: Annotated[str, typer.Option(help="who asks; kept in the workflow")] = "operator",
    reason: Annotated[str, typer.Option(help="why; kept in the workflow")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Judge a release by all of its evidence; nothing is rolled out.

    Exit code 0: it passes; 1: it is refused; 3: there is no answer.

    Example: chainring verify catalog:1.1.0
    """
    layout = open_releases(load_control())
    try:
        digest = layout.resolve(release)
        spec = layout.describe(digest)
        name = f"{spec.name}-{spec.version}"
    except ReleaseError as error:
        fail(str(error), USAGE)
    request = VerifyRequest(release=digest, actor=actor, reason=reason)
    verdict = run(_verify(request, name))
    if as_json:
        emit_json({"digest": verdict.digest(), **verdict.model_dump(mode="json")})
    else:
        console.print(Markdown(render_verdict(verdict)))
        console.print(
            f"give it again: chainring verdict replay --release {short(verdict.release)}",
            highlight=False,
        )
    raise typer.Exit(_EXIT[verdict.outcome])


async def _verify(request: VerifyRequest, name: str) -> ReleaseVerdict:
    client = await control_client()
    workflow_id = await next_id(client, "VerifyRelease", f"verify/{name}")
    handle = await client.start_workflow(
        "VerifyRelease",
        request,
        id=workflow_id,
        task_queue=load_control().temporal.task_queue,
        result_type=ReleaseVerdict,
    )
    verdict: ReleaseVerdict = await handle.result()
    return verdict
