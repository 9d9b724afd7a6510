"""`chainring certificate`: read and verify what a restore reached, with files and keys alone."""

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from models.checkpoint import PublicKey, parse_keys
from models.region_statement import MAX_BYTES
from models.restore_certificate import RestorePredicate, RestoreStatement
from models.restore_certificate_check import read_certificate, verify_certificate
from models.verifier import Refused
from workers.cli.output import NEGATIVE, USAGE, console, emit_json, fail

app = typer.Typer(
    help="What a restore reached: certificates, checked with files and public keys alone.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(help="the certificate")]
Keys = Annotated[list[Path], typer.Option("--key", help="file with a region's vkeys; repeatable")]
Heads = Annotated[
    list[Path],
    typer.Option(
        "--head",
        help="a signed head of the store, or a checkpoint of its region's ledger; repeatable",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="for scripts")]


@app.command()
def show(file: File, as_json: Json = False) -> None:
    """Print what a certificate says. It is not verified.

    Example: chainring certificate show restore.json
    """
    try:
        statement = read_certificate(read_file(file))
    except Refused as refusal:
        _refuse(file, refusal, as_json)
    if as_json:
        emit_json(statement.model_dump(mode="json", by_alias=True))
        return
    console.print("[yellow]not verified[/yellow]: this is what the file says", highlight=False)
    _print(statement)


@app.command()
def verify(file: File, key: Keys, head: Heads, as_json: Json = False) -> None:
    """Verify a certificate against signed heads that you have from elsewhere.

    Exit code 0: it stands; 1: it does not; 2: a file cannot be read.

    Example: chainring certificate verify restore.json --key eu.vkey --head eu-state.note
    """
    data, keys = read_file(file), read_keys(key)
    heads = [read_file(each) for each in head]
    try:
        found = verify_certificate(data, keys, heads)
    except Refused as refusal:
        _refuse(file, refusal, as_json)
    if as_json:
        said = found.predicate
        emit_json(
            {
                "verified": True,
                "digest": found.digest,
                "key": found.key,
                "heads": found.heads,
                "verdict": said.verdict,
                "missing": said.missing,
                "statement": found.statement.model_dump(mode="json", by_alias=True),
            }
        )
        return
    console.print(
        f"[green]verified[/green] {plain(file)}: signed by {found.key}, "
        f"{found.heads} head(s) known",
        highlight=False,
        soft_wrap=True,
    )
    _print(found.statement)


def plain(text: object) -> str:
    """A stranger's text for the terminal: no markup, and no control character has an effect."""
    return escape("".join(each if each.isprintable() else "\ufffd" for each in str(text)))


def read_file(path: Path) -> bytes:
    """A file of bounded size; ends the command when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        fail(f"{path}: {error.strerror}", USAGE)


def read_keys(paths: list[Path]) -> list[PublicKey]:
    """Public keys out of their files; ends the command at one that is none."""
    keys = []
    for path in paths:
        try:
            keys += parse_keys(read_file(path).decode(errors="replace"))
        except Refused as refusal:
            fail(f"{path}: {refusal}", USAGE)
    return keys


def _refuse(file: Path, refusal: Refused, as_json: bool) -> NoReturn:
    if as_json:
        emit_json({"verified": False, "code": refusal.code, "detail": refusal.detail})
    else:
        console.print(
            f"[red]NOT VERIFIED[/red] {plain(f'{file}: {refusal}')}",
            highlight=False,
            soft_wrap=True,
        )
    raise typer.Exit(NEGATIVE)


def _print(statement: RestoreStatement) -> None:
    for name, value in _lines(statement.predicate):
        console.print(f"{name:>14}  {plain(value)}", highlight=False, soft_wrap=True)


def _lines(said: RestorePredicate) -> list[tuple[str, Any]]:
    goal = said.goal.model_dump(mode="json", exclude_none=True)
    signed = "signed for exactly this change" if said.root_signed else "by the chain"
    lines = [
        ("verdict", said.verdict),
        (said.kind, f"{said.region}, store {said.source_store} as {said.restored_store}"),
        ("goal", ", ".join(f"{name} {value}" for name, value in goal.items()) or "the head"),
        ("reached", f"change {said.reached_seq} of {said.target_seq}, {said.missing} missing"),
        ("state root", f"{said.state_root_found}, {signed}"),
        ("chain", said.chain),
        ("base", said.base_manifest),
        ("segments", len(said.segments)),
        ("documents", f"{said.documents}, {said.erased} erased"),
        ("receipts", f"{said.receipts}, at least {said.receipts_expected} expected"),
        ("finished", said.times.finished_at.isoformat()),
        ("RPO", seconds(said.rpo_seconds)),
        ("RTO", seconds(said.rto_seconds)),
        ("code", f"{said.code_version}, schema {said.schema_version}"),
    ]
    if said.gap is not None:
        lines.append(("gap", f"changes {said.gap.first} to {said.gap.last}: {said.gap.why}"))
    if said.acceptance is not None:
        lines.append(("accepted by", f"{said.acceptance.actor}: {said.acceptance.reason}"))
    lines += [("phase", f"{p.name}: {seconds(p.seconds)}, {p.amount}") for p in said.phases]
    return lines + [("finding", f"{each.where}: {each.what}") for each in said.findings]


def seconds(value: float | None) -> str:
    """A duration for a person; one that nobody can tell is a dash."""
    return "-" if value is None else f"{value:.1f} s"
