"""`chainring receipts repair`: what is wrong with a ledger, and the receipt that says so."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from models.backup_file import BackupDamaged
from models.ids import Actor, Reason
from models.ledger_repair import RepairPlan
from models.verifier import Refused, read_lines
from stores.checkpoints import Notary
from stores.envelope import Envelopes
from stores.keys import load_key
from stores.ledger import Ledger
from stores.ledger_branch import branch_of_backup
from stores.ledger_damage import BeyondRepair
from stores.ledger_repair import (
    Branch,
    Diagnosis,
    PlanChanged,
    carry_out,
    conclude,
    diagnose,
    find_repair,
    read_branch,
    receipts_of,
)
from stores.objects import ObjectError
from stores.restore_plan import BackupReader, NothingToRestore
from stores.restore_proof import RestoreMismatch
from stores.sealing import BackupSeals
from stores.sql import StoreUnavailable, engine_for, open_existing
from stores.tenant_keys import TenantKeys, load_region_key
from stores.witness import Witness
from workers.backup_places import open_objects
from workers.cli.ledgers import LedgerPlace, find_ledger, refusals
from workers.cli.output import NEGATIVE, OK, UNREACHABLE, USAGE, emit_json, emit_table, fail


def repair(
    ledger: Annotated[str, typer.Argument(help="control, or a region's code")],
    other: Annotated[
        list[Path] | None, typer.Option(help="an export of the other branch; repeatable")
    ] = None,
    from_backup: Annotated[
        str | None, typer.Option(help="id of a store whose backup has the other branch")
    ] = None,
    plan: Annotated[
        str | None, typer.Option(help="digest of the plan that you have seen: carry it out")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="who decides; kept in the receipt")] = None,
    reason: Annotated[str | None, typer.Option(help="why; kept in the receipt")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Plan the repair of a forked or damaged ledger; with --plan, carry it out.

    The ledger stays as it is: both branches are kept as evidence, and a receipt names them. Who
    wants the other branch restores the region instead. Exit code 1: there is something to repair.

    Example: chainring receipts repair eu --plan 5d0f... --actor ana --reason "restored to Monday"
    """
    with refusals(), _repair_refusals():
        place = find_ledger(ledger)
        opened, sources = place.open(), _Sources(other or [], from_backup)
        if plan is not None:
            who, why = _checked(actor, reason)
            _show(_carry_out(place, opened, sources, plan, who, why), as_json)
            return
        found = _diagnose(place, opened, sources)
    _show(_planned(found.plan), as_json)
    raise typer.Exit(NEGATIVE if found.plan.needed else OK)


@dataclass(frozen=True)
class _Sources:
    """Where the other branch may be found, beside the former primaries."""

    files: list[Path]
    store: str | None


@contextlib.contextmanager
def _repair_refusals() -> Any:
    try:
        yield
    except (BackupDamaged, BeyondRepair, NothingToRestore, RestoreMismatch) as error:
        fail(str(error), NEGATIVE)
    except PlanChanged as error:
        fail(str(error), USAGE)
    except ObjectError as error:
        fail(str(error), UNREACHABLE)


def _checked(actor: str | None, reason: str | None) -> tuple[str, str]:
    for name, value in (("actor", actor), ("reason", reason)):
        if value is None:
            fail(f"{name}: is needed to carry a plan out")
    return (
        TypeAdapter(Actor).validate_python(actor),
        TypeAdapter(Reason).validate_python(reason),
    )


def _diagnose(place: LedgerPlace, opened: Ledger, sources: _Sources) -> Diagnosis:
    others = [read_branch(list(read_lines(path)), place.name) for path in sources.files]
    others += _former(place)
    if sources.store is not None:
        others.append(_from_backup(place, sources.store))
    return diagnose(opened, place.checkpoints(), place.trusted(), others)


def _former(place: LedgerPlace) -> list[Branch]:
    """What the databases that were the primary before still have of the ledger."""
    found = []
    for database in place.former:
        with contextlib.suppress(StoreUnavailable, Refused):
            engine = open_existing(database)
            try:
                lines = receipts_of(Ledger(engine, place.name))
            finally:
                engine.dispose()
            if lines:
                found.append(read_branch(lines, place.name))
    return found


def _from_backup(place: LedgerPlace, store: str) -> Branch:
    if place.backup is None:
        fail(f"from-backup: ledger {place.name} has no backup")
    note = Witness(place.backup.witness).head(place.name, store)
    if note is None:
        fail(f"from-backup: no head of store {store} was witnessed")
    region_key = load_region_key(place.backup.region_key)
    keys = Envelopes(TenantKeys(engine_for(place.backup.tenant_keys), region_key))
    objects, unseal = open_objects(place.backup), BackupSeals(keys, region_key).unseal
    return branch_of_backup(BackupReader(objects, place.name, store, place.trusted(), unseal), note)


def _carry_out(
    place: LedgerPlace, opened: Ledger, sources: _Sources, plan: str, actor: str, reason: str
) -> dict[str, Any]:
    key = load_key(place.signing_key)
    notary, keys = Notary(opened, key), place.trusted()
    seq, where = find_repair(opened, plan), ""
    if seq is None:
        found = _diagnose(place, opened, sources)
        appended, evidence = carry_out(
            opened,
            found,
            notary,
            key,
            planned=plan,
            actor=actor,
            reason=reason,
            directory=place.repairs(),
            objects=None if place.backup is None else open_objects(place.backup),
        )
        seq, where = appended.seq, str(evidence.directory)
    signed = conclude(opened, notary, keys, seq)
    return {"receipt": seq, "signed": signed.size, "evidence": where, "plan": plan}


def _planned(plan: RepairPlan) -> dict[str, Any]:
    if not plan.needed:
        return {"repair": "nothing is to repair", "unsigned": list(plan.unsigned)}
    return {
        "plan": plan.digest,
        "last valid receipt": plan.last_valid,
        "both branches share": plan.common.model_dump(),
        "the other branch ends": None if plan.abandoned is None else plan.abandoned.model_dump(),
        "its receipts": "at hand" if plan.branch_known else "not at hand; what is signed names it",
        "signed on it": [each.size for each in plan.heads],
        "damaged receipts": [each.seq for each in plan.damaged],
        "repairs that nobody signed": list(plan.unsigned),
    }


def _show(said: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(said)
        return
    emit_table(["what", "value"], [[name, str(value)] for name, value in said.items()])
