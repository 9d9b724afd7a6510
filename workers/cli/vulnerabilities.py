"""`chainring vulnerabilities`: keep the data fresh, and ask what is known of a package."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, get_args

import typer

from models.sbom import Component
from models.vulnerability_data import FEEDS, Feed, RefreshReport, RefreshRequest
from stores.sql import StoreUnavailable
from stores.vulnerabilities import VulnerabilityStore
from workers.cli.output import NEGATIVE, UNREACHABLE, USAGE, console, emit_json, emit_table, fail
from workers.cli.temporal import control_client, next_id, run
from workers.settings import load_control
from workers.supply import vulnerability_source

app = typer.Typer(help="Vulnerability data: load it, and ask it.", no_args_is_help=True)

JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]
NO_RELEASE = f"sha256:{'0' * 64}"


@app.command()
def refresh(
    feeds: Annotated[
        list[str] | None,
        typer.Argument(help="FEED=LOCATION: osv, nvd, kev or epss; a path or an http(s) URL."),
    ] = None,
    actor: Annotated[str, typer.Option(help="who asks; kept in the receipt")] = "operator",
    reason: Annotated[str, typer.Option(help="why; kept in the receipt")] = "by hand",
    as_json: JsonOpt = False,
) -> None:
    """Load feeds, those of the configuration when none is named; then judge again what runs.

    Example: chainring vulnerabilities refresh osv=/srv/osv/all.zip nvd=/srv/nvd
    """
    request = RefreshRequest(feeds=_feeds(feeds), actor=actor, reason=reason)
    report = run(_refresh(request))
    if as_json:
        emit_json(report.model_dump(mode="json"))
        return
    rows = [(feed.name, feed.records, feed.as_of or "-", feed.digest) for feed in report.feeds]
    emit_table(["feed", "records", "newest", "digest"], rows)


@app.command()
def status(as_json: JsonOpt = False) -> None:
    """What is loaded, and how old it is. Exit code 1 when nothing is."""
    snapshot = _store().snapshot()
    if as_json:
        emit_json({"digest": snapshot.digest, **snapshot.model_dump(mode="json")})
    else:
        now = datetime.now(UTC)
        rows = [
            (
                feed.name,
                feed.records,
                f"{(now - feed.loaded_at).total_seconds() / 3600:.1f} h ago",
                feed.as_of or "-",
            )
            for feed in snapshot.feeds
        ]
        emit_table(["feed", "records", "loaded", "newest"], rows)
    if not snapshot.feeds:
        raise typer.Exit(NEGATIVE)


@app.command()
def search(
    purl: Annotated[str, typer.Argument(help="package URL with a version")],
    as_json: JsonOpt = False,
) -> None:
    """What is known against one package. Exit code 1 when something is.

    Example: chainring vulnerabilities search pkg:pypi/flask@1.0
    """
    address = load_control().verification
    if address is None:
        fail("this home names no vulnerability database", UNREACHABLE)
    try:
        component = Component(kind="library", name=purl, purl=purl)
        looked_up = vulnerability_source(address).look_up(
            NO_RELEASE, [component], at=datetime.now(UTC)
        )
        report = looked_up.report
    except StoreUnavailable as error:
        fail(str(error), UNREACHABLE)
    if report.unmatched:
        fail(f"purl: {purl!r} is of no kind that a loaded feed covers", USAGE)
    if as_json:
        emit_json([found.model_dump(mode="json") for found in report.found])
    elif report.found:
        rows = [
            (found.id, found.severity, ", ".join(found.fixed_in) or "-", found.cleared_by or "-")
            for found in report.found
        ]
        emit_table(["vulnerability", "severity", "fixed in", "cleared by"], rows)
    else:
        console.print(f"nothing is known against {purl}", highlight=False)
    if any(not found.cleared_by for found in report.found):
        raise typer.Exit(NEGATIVE)


def _feeds(given: list[str] | None) -> dict[Feed, str] | None:
    if not given:
        return None
    found: dict[Feed, str] = {}
    for text in given:
        name, equals, location = text.partition("=")
        known = next((feed for feed in get_args(Feed) if feed == name), None)
        if known is None or not equals or not location:
            fail(f"feeds: {text!r} is not FEED=LOCATION with one of {', '.join(FEEDS)}", USAGE)
        found[known] = location if "://" in location else str(Path(location).resolve())
    return found


def _store() -> VulnerabilityStore:
    address = load_control().verification
    if address is None:
        fail("this home names no vulnerability database", UNREACHABLE)
    return VulnerabilityStore(address.vulnerabilities)


async def _refresh(request: RefreshRequest) -> RefreshReport:
    client = await control_client()
    report: RefreshReport = await client.execute_workflow(
        "RefreshVulnerabilities",
        request,
        id=await next_id(client, "RefreshVulnerabilities", "vulnerabilities/by-hand"),
        task_queue=load_control().temporal.task_queue,
        result_type=RefreshReport,
    )
    return report
