"""`chainring recovery`: who watches the regions' stores, and what recoveries took."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from models.checkpoint import PublicKey
from models.config_recovery import Sla
from models.recovery_report import Recovery, RecoveryReport, recovery_report
from models.restore_certificate_check import Certificate, verify_certificate
from models.verifier import Refused
from workers.cli import watch
from workers.cli.certificate import Keys, plain, read_file, read_keys, seconds
from workers.cli.drills import acknowledge, drill, list_incidents, resolve
from workers.cli.drills_history import history, print_history
from workers.cli.output import NEGATIVE, USAGE, console, emit_json, emit_table, fail

app = typer.Typer(
    help="Watch regions' stores; recoveries and drills against their SLAs.", no_args_is_help=True
)
for _name, _command in (
    ("watch", watch.watch),
    ("status", watch.watched),
    ("pause", watch.pause),
    ("resume", watch.resume),
):
    app.command(_name)(_command)
app.command()(drill)
app.command("incidents")(list_incidents)
app.command()(acknowledge)
app.command()(resolve)

_SLA = Sla()


@app.callback()
def _root() -> None:
    """Watch regions' stores; recoveries and drills against their SLAs."""


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="certificates, each a file *.json")],
    key: Keys,
    detect: Annotated[int, typer.Option(min=1, help="seconds")] = _SLA.detect_failure_seconds,
    failover: Annotated[int, typer.Option(min=1, help="seconds")] = _SLA.initiate_failover_seconds,
    restore: Annotated[int, typer.Option(min=1, help="seconds")] = _SLA.restore_from_backup_seconds,
    healing: Annotated[int, typer.Option(min=1, help="seconds")] = _SLA.full_healing_seconds,
    rpo: Annotated[int, typer.Option(min=1, help="minutes")] = _SLA.rpo_minutes,
    rto: Annotated[int, typer.Option(min=1, help="minutes")] = _SLA.rto_minutes,
    region: Annotated[
        str | None, typer.Option(help="show its drills and incidents too, by its ledger")
    ] = None,
    strict: Annotated[bool, typer.Option(help="exit code 1 for a miss too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Verify all certificates of a directory; show what was realised, and name each miss.

    They are verified in themselves: a store goes on after a drill, so that its newest head says
    nothing about an older certificate. Exit code 0: all stand; 1: one does not, and is left out.

    Example: chainring recovery report certificates --key eu.vkey
    """
    sla = Sla(
        detect_failure_seconds=detect,
        initiate_failover_seconds=failover,
        restore_from_backup_seconds=restore,
        full_healing_seconds=healing,
        rpo_minutes=rpo,
        rto_minutes=rto,
    )
    found, refused = _read(directory, read_keys(key))
    made = recovery_report(found, sla)
    said = history(region) if region else None
    if as_json:
        emit_json({**made.model_dump(mode="json"), "refused": refused, **(said or {})})
    else:
        _print(made, refused)
        if said is not None:
            print_history(said)
    if refused or (strict and made.misses):
        raise typer.Exit(NEGATIVE)


def _read(
    directory: Path, keys: Sequence[PublicKey]
) -> tuple[list[Certificate], list[dict[str, str]]]:
    """The certificates that stand, and those that do not."""
    paths = sorted(directory.glob("*.json"))
    if not paths:
        fail(f"{directory}: there are no certificates (*.json)", USAGE)
    found, refused = [], []
    for path in paths:
        try:
            found.append(verify_certificate(read_file(path), keys, []))
        except Refused as refusal:
            refused.append({"file": str(path), "code": refusal.code, "detail": refusal.detail})
    return found, refused


def _print(made: RecoveryReport, refused: Sequence[dict[str, str]]) -> None:
    columns = ("finished", "kind", "region", "store", "verdict", "missing")
    measures = [f"{name} (<= {limit:g} s)" for name, limit in _limits(made.recoveries)]
    emit_table((*columns, *measures), [_row(each) for each in made.recoveries], "recoveries")
    for miss in made.misses:
        console.print(
            f"[red]MISS[/red] {miss.sla} of {miss.region}, {miss.finished_at.isoformat()}: "
            f"{seconds(miss.seconds)}, promised {miss.limit:g} s ({miss.certificate[7:19]})",
            highlight=False,
            soft_wrap=True,
        )
    for each in refused:
        console.print(
            f"[red]NOT VERIFIED[/red] {plain(each['file'])}: {each['code']}: "
            f"{plain(each['detail'])}",
            highlight=False,
            soft_wrap=True,
        )


def _limits(recoveries: Sequence[Recovery]) -> list[tuple[str, float]]:
    return [(each.name, each.limit) for each in recoveries[0].measures] if recoveries else []


def _row(each: Recovery) -> list[str]:
    said = [f"{each.finished_at:%Y-%m-%d %H:%M}", each.kind, each.region, each.store[:8]]
    said += [each.verdict, str(each.missing)]
    return said + [
        f"[red]{seconds(one.seconds)}[/red]" if one.missed else seconds(one.seconds)
        for one in each.measures
    ]
