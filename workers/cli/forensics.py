"""`chainring forensics`: what ran where and when, and where a component runs, with proof."""

import json as jsonlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from models.forensics import Answer
from models.ids import CONTROL_LEDGER, short
from stores.blobs import ReleaseError
from stores.evidence_archive import ArchiveError, EvidenceArchive
from stores.evidence_retention import check_evidence
from stores.files import write_atomic
from stores.forensics import LIMIT, Forensics, Source
from stores.forensics_bills import EvidenceUnavailable
from stores.forensics_index import ForensicsError, ForensicsIndex
from stores.oci import ImageLayout
from stores.proofs import ProofError
from stores.sql import StoreUnavailable
from stores.tile_proofs import TileProver
from stores.vulnerabilities import VulnerabilityStore
from workers.cli.ledgers import LedgerPlace, find_ledger, known_ledgers, refusals
from workers.cli.output import NEGATIVE, console, emit_json, emit_table, fail
from workers.release_store import open_releases
from workers.settings import (
    SettingsError,
    control_file,
    home,
    known_regions,
    load_control,
    load_region,
)

app = typer.Typer(
    help="What ran where and when, and where a component runs, from the receipts.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="the whole answer with its proofs")]
Proofs = Annotated[
    Path | None, typer.Option(help="write each receipt's proof to this directory, for verifier.py")
]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="deployments to list at most")]


@app.command()
def at(
    time: Annotated[str, typer.Argument(help="RFC 3339, UTC when no zone is given; or now")],
    tenant: Annotated[str, typer.Option(help="only where this tenant lived then")] = "",
    shard: Annotated[str, typer.Option(help="only this shard")] = "",
    region: Annotated[str, typer.Option(help="only this region")] = "",
    json: Json = False,
    proofs: Proofs = None,
) -> None:
    """Which release, commit and verdict was running at a time.

    Example: chainring forensics at 2026-11-24T10:00:00Z --tenant t-000042
    """
    moment = _moment(time)
    with refusals():
        _print(
            _ask(lambda f: f.at(moment, tenant=tenant, shard=shard, region=region)), json, proofs
        )


@app.command()
def where(
    package: Annotated[str, typer.Argument(help="package URL, without version for all; or a CVE")],
    limit: Limit = LIMIT,
    json: Json = False,
    proofs: Proofs = None,
) -> None:
    """Every deployment, past and present, that contains a package, and since when.

    Example: chainring forensics where pkg:pypi/requests@2.19.0
    """
    with refusals():
        if package.startswith("pkg:"):
            answer = _ask(lambda f: f.where([package], question=f"where {package}", limit=limit))
            _print(answer, json, proofs)
            return
        with _vulnerabilities().reading() as reader:
            answer = _ask(lambda f: f.where_vulnerable(package, reader, limit=limit))
        _print(answer, json, proofs)


@app.command()
def trace(
    release: Annotated[str, typer.Argument(help="digest, or name:version as of now")],
    limit: Limit = LIMIT,
    json: Json = False,
    proofs: Proofs = None,
) -> None:
    """A release back to its commit, builder, materials and tests.

    Example: chainring forensics trace catalog:1.1.0
    """
    with refusals():
        digest = release if release.startswith("sha256:") else _resolve(release)
        _print(_ask(lambda f: f.trace(digest, limit=limit)), json, proofs)


@app.command()
def rebuild() -> None:
    """Throw the index away and build it from the ledgers; nothing else is changed.

    Example: chainring forensics rebuild
    """
    with refusals():
        for path in index_file().parent.glob(f"{index_file().name}*"):
            path.unlink()
        index = ForensicsIndex(index_file())
        rows = []
        for place in known_ledgers():
            position = _updated(index, place)
            rows.append((place.name, position, short(f"sha256:{index.position(place.name).head}")))
    emit_table(("ledger", "receipts", "head"), rows)


@app.command()
def retained(json: Json = False) -> None:
    """Read back all evidence that verdicts' receipts name; ends with status 1 if any is lost.

    Example: chainring forensics retained
    """
    archive = _archive()
    if archive is None:
        fail("the control worker's addresses name no evidence archive (`verification`)")
    with refusals():
        kept = check_evidence(find_ledger(CONTROL_LEDGER).open(), archive)
    if json:
        emit_json(asdict(kept))
    else:
        since = f" since {kept.oldest:%Y-%m-%d}" if kept.oldest else ""
        console.print(f"{kept.verdicts} verdicts{since} name {kept.digests} pieces of evidence")
        for text in kept.lost:
            console.print(f"[red]lost:[/red] {escape(text)}", highlight=False, soft_wrap=True)
    if kept.lost:
        raise typer.Exit(NEGATIVE)


def index_file() -> Path:
    """Where this home's index is; it can be removed at any time."""
    return home() / "forensics" / "index.db"


def _ask(question: Callable[[Forensics], Answer]) -> Answer:
    index, sources, missing = ForensicsIndex(index_file()), {}, {}
    for place in known_ledgers():
        try:
            size = _updated(index, place)
        except (StoreUnavailable, SettingsError) as error:
            missing[place.name] = str(error)
            continue
        sources[place.name] = _source(index, place, size)
    try:
        return question(Forensics(index, sources, _evidence, archived=_archived, missing=missing))
    except ForensicsError as error:
        fail(str(error), NEGATIVE)


def _updated(index: ForensicsIndex, place: LedgerPlace) -> int:
    try:
        return index.update(place.open()).size
    except ForensicsError as error:
        fail(str(error), NEGATIVE)


def _source(index: ForensicsIndex, place: LedgerPlace, size: int) -> Source:
    try:
        prover = TileProver(
            place.name, index.tiles(place.name), size, place.files(), place.trusted()
        )
    except ProofError as error:
        return Source(place.open(), unproven=str(error))
    return Source(place.open(), prover)


def _layout() -> ImageLayout:
    """The release store, as the control plane's addresses or any region's name it."""
    if control_file().exists():
        return open_releases(load_control())
    return open_releases(load_region(known_regions()[0]))


def _evidence(release: str) -> Sequence[bytes]:
    try:
        return _layout().evidence(release)
    except (ReleaseError, OSError) as error:
        raise EvidenceUnavailable(f"release {release}: {error}") from None


def _vulnerabilities() -> VulnerabilityStore:
    address = load_control().verification
    if address is None:
        fail("the control worker's addresses name no vulnerability database (`verification`)")
    return VulnerabilityStore(address.vulnerabilities)


def _archive() -> EvidenceArchive | None:
    """The evidence archive, where the control plane's addresses are at hand."""
    address = load_control().verification if control_file().exists() else None
    return None if address is None else EvidenceArchive(address.archive)


def _archived(digest: str) -> bytes | None:
    archive = _archive()
    try:
        return archive.get(digest) if archive else None
    except (ArchiveError, OSError):
        return None


def _resolve(reference: str) -> str:
    try:
        return _layout().resolve(reference)
    except ReleaseError as error:
        fail(str(error))


def _moment(text: str) -> datetime:
    if text == "now":
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"time: {text!r} is not a time such as 2026-11-24T10:00:00Z")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _print(answer: Answer, json: bool, proofs: Path | None) -> None:
    if proofs is not None:
        _write_proofs(answer, proofs)
    if json:
        emit_json(answer.model_dump(mode="json"))
        return
    emit_table(
        ("region", "shard", "release", "since", "until", "commit", "verdict", "receipts"),
        [
            (
                stay.region,
                stay.shard,
                short(stay.release),
                stay.since[:19],
                stay.until[:19] or "now",
                stay.source.rpartition("@")[2][:12],
                stay.outcome,
                " ".join(filter(None, (stay.receipt, stay.ended_by, stay.judged))),
            )
            for stay in answer.stays
        ],
        title=f"{answer.question}: {answer.total} deployments, {answer.running} running",
    )
    if answer.events:
        emit_table(
            ("at", "what", "outcome", "source", "receipt"),
            [(e.at[:19], e.kind, e.outcome, e.source, e.receipt) for e in answer.events],
        )
    for item in answer.evidence:
        says = jsonlib.dumps(item.says, ensure_ascii=False)
        console.print(f"{item.predicate_type} {short(item.bundle)} {escape(says)}", highlight=False)
    proved = sum(receipt.proof is not None for receipt in answer.receipts)
    console.print(f"{proved} of {len(answer.receipts)} receipts proved against signed checkpoints")
    for text in answer.unproven:
        console.print(
            f"[yellow]not shown:[/yellow] {escape(text)}", highlight=False, soft_wrap=True
        )


def _write_proofs(answer: Answer, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for receipt in answer.receipts:
        if receipt.proof is not None:
            path = directory / f"{re.sub('[^a-z0-9-]', '-', receipt.ledger)}-{receipt.seq}.json"
            write_atomic(path, jsonlib.dumps(receipt.proof).encode())
