"""`chainring receipts`: read, verify, sign, prove and hand out the ledgers."""

import shutil
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from models import verifier
from models.receipts import StoredReceipt
from models.verifier import Refused
from stores.chain_check import check_export, check_ledger
from stores.checkpoints import Notary
from stores.files import write_atomic
from stores.keys import load_key
from stores.ledger import Ledger
from stores.proofs import Prover
from workers.cli.key_retirement import retire_key
from workers.cli.ledgers import LedgerPlace, find_ledger, known_ledgers, refusals
from workers.cli.output import NEGATIVE, console, emit_json, emit_table, fail
from workers.cli.receipts_repair import repair

app = typer.Typer(help="Read, verify and sign the receipt ledgers.", no_args_is_help=True)

LedgerArg = Annotated[str, typer.Argument(help="control, or a region's code")]
app.command()(repair)
app.command()(retire_key)

JsonOpt = Annotated[bool, typer.Option("--json", help="for scripts")]
StrictOpt = Annotated[bool, typer.Option(help="parse every receipt fully, not only the chain")]


@app.command("list")
def list_receipts(
    ledger: LedgerArg = "control",
    kind: Annotated[list[str] | None, typer.Option(help="only this kind; repeatable")] = None,
    subject: Annotated[str | None, typer.Option(help="only about this")] = None,
    start: Annotated[
        int | None, typer.Option("--from", min=0, help="from this seq on, not the last ones")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 50,
    as_json: JsonOpt = False,
) -> None:
    """List receipts, the last ones unless --from says otherwise.

    Example: chainring receipts list eu --kind shard.activated --limit 10
    """
    with refusals():
        opened = find_ledger(ledger).open()
        found = _choose(opened, kind, subject, start, limit)
        rows = [_as_json(stored) for stored in found]
    if as_json:
        emit_json(rows)
        return
    columns = ("seq", "at", "kind", "subject", "actor", "hash")
    table = [[*(row[column] for column in columns[:-1]), row["hash"][:12]] for row in rows]
    emit_table(columns, table, f"ledger {ledger}")


@app.command()
def show(
    ledger: LedgerArg,
    seq: Annotated[int, typer.Argument(min=0, help="which receipt")],
    raw: Annotated[bool, typer.Option(help="exactly the bytes that are hashed")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Show one receipt.

    Example: chainring receipts show control 12
    """
    with refusals():
        stored = find_ledger(ledger).open().get(seq)
        if stored is None:
            fail(f"seq: ledger {ledger} has no receipt {seq}")
        if raw:
            typer.echo(stored.data, nl=False)
            return
        said = _as_json(stored)
    if as_json:
        emit_json(said)
        return
    body = said.pop("body")
    for name, value in said.items():
        console.print(f"{name:>16}  {escape(str(value))}", highlight=False, soft_wrap=True)
    console.print_json(data=body)


@app.command()
def verify(
    ledger: Annotated[str | None, typer.Argument(help="only this one; all by default")] = None,
    file: Annotated[
        Path | None, typer.Option(help="an export of the ledger instead of its database")
    ] = None,
    strict: StrictOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Verify the chains against their checkpoints; ends with status 1 if one does not hold.

    Example: chainring receipts verify eu --strict
    """
    if file is not None and ledger is None:
        fail("ledger: name the ledger that the file is an export of")
    with refusals():
        places = known_ledgers() if ledger is None else [find_ledger(ledger)]
        results = [_verify(place, file, strict=strict) for place in places]
    if as_json:
        emit_json(results)
    else:
        for result in results:
            _print_result(result)
    if not all(result["verified"] for result in results):
        raise typer.Exit(NEGATIVE)


@app.command()
def export(
    ledger: LedgerArg,
    out: Annotated[Path, typer.Option(help="directory to write to")],
    as_json: JsonOpt = False,
) -> None:
    """Write a ledger, its checkpoints, its public key and the verifier for somebody outside.

    Example: chainring receipts export eu --out handover && python handover/verifier.py
    handover/eu.jsonl --key handover/eu.vkey --checkpoint handover/checkpoints
    """
    with refusals():
        place = find_ledger(ledger)
        keys = [each.line() for each in place.trusted()]
        opened = place.open()
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        notes = list(place.files().named_notes())  # first: all of these must be in the export
        count = _write_lines(opened, out / f"{ledger}.jsonl")
        (out / f"{ledger}.vkey").write_text("\n".join(keys) + "\n")
        for name, note in notes:
            write_atomic(out / "checkpoints" / name, note)
        for path in place.branches():
            (out / "branches").mkdir(exist_ok=True)
            shutil.copyfile(path, out / "branches" / f"{path.parent.name}.jsonl")
        shutil.copyfile(verifier.__file__, out / "verifier.py")
    if as_json:
        emit_json({"ledger": ledger, "receipts": count, "checkpoints": len(notes), "to": out})
        return
    console.print(f"{count} receipts and {len(notes)} checkpoint(s) of {ledger} in {out}")
    command = f"python {out}/verifier.py {out}/{ledger}.jsonl --key {out}/{ledger}.vkey"
    console.print(f"verify: {command} --checkpoint {out}/checkpoints", soft_wrap=True)


@app.command()
def prove(
    ledger: LedgerArg,
    seq: Annotated[int | None, typer.Option(min=0, help="prove that this receipt is in")] = None,
    goes_on_from: Annotated[
        int | None, typer.Option(min=0, help="prove that the ledger goes on from this size")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=0, help="the checkpoint to prove it to; the newest one")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="file to write to")] = None,
) -> None:
    """Prove to an outsider that a receipt is in, or that nothing signed before was changed.

    The document is JSON; `python verifier.py --proof FILE --key eu.vkey` checks it.

    Example: chainring receipts prove eu --seq 12 --out proof.json
    """
    if (seq is None) == (goes_on_from is None):
        fail("give either --seq or --goes-on-from")
    with refusals():
        place = find_ledger(ledger)
        prover = Prover(place.open(), place.files(), place.trusted())
        document: Any
        if seq is not None:
            document = prover.inclusion(seq, size)
        else:
            assert goes_on_from is not None
            document = prover.consistency(goes_on_from, size)
        if out is None:
            emit_json(document)
        else:
            out.write_bytes(verifier.canonical(document).encode() + b"\n")


@app.command()
def checkpoint(
    ledger: Annotated[str | None, typer.Argument(help="only this one; all by default")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Sign what the ledgers hold now, and keep the note outside the database too.

    Example: chainring receipts checkpoint
    """
    with refusals():
        places = known_ledgers() if ledger is None else [find_ledger(ledger)]
        made = [Notary(place.open(), load_key(place.signing_key)).checkpoint() for place in places]
    rows = [
        {"ledger": each.ledger, "size": each.size, "root": each.root.hex(), "head": each.head}
        for each in made
    ]
    if as_json:
        emit_json(rows)
        return
    emit_table(("ledger", "size", "Merkle root"), [[*row.values()][:3] for row in rows])


@app.command()
def key(ledger: LedgerArg = "control") -> None:
    """Print the public key (vkey) that verifies a ledger's checkpoints, and retired ones after it.

    Example: chainring receipts key eu > eu.vkey
    """
    with refusals():
        typer.echo("\n".join(each.line() for each in find_ledger(ledger).trusted()))


def _choose(
    ledger: Ledger,
    kinds: list[str] | None,
    subject: str | None,
    start: int | None,
    limit: int,
) -> list[StoredReceipt]:
    if start is not None:
        return list(ledger.read(start, limit=limit, kinds=kinds, subject=subject))
    if kinds is None and subject is None:
        return list(ledger.read(max(0, ledger.head().size - limit), limit=limit))
    return list(deque(ledger.read(kinds=kinds, subject=subject), maxlen=limit))


def _as_json(stored: StoredReceipt) -> dict[str, Any]:
    return {**stored.receipt.model_dump(mode="json"), "hash": stored.hash}


def _verify(place: LedgerPlace, file: Path | None, *, strict: bool) -> dict[str, Any]:
    try:
        given: Any = {
            "checkpoints": place.checkpoints(),
            "keys": place.trusted(),
            "branches": [list(verifier.read_lines(path)) for path in place.branches()],
            "strict": strict,
        }
        if file is None:
            report = check_ledger(place.open(), **given)
        else:
            report = check_export(file, ledger=place.name, processes=2, **given)
    except Refused as refusal:
        return {
            "ledger": place.name,
            "verified": False,
            "code": refusal.code,
            "seq": refusal.seq,
            "detail": refusal.detail,
        }
    return {
        "ledger": place.name,
        "verified": True,
        "receipts": report.size,
        "head": report.head,
        "checkpoints": len(report.checkpoints),
        "signed": report.checkpoints[-1] if report.checkpoints else 0,
        "repaired": verifier.repair_lines(report),
    }


def _print_result(result: dict[str, Any]) -> None:
    name = result["ledger"]
    if result["verified"]:
        signed = f"{result['signed']} signed" if result["checkpoints"] else "no checkpoint yet"
        line = f"[green]verified[/green] {name}: {result['receipts']} receipts, {signed}"
        console.print(f"{line}, head {result['head'][:12]}", highlight=False)
        for said in result["repaired"]:
            console.print(f"  [yellow]{said}[/yellow]", highlight=False, soft_wrap=True)
        return
    where = "" if result["seq"] is None else f"receipt {result['seq']}: "
    console.print(
        f"[red]NOT VERIFIED[/red] {name}: {result['code']}: {where}{escape(result['detail'])}",
        highlight=False,
        soft_wrap=True,
    )


def _write_lines(ledger: Ledger, path: Path) -> int:
    """Write the export beside its place and move it in whole; returns the number of receipts."""
    temporary = path.with_name(f".{path.name}.part")
    count = 0
    with temporary.open("wb") as file:
        for stored in ledger.read():
            if b"\n" not in stored.data:  # no receipt has one: it is damaged, and not a line
                file.write(stored.data + b"\n")
                count += 1
    temporary.replace(path)
    return count
