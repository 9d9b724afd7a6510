"""Which packages each release has, from the bills of materials kept with it in the registry.

Bills are taken as they are found, without asking who signed them, and all of them together: a bill
that hides a package must not hide it here. An answer names the bundles, and the verdicts that
weighed them. A release without a bill that can be read is remembered as such and tried again.
"""

from collections.abc import Callable, Iterator, Sequence

from packageurl import PackageURL
from sqlalchemy import Connection, delete, insert

from models.bundle import bundle_digest, read_bundle
from models.sbom import Sbom, sbom_of
from models.statement import SBOM, Statement, read_statement
from models.strict_json import EvidenceError
from stores.forensics_index import ForensicsIndex
from stores.forensics_queries import releases_without_bill
from stores.forensics_tables import BILL, COMPONENT
from stores.sql import read, write

EvidenceSource = Callable[[str], Sequence[bytes]]
"""Gives the bundles kept with a release, by its digest; raises `EvidenceUnavailable`."""


class EvidenceUnavailable(Exception):
    """The registry does not have the release, or does not answer; the message says which."""


def package_key(purl: PackageURL) -> str:
    """A package URL without version, qualifiers and subpath."""
    return PackageURL(purl.type, purl.namespace, purl.name).to_string()


def statements(bundles: Sequence[bytes]) -> Iterator[tuple[str, Statement]]:
    """Each bundle's digest and statement, signatures not checked; unreadable ones are left out."""
    for data in bundles:
        try:
            envelope = read_bundle(data).envelope
            statement = read_statement(envelope.payload)
        except EvidenceError:
            continue
        yield bundle_digest(data), statement


def update_bills(index: ForensicsIndex, evidence: EvidenceSource) -> int:
    """Read the bills of releases that receipts name and that have none in the index yet.

    Returns:
        How many releases have been read.
    """
    with read(index.engine) as connection:
        wanted = releases_without_bill(connection)
    done = 0
    for release in wanted:
        bills, problem = _bills(release, evidence)
        with write(index.engine) as connection:
            _store(connection, release, bills, problem)
        done += bool(bills)
    return done


def _bills(release: str, evidence: EvidenceSource) -> tuple[dict[str, Sbom], str]:
    """The bills that can be read, by their bundles' digests, or what is wrong."""
    bills: dict[str, Sbom] = {}
    try:
        found = list(statements(evidence(release)))
    except EvidenceUnavailable as error:
        return bills, str(error)
    problems = []
    for bundle, statement in found:
        if statement.predicate_type != SBOM or not statement.is_about(release):
            continue
        try:
            bills[bundle] = sbom_of(statement.predicate)
        except EvidenceError as error:
            problems.append(f"{bundle}: {error}")
    if not bills and not problems:
        problems = ["no SBOM about it is kept with it"]
    return bills, "; ".join(problems)[:1000]


def _store(connection: Connection, release: str, bills: dict[str, Sbom], problem: str) -> None:
    for table in (BILL, COMPONENT):
        connection.execute(delete(table).where(table.c.release == release))
    row = {"release": release, "bundles": " ".join(sorted(bills)), "problem": problem}
    connection.execute(insert(BILL), row)
    rows = {}
    for component in (each for bill in bills.values() for each in bill.packages):
        try:
            purl = PackageURL.from_string(component.purl or "")
        except ValueError:
            continue  # no such package can be asked for
        rows[component.purl] = {
            "release": release,
            "purl": component.purl,
            "package": package_key(purl),
            "version": purl.version or "",
            "scope": component.scope,
        }
    if rows:
        connection.execute(insert(COMPONENT), list(rows.values()))
