"""`chainring verdict`: what gates and verification said, and whether the evidence says it again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.markdown import Markdown

from models.canonical import CanonicalError, canonical, parse
from models.ids import CONTROL_LEDGER, short
from models.judge import judge
from models.receipts import ReceiptError
from models.release_verdict import render_verdict
from models.verdict import Evidence, Verdict, render_markdown
from stores.ledger import Ledger
from stores.sql import StoreUnavailable, open_engine
from workers.cli.output import (
    NEGATIVE,
    OK,
    UNREACHABLE,
    USAGE,
    console,
    emit_json,
    emit_table,
    fail,
)
from workers.cli.release_verdicts import recorded_verdicts, replay_release
from workers.settings import load_control, load_region

KIND = "gate.verdict"

app = typer.Typer(
    help="Read the verdicts of gates and of verification, and replay them from their evidence.",
    no_args_is_help=True,
)

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RECEIPT_FILE]",
        help="A receipt as JSON, or an export with one receipt a line.",
    ),
]
LedgerName = Annotated[str, typer.Option("--ledger", help="The ledger that --seq counts in.")]
Seq = Annotated[int | None, typer.Option(min=0, help="Sequence number of the receipt.")]
Rollout = Annotated[str | None, typer.Option(help="Every gate's verdict of this rollout.")]
Release = Annotated[
    str | None,
    typer.Option(
        help="Verdicts on a release's evidence: digest, name:version, or number of the receipt."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class _Recorded:
    """A verdict as a receipt has it; ``origin`` says which."""

    origin: str
    evidence: Evidence
    verdict: dict[str, Any]


@app.command()
def replay(
    file: File = None,
    ledger: LedgerName = CONTROL_LEDGER,
    seq: Seq = None,
    rollout: Rollout = None,
    release: Release = None,
    json: Json = False,
) -> None:
    """Judge the recorded evidence again, and compare. Exit code 0: all match; 1: one does not.

    Example: chainring verdict replay --ledger control --seq 42
    """
    if release is not None:
        _only(file, seq, rollout)
        _replay_releases(release, json)
    replays = [_replay(each) for each in _load(file, ledger, seq, rollout)]
    if json:
        emit_json(replays)
    else:
        emit_table(
            ("receipt", "ring", "look", "recorded", "replayed", "result"),
            [
                (
                    each["receipt"],
                    each["ring"],
                    each["look"],
                    each["recorded"],
                    each["replayed"],
                    "match" if each["match"] else f"MISMATCH in {', '.join(each['differences'])}",
                )
                for each in replays
            ],
        )
    raise typer.Exit(OK if all(each["match"] for each in replays) else NEGATIVE)


@app.command()
def show(
    file: File = None,
    ledger: LedgerName = CONTROL_LEDGER,
    seq: Seq = None,
    rollout: Rollout = None,
    release: Release = None,
    json: Json = False,
) -> None:
    """Print verdicts as they were recorded.

    Example: chainring verdict show --rollout rollout/catalog-1.1.0/1
    """
    if release is not None:
        _only(file, seq, rollout)
        _show_releases(release, json)
        return
    recorded = _load(file, ledger, seq, rollout)
    if json:
        emit_json([each.verdict for each in recorded])
        return
    for each in recorded:
        try:
            verdict = Verdict.model_validate(each.verdict)
        except ValidationError as error:
            fail(f"{each.origin}: verdict.{_first(error)}")
        console.print(Markdown(render_markdown(verdict)))
        console.print()


def _only(*others: object) -> None:
    if any(other is not None for other in others):
        fail("name one source: RECEIPT_FILE, --seq, --rollout or --release")


def _replay_releases(which: str, json: bool) -> NoReturn:
    replays = [replay_release(each) for each in recorded_verdicts(which)]
    if json:
        emit_json(replays)
    else:
        emit_table(
            ("receipt", "release", "phase", "recorded", "replayed", "result"),
            [
                (
                    each["receipt"],
                    short(each["release"]),
                    each["phase"],
                    each["recorded"],
                    each["replayed"],
                    "match" if each["match"] else f"MISMATCH: {', '.join(each['differences'])}",
                )
                for each in replays
            ],
        )
    raise typer.Exit(OK if all(each["match"] for each in replays) else NEGATIVE)


def _show_releases(which: str, json: bool) -> None:
    recorded = recorded_verdicts(which)
    if json:
        emit_json([each.verdict.model_dump(mode="json") for each in recorded])
        return
    for each in recorded:
        console.print(Markdown(render_verdict(each.verdict)))
        if each.override:
            console.print(f"let through by {each.override}", highlight=False)
        console.print()


def _replay(recorded: _Recorded) -> dict[str, Any]:
    again = judge(recorded.evidence).model_dump(mode="json")
    differences = sorted(_differences(recorded.verdict, again))
    return {
        "receipt": recorded.origin,
        "ring": recorded.evidence.ring,
        "look": recorded.evidence.look,
        "recorded": recorded.verdict.get("outcome"),
        "replayed": again["outcome"],
        "match": canonical(recorded.verdict) == canonical(again),
        "differences": differences,
    }


def _differences(recorded: Any, again: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the fields in which two JSON values differ."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        for key in recorded.keys() | again.keys():
            yield from _differences(recorded.get(key), again.get(key), f"{path}.{key}".strip("."))
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        for index, pair in enumerate(zip(recorded, again, strict=True)):
            yield from _differences(*pair, f"{path}.{index}")
    elif recorded != again:
        yield path or "verdict"


def _load(file: Path | None, ledger: str, seq: int | None, rollout: str | None) -> list[_Recorded]:
    if sum(source is not None for source in (file, seq, rollout)) != 1:
        fail("name one source: RECEIPT_FILE, --seq or --rollout")
    found = _from_file(file) if file is not None else _from_ledger(ledger, seq, rollout)
    if not found:
        fail(f"no receipt of kind {KIND} there", USAGE)
    return [_recorded(origin, body) for origin, body in found]


def _from_file(file: Path) -> list[tuple[str, Any]]:
    try:
        data = file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) > 1 and _is_object(lines[0]):
        receipts = [(f"line {number}", _parse(file, line)) for number, line in enumerate(lines, 1)]
    else:
        receipts = [(file.name, _parse(file, data))]
    return [
        (_origin(receipt, place), receipt.get("body", receipt))
        for place, receipt in receipts
        if receipt.get("kind", KIND) == KIND
    ]


def _origin(receipt: dict[str, Any], place: str) -> str:
    """A receipt's own name if it has one, else where it was found."""
    if "ledger" in receipt and "seq" in receipt:
        return f"{receipt['ledger']} {receipt['seq']}"
    return place


def _is_object(line: bytes) -> bool:
    """Whether a line is an object by itself, as in an export, and not the start of a longer one."""
    try:
        return isinstance(parse(line), dict)
    except CanonicalError:
        return False


def _parse(file: Path, data: bytes) -> dict[str, Any]:
    try:
        value = parse(data)
    except CanonicalError as error:
        fail(f"{file}: {error}")
    if not isinstance(value, dict):
        fail(f"{file}: not a receipt, which is a JSON object")
    return value


def _from_ledger(name: str, seq: int | None, rollout: str | None) -> list[tuple[str, Any]]:
    url = (load_control() if name == CONTROL_LEDGER else load_region(name)).database
    try:
        ledger = Ledger(open_engine(url), name)
        if seq is not None:
            stored = [each for each in [ledger.get(seq)] if each is not None]
        else:
            stored = list(ledger.read(kinds=[KIND], subject=rollout))
        receipts = [each.receipt for each in stored]
    except StoreUnavailable as error:
        fail(f"ledger {name}: {error}", UNREACHABLE)
    except ReceiptError as error:
        fail(f"ledger {name}: {error}", NEGATIVE)
    return [(f"{name} {receipt.seq}", receipt.body) for receipt in receipts if receipt.kind == KIND]


def _recorded(origin: str, body: Any) -> _Recorded:
    if not isinstance(body, dict) or not isinstance(body.get("verdict"), dict):
        fail(f"{origin}: body: a receipt of kind {KIND} has evidence and a verdict")
    try:
        evidence = Evidence.model_validate(body.get("evidence"))
    except ValidationError as error:
        fail(f"{origin}: evidence.{_first(error)}")
    return _Recorded(origin, evidence, body["verdict"])


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
