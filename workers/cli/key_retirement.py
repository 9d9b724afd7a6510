"""`chainring receipts retire-key`: another key signs a ledger whose own is lost or stolen."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from models.backup_file import BackupDamaged
from models.checkpoint import PublicKey, parse_key
from models.ids import CONTROL_LEDGER, Actor, Reason
from models.verifier import Refused
from stores.checkpoints import Notary
from stores.key_retirement import NotRetirable, ended, notes_of_backup, record, retire
from stores.objects import ObjectError
from stores.sql import StoreUnavailable
from stores.witness import Witness
from workers.backup_places import open_objects
from workers.cli.ledgers import LedgerPlace, find_ledger, refusals
from workers.cli.output import NEGATIVE, UNREACHABLE, USAGE, emit_json, emit_table, fail
from workers.cli.stack import running_stack
from workers.settings import SettingsError


def retire_key(
    ledger: Annotated[str, typer.Argument(help="control, or a region's code")],
    old: Annotated[str, typer.Option(help="the vkey that is retired, or a file that begins so")],
    actor: Annotated[str | None, typer.Option(help="who decides; kept in the receipt")] = None,
    reason: Annotated[str | None, typer.Option(help="why; kept in the receipt")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Show how far a signing key has signed; with --actor and --reason, have a new one follow it.

    What the old key signed until now goes on to count, and nothing that it signs from now on. Stop
    all that signs with it first. Publish what `chainring receipts key` says then.

    Example: chainring receipts retire-key eu --old eu.vkey --actor ana --reason "disk lost"
    """
    with refusals():
        place = find_ledger(ledger)
        retired = _ended(place, _vkey(old))
        said: dict[str, Any] = {
            "retired": retired.vkey(),
            "counts until": dict(retired.until or {}),
        }
        if actor is None and reason is None:
            _show({**said, "done": "no: this is what --actor and --reason would do"}, as_json)
            return
        _show(
            said | _carry_out(place, retired, _valid(Actor, actor), _valid(Reason, reason)), as_json
        )


def _vkey(given: str) -> PublicKey:
    text = Path(given).read_text() if Path(given).is_file() else given
    try:
        return parse_key(text.partition("\n")[0])
    except Refused as refusal:
        fail(f"old: {refusal}", USAGE)


def _valid(kind: Any, value: str | None) -> str:
    if value is None:
        fail("actor, reason: both are needed to retire a key")
    return str(TypeAdapter(kind).validate_python(value))


def _ended(place: LedgerPlace, old: PublicKey) -> PublicKey:
    if running_stack() is not None:
        fail("the stack runs and signs with the key: `chainring down` first", USAGE)
    notes: list[bytes] = []
    try:
        if place.backup is not None:
            witness = Witness(place.backup.witness)
            notes = notes_of_backup(open_objects(place.backup), witness, place.name)
        return ended(old, place.signing_key, place.files(), notes)
    except (NotRetirable, BackupDamaged) as error:
        fail(str(error), NEGATIVE)
    except ObjectError as error:
        fail(str(error), UNREACHABLE)


def _carry_out(
    place: LedgerPlace, retired: PublicKey, actor: Actor, reason: Reason
) -> dict[str, Any]:
    key = retire(place.signing_key, retired)
    said = {"signs": key.public(place.name).vkey()}
    names = dict.fromkeys((CONTROL_LEDGER, place.name))
    try:
        ledgers = [find_ledger(name).open() for name in names]
        notary = Notary(ledgers[-1], key)
        size = record(ledgers, notary, retired, key, actor=actor, reason=reason)
    except (SettingsError, StoreUnavailable) as error:
        fail(
            f"{said['signs']} signs from now on, but its receipt is owed: {error}; "
            f"give it again when that is there, with --old {retired.vkey()}",
            UNREACHABLE,
        )
    return said | {"signed receipts": size}


def _show(said: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(said)
        return
    ends = said.pop("counts until")
    rows = [[name, str(value)] for name, value in said.items()]
    rows += [["counts until", f"{origin} {size}"] for origin, size in sorted(ends.items())]
    emit_table(["what", "value"], rows)
