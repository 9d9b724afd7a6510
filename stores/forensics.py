"""Answers from the forensics index, each held against the receipts that it rests on.

The index finds; the ledgers say. Every row that goes into an answer is compared with its receipt,
and each receipt is proved against a signed checkpoint. What cannot be shown is said.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from packageurl import PackageURL
from sqlalchemy import Connection

from models.bundle import bundle_digest
from models.forensics import Answer, Cited, EvidenceItem, Position, ReleaseEvent, Stay
from models.forensics_facts import ACTIVATED, JUDGED, activation
from models.receipts import StoredReceipt
from models.statement import PROVENANCE, SBOM, TESTS
from stores.forensics_affected import affected_packages
from stores.forensics_bills import (
    EvidenceSource,
    EvidenceUnavailable,
    package_key,
    statements,
    update_bills,
)
from stores.forensics_index import ForensicsError, ForensicsIndex
from stores.forensics_queries import (
    FOREVER,
    FactRow,
    StayRow,
    bill_problems,
    containing,
    containing_any,
    facts,
    judged,
    running_at,
    stays_of,
    tenant_home,
)
from stores.ledger import Ledger
from stores.proofs import ProofError
from stores.sql import read
from stores.tile_proofs import TileProver
from stores.vulnerabilities import AdvisoryReader

LIMIT = 200
"""Stays in an answer unless more are asked for; each is read and proved."""

_TEST_FIELDS = ("result", "passedTests", "warnedTests", "failedTests")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Source:
    """One ledger to answer from, and the proofs about it; without a prover nothing is proved."""

    ledger: Ledger
    prover: TileProver | None = None
    unproven: str = ""


@dataclass
class _Citations:
    """The receipts of one answer, each read and proved once."""

    sources: Mapping[str, Source]
    cited: dict[tuple[str, int], Cited] = field(default_factory=dict)
    read: dict[tuple[str, int], StoredReceipt] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], FactRow | None] = field(default_factory=dict)
    unproven: dict[str, None] = field(default_factory=dict)

    def fetch(self, keys: Iterable[tuple[str, int]]) -> None:
        """Read receipts that will be cited, many at once."""
        by_ledger: dict[str, list[int]] = {}
        for ledger, seq in keys:
            by_ledger.setdefault(ledger, []).append(seq)
        for ledger, seqs in by_ledger.items():
            if (source := self.sources.get(ledger)) is not None:
                found = source.ledger.get_many(seqs)
                self.read |= {(ledger, seq): stored for seq, stored in found.items()}

    def receipt(self, ledger: str, seq: int) -> StoredReceipt:
        """Cite a receipt."""
        key = (ledger, seq)
        if key not in self.cited:
            source = self.sources.get(ledger)
            found = self.read.get(key) or (source.ledger.get(seq) if source else None)
            if source is None or found is None:
                raise ForensicsError(
                    f"{ledger}/{seq}: the index names this receipt, and it is not there; verify "
                    "the ledger (`chainring receipts verify`)"
                )
            self.read[key] = found
            self.cited[key] = _cite(source, found)
        return self.read[key]

    def said(self, text: str) -> None:
        """Something that could not be shown, said once."""
        self.unproven.setdefault(text)


class Forensics:
    """Answers from an index that is up to date with ``sources``, by ledger name."""

    def __init__(
        self,
        index: ForensicsIndex,
        sources: Mapping[str, Source],
        evidence: EvidenceSource,
        *,
        archived: Callable[[str], bytes | None] = lambda digest: None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        """Answers are made of these.

        Args:
            evidence: gives the bundles kept with a release.
            archived: gives a bundle by digest that a verdict weighed, if it was archived.
            missing: says of each ledger that cannot be read why; answers go without it.
        """
        self._index = index
        self._sources = sources
        self._evidence = evidence
        self._archived = archived
        self._missing = missing or {}

    def at(
        self, moment: datetime, *, tenant: str = "", shard: str = "", region: str = ""
    ) -> Answer:
        """What was running at a moment: in all shards, in one, or where a tenant lived then.

        Raises:
            ForensicsError: no such tenant or shard then, or index and receipts disagree.
        """
        at = _microseconds(moment)
        cited = self._citations()
        with read(self._index.engine) as connection:
            if tenant:
                home = tenant_home(connection, tenant, at)
                if home is None or (region and home.ledger != region):
                    raise ForensicsError(f"tenant: no receipt places {tenant!r} by {_time(at)}")
                cited.receipt(home.ledger, home.seq)
                region, shard = home.ledger, home.shard
            rows = running_at(connection, at, ledger=region, shard=shard)
            stays = self._stays(connection, rows, cited, at)
        if not rows:
            cited.said(f"no receipt says that anything ran there by {_time(at)}")
        return self._answer(f"at {_time(at)}", cited, stays, len(stays))

    def where(self, packages: Sequence[str], *, question: str, limit: int = LIMIT) -> Answer:
        """Where releases run and ran that contain a package, those that run now first.

        Args:
            packages: package URLs; one without a version stands for every version.

        Raises:
            ForensicsError: not a package URL, or index and receipts disagree.
        """
        update_bills(self._index, self._bundles)
        cited = self._citations()
        with read(self._index.engine) as connection:
            found = _contained(connection, packages)
            rows, total, running = stays_of(connection, sorted(found), limit)
            stays = self._stays(connection, rows, cited, FOREVER)
            for release, problem in bill_problems(connection):
                cited.said(f"release {release}: its components are not known: {problem}")
        stays = [stay.model_copy(update={"components": found[stay.release]}) for stay in stays]
        if total > len(stays):
            cited.said(f"{total - len(stays)} more deployments are counted and not listed")
        return self._answer(question, cited, stays, total, running)

    def where_vulnerable(
        self, identifier: str, reader: AdvisoryReader, *, limit: int = LIMIT
    ) -> Answer:
        """Where releases run and ran that a vulnerability affects, by the database of known ones.

        Raises:
            ForensicsError: nothing is known by that name, or index and receipts disagree.
            StoreUnavailable: the database of vulnerabilities cannot be read.
        """
        update_bills(self._index, self._bundles)
        with read(self._index.engine) as connection:
            found = affected_packages(connection, reader, identifier)
        answer = self.where(found.purls, question=f"where {identifier}", limit=limit)
        return answer.model_copy(update={"unproven": [*found.doubts, *answer.unproven]})

    def trace(self, release: str, *, limit: int = LIMIT) -> Answer:
        """A release back to its commit, builder, materials and tests, and where it ran.

        Raises:
            ForensicsError: index and receipts disagree.
        """
        cited = self._citations()
        with read(self._index.engine) as connection:
            named = [
                row for row in facts(connection, release, limit) if row.ledger in self._sources
            ]
            rows, total, running = stays_of(connection, [release], limit)
            stays = self._stays(connection, rows, cited, FOREVER)
        cited.fetch((row.ledger, row.seq) for row in named)
        events = [_event(row, cited.receipt(row.ledger, row.seq)) for row in named]
        evidence = self._items(release, named, cited)
        if not any(row.kind == JUDGED for row in named):
            cited.said("no verdict on the release is in the receipts")
        if not named and not stays:
            cited.said("no receipt names the release")
        answer = self._answer(f"trace {release}", cited, stays, total, running)
        return answer.model_copy(update={"events": events, "evidence": evidence})

    def _citations(self) -> _Citations:
        cited = _Citations(self._sources)
        for ledger, why in self._missing.items():
            cited.said(f"{ledger}: the ledger cannot be read, and the answer lacks it: {why}")
        return cited

    def _stays(
        self, connection: Connection, rows: Iterable[StayRow], cited: _Citations, at: int
    ) -> list[Stay]:
        known = [row for row in rows if row.ledger in self._sources]
        cited.fetch((row.ledger, row.seq) for row in known)
        cited.fetch((row.ledger, row.next) for row in known if row.next is not None)
        return [self._stay(connection, row, cited, at) for row in known]

    def _stay(self, connection: Connection, row: StayRow, cited: _Citations, at: int) -> Stay:
        """A stay as its receipts tell it; ``at`` is the last moment that is asked about."""
        began = cited.receipt(row.ledger, row.seq).receipt
        where = f"{row.ledger}/{row.seq}"
        said = activation(began.body, where) if began.kind == ACTIVATED else None
        if said is None or (said.shard, said.release) != (row.shard, row.release):
            raise ForensicsError(
                f"{where}: does not say what the index says; `chainring forensics rebuild`"
            )
        ended = cited.receipt(row.ledger, row.next).receipt if row.next is not None else None
        if ended is None:
            cited.said(
                f"{row.ledger}: that nothing came after a shard's last activation is shown by the "
                "whole ledger only (`chainring receipts export`)"
            )
        verdict = self._verdict(connection, row, cited, at)
        if verdict is not None:
            cited.receipt(verdict.ledger, verdict.seq)
        if not row.verdict:
            cited.said(f"{where}: names no verdict; the one shown is the newest before it")
        elif verdict is None:
            cited.said(f"{where}: the receipt of its verdict {row.verdict} is not in the ledgers")
        return Stay(
            region=row.ledger,
            shard=row.shard,
            release=row.release,
            since=began.at,
            until=ended.at if ended else "",
            receipt=where,
            ended_by=f"{row.ledger}/{row.next}" if ended else "",
            rollout=row.rollout,
            source=verdict.source if verdict else "",
            verdict=row.verdict or (verdict.verdict if verdict else ""),
            outcome=verdict.outcome if verdict else "",
            judged=f"{verdict.ledger}/{verdict.seq}" if verdict else "",
        )

    def _verdict(
        self, connection: Connection, row: StayRow, cited: _Citations, at: int
    ) -> FactRow | None:
        """The verdict that an activation names, else the newest one before it."""
        key = (row.release, row.verdict)
        if key not in cited.verdicts or not row.verdict:
            found = judged(connection, row.release, row.verdict, min(at, row.since))
            there = found is not None and found.ledger in self._sources
            cited.verdicts[key] = found if there else None
        return cited.verdicts[key]

    def _items(
        self, release: str, named: Iterable[FactRow], cited: _Citations
    ) -> list[EvidenceItem]:
        """What the release's evidence says, and which verdict weighed each piece."""
        weighed: dict[str, str] = {}
        for row in named:
            if row.kind == JUDGED:
                body = cited.receipt(row.ledger, row.seq).receipt.body
                weighed |= dict.fromkeys(_inputs(body), f"{row.ledger}/{row.seq}")
        try:
            found = list(statements(self._bundles(release)))
        except EvidenceUnavailable as error:
            cited.said(f"evidence: {error}")
            return []
        there = {bundle for bundle, _ in found}
        for bundle in weighed.keys() - there:
            cited.said(
                f"{weighed[bundle]}: {bundle}, which it weighed, is neither kept nor legible"
            )
        items = []
        for bundle, statement in found:
            if not statement.is_about(release):
                cited.said(f"{bundle}: is about another release")
                continue
            if bundle not in weighed:
                cited.said(f"{bundle}: no verdict in the receipts has weighed it")
            items.append(
                EvidenceItem(
                    bundle=bundle,
                    predicate_type=statement.predicate_type,
                    says=summary(statement.predicate_type, statement.predicate),
                    judged=weighed.get(bundle, ""),
                )
            )
        present = {item.predicate_type for item in items}
        for name, kind in (("provenance", PROVENANCE), ("tests", TESTS), ("SBOM", SBOM)):
            if kind not in present:
                cited.said(f"no {name} is kept with the release")
        return items

    def _bundles(self, release: str) -> list[bytes]:
        """What is kept with a release, and what its verdicts weighed and is kept no more."""
        failed = None
        try:
            bundles = list(self._evidence(release))
        except EvidenceUnavailable as error:
            bundles, failed = [], error
        there = {bundle_digest(each) for each in bundles}
        with read(self._index.engine) as connection:
            rows = facts(connection, release, LIMIT, kind=JUDGED)
        for row in (each for each in rows if each.ledger in self._sources):
            stored = self._sources[row.ledger].ledger.get(row.seq)
            for digest in _inputs(stored.receipt.body) if stored else ():
                if digest not in there and (archived := self._archived(digest)) is not None:
                    there.add(digest)
                    bundles.append(archived)
        if failed and not bundles:
            raise failed
        return bundles

    def _answer(
        self, question: str, cited: _Citations, stays: list[Stay], total: int, running: int = 0
    ) -> Answer:
        receipts = [cited.cited[key] for key in sorted(cited.cited)]
        for receipt in receipts:
            if receipt.proof is None:
                cited.said(f"{receipt.reference}: {receipt.unproven}")
        return Answer(
            question=question,
            stays=stays,
            total=total,
            running=running or sum(not stay.until for stay in stays),
            receipts=receipts,
            unproven=list(cited.unproven),
            as_of={name: self._position(name) for name in sorted(self._sources)},
        )

    def _position(self, name: str) -> Position:
        indexed, prover = self._index.position(name), self._sources[name].prover
        return Position(size=indexed.size, head=indexed.head, signed=prover.signed if prover else 0)


def summary(predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a predicate that trace a release; empty for other kinds."""
    if predicate_type == PROVENANCE:
        return _provenance(predicate)
    if predicate_type == TESTS:
        return {key: predicate[key] for key in _TEST_FIELDS if key in predicate}
    if predicate_type == SBOM:
        components = predicate.get("components")
        return {"components": len(components) if isinstance(components, list) else 0}
    return {}


def _provenance(predicate: Mapping[str, Any]) -> dict[str, Any]:
    definition = predicate.get("buildDefinition")
    run = predicate.get("runDetails")
    definition = definition if isinstance(definition, Mapping) else {}
    run = run if isinstance(run, Mapping) else {}
    return {
        "builder": run.get("builder"),
        "build": definition.get("externalParameters"),
        "materials": definition.get("resolvedDependencies"),
        "metadata": run.get("metadata"),
    }


def _contained(connection: Connection, packages: Sequence[str]) -> dict[str, list[str]]:
    """Package URLs that were asked for, by the release that has them."""
    found: dict[str, set[str]] = {}
    for text in packages:
        try:
            purl = PackageURL.from_string(text)
        except ValueError as error:
            raise ForensicsError(f"package: {text[:200]!r} is no package URL: {error}") from None
        exact = {} if not purl.qualifiers else containing_any(connection, [purl.to_string()])
        for release, purls in (
            exact or containing(connection, package_key(purl), purl.version or "")
        ).items():
            found.setdefault(release, set()).update(purls)
    return {release: sorted(purls) for release, purls in found.items()}


def _cite(source: Source, stored: StoredReceipt) -> Cited:
    proof, unproven = None, source.unproven or "nothing to prove it with"
    if source.prover is not None:
        try:
            proof, unproven = dict(source.prover.inclusion(stored)), ""
        except ProofError as error:
            unproven = str(error)
    receipt = stored.receipt
    return Cited(
        ledger=source.ledger.name,
        seq=stored.seq,
        hash=stored.hash,
        kind=receipt.kind,
        at=receipt.at,
        subject=receipt.subject,
        proof=proof,
        unproven=unproven,
    )


def _event(row: FactRow, stored: StoredReceipt) -> ReleaseEvent:
    return ReleaseEvent(
        at=stored.receipt.at,
        kind=stored.kind,
        receipt=f"{row.ledger}/{row.seq}",
        outcome=row.outcome,
        source=row.source,
        builder=row.builder,
    )


def _inputs(body: Mapping[str, Any]) -> list[str]:
    """The bundles that a verdict weighed."""
    verdict = body.get("verdict")
    inputs = verdict.get("inputs") if isinstance(verdict, Mapping) else None
    bundles = inputs.get("bundles") if isinstance(inputs, Mapping) else None
    return [str(each) for each in bundles] if isinstance(bundles, list) else []


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _time(microseconds: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=microseconds):%Y-%m-%dT%H:%M:%S.%fZ}"
