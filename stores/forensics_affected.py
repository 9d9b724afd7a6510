"""Which packages of the releases a vulnerability affects, by the database of known ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from models.advisory import Advisory, Affected
from models.matching import Package, base_ecosystem, is_affected, normal_name, package_of
from stores.forensics_index import ForensicsError
from stores.forensics_queries import package_names, purls_of
from stores.vulnerabilities import AdvisoryReader


@dataclass(frozen=True)
class AffectedPackages:
    """Package URLs that are, or may be, affected; ``doubts`` says where that cannot be told."""

    purls: tuple[str, ...]
    doubts: tuple[str, ...]


def affected_packages(
    connection: Connection, reader: AdvisoryReader, identifier: str
) -> AffectedPackages:
    """The packages in the index that a vulnerability affects, by one of its names.

    A package whose version cannot be compared counts as affected, and is named.

    Raises:
        ForensicsError: nothing is known by that name, or all of it was withdrawn.
        StoreUnavailable: the database of vulnerabilities cannot be read.
    """
    advisories = _advisories(reader, identifier)
    wanted: dict[tuple[str, str], list[Affected]] = {}
    for affected in (each for advisory in advisories for each in advisory.affected):
        name = normal_name(affected.ecosystem, affected.name)
        wanted.setdefault((base_ecosystem(affected.ecosystem), name), []).append(affected)
    found, doubts = [], []
    for key in package_names(connection):
        package = _package(f"{key}@0")
        said = wanted.get((package.ecosystem, package.name)) if package else None
        for purl in purls_of(connection, key) if said else ():
            answer = _answer(purl, said or ())
            if answer != "no":
                found.append(purl)
            if answer == "unknown":
                doubts.append(f"{purl}: whether {identifier} affects it cannot be told")
    return AffectedPackages(tuple(found), tuple(doubts))


def _advisories(reader: AdvisoryReader, identifier: str) -> list[Advisory]:
    """The advisories of that name, and those that share a name with one of them."""
    named = reader.called([identifier])
    joined = reader.called({name for advisory in named for name in advisory.names()})
    if not named:
        raise ForensicsError(f"{identifier}: no such vulnerability is in the database")
    valid = [advisory for advisory in joined if not advisory.withdrawn]
    if not valid:
        raise ForensicsError(f"{identifier}: was withdrawn")
    return valid


def _answer(purl: str, affected: Sequence[Affected]) -> str:
    package = _package(purl)
    answers = [is_affected(package, each) for each in affected] if package else ["unknown"]
    return "yes" if "yes" in answers else "unknown" if "unknown" in answers else "no"


def _package(purl: str) -> Package | None:
    try:
        return package_of(purl)
    except ValueError:
        return None
