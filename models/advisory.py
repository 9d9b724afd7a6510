"""Advisories: what vulnerability databases publish, in the one form that is matched here.

Sources: the OSV schema 1.7 and NVD's CVE API 2.0. What the two do not tell - which package a CPE
stands for, how bad a vulnerability is that nobody scored - stays untold: it is never guessed in
favour of the component.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from models.severity import Severity, of_vector, of_word, worst
from models.strict_json import EvidenceError

MAX_RECORD_BYTES = 8 * 1024**2
_MAX_TEXT = 1000

# NVD names the platform of a library in ``target_sw``; for these it is a package registry's.
_CPE_ECOSYSTEMS = {
    "python": "PyPI",
    "node.js": "npm",
    "rust": "crates.io",
    "ruby": "RubyGems",
    "go": "Go",
}


class Range(msgspec.Struct, frozen=True):
    """One range: events in any order, each a kind (``introduced`` ...) and a version."""

    type: str
    events: tuple[tuple[str, str], ...]


class Affected(msgspec.Struct, frozen=True):
    """A package that an advisory is about: listed in ``versions``, or within a range."""

    ecosystem: str
    name: str
    ranges: tuple[Range, ...] = ()
    versions: tuple[str, ...] = ()


class Advisory(msgspec.Struct, frozen=True):
    """One record of one database."""

    id: str
    source: str
    modified: str
    aliases: tuple[str, ...] = ()
    withdrawn: str = ""
    summary: str = ""
    severity: Severity = "unknown"
    affected: tuple[Affected, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Its id and all aliases."""
        return (self.id, *self.aliases)


class _OsvPackage(msgspec.Struct):
    ecosystem: str = ""
    name: str = ""


class _OsvRange(msgspec.Struct):
    type: str
    events: list[dict[str, str]] = []


class _OsvSeverity(msgspec.Struct):
    type: str = ""
    score: str = ""


class _OsvAffected(msgspec.Struct):
    package: _OsvPackage = msgspec.field(default_factory=_OsvPackage)
    ranges: list[_OsvRange] = []
    versions: list[str] = []
    severity: list[_OsvSeverity] = []
    ecosystem_specific: dict[str, Any] | None = None
    database_specific: dict[str, Any] | None = None


class _Osv(msgspec.Struct):
    id: str
    modified: str
    aliases: list[str] | None = None
    withdrawn: str | None = None
    summary: str = ""
    severity: list[_OsvSeverity] | None = None
    affected: list[_OsvAffected] | None = None
    database_specific: dict[str, Any] | None = None


_OSV = msgspec.json.Decoder(_Osv)


def read_osv(data: bytes) -> Advisory:
    """Read one OSV record.

    Raises:
        EvidenceError: not a record, or larger than one may be.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise EvidenceError(f"OSV record: {len(data)} bytes, the limit is {MAX_RECORD_BYTES}")
    try:
        record = _OSV.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EvidenceError(f"OSV record: {error}") from None
    if not record.id or not record.modified:
        raise EvidenceError("OSV record: id and modified must not be empty")
    affected = record.affected or []
    return Advisory(
        id=record.id,
        source="osv",
        modified=record.modified,
        aliases=tuple(record.aliases or ()),
        withdrawn=record.withdrawn or "",
        summary=record.summary[:_MAX_TEXT],
        severity=worst(_osv_severities(record, affected)),
        affected=tuple(_osv_affected(each) for each in affected if each.package.name),
    )


def _osv_severities(record: _Osv, affected: list[_OsvAffected]) -> Iterator[Severity]:
    for scored in (record.severity or [], *(each.severity for each in affected)):
        yield from (of_vector(each.score) for each in scored)
    for words in (
        record.database_specific,
        *(each.database_specific for each in affected),
        *(each.ecosystem_specific for each in affected),
    ):
        yield of_word((words or {}).get("severity"))


def _osv_affected(affected: _OsvAffected) -> Affected:
    ranges = tuple(
        Range(
            each.type,
            tuple((kind, version) for event in each.events for kind, version in event.items()),
        )
        for each in affected.ranges
    )
    package = affected.package
    return Affected(package.ecosystem, package.name, ranges, tuple(affected.versions))


def read_nvd(item: Mapping[str, Any]) -> Advisory:
    """Read one item of an NVD 2.0 feed (``{"cve": {...}}``); raises `EvidenceError`."""
    try:
        cve = item["cve"]
        rejected = str(cve.get("vulnStatus", "")) == "Rejected"
        return Advisory(
            id=str(cve["id"]),
            source="nvd",
            modified=str(cve["lastModified"]),
            withdrawn=str(cve["lastModified"]) if rejected else "",
            summary=_nvd_text(cve)[:_MAX_TEXT],
            severity=worst(_nvd_severities(cve)),
            affected=tuple(_nvd_affected(cve)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(f"NVD item: {type(error).__name__} {error}") from None


def _nvd_text(cve: Mapping[str, Any]) -> str:
    texts = {text["lang"]: text["value"] for text in cve.get("descriptions", [])}
    return str(texts.get("en", ""))


def _nvd_severities(cve: Mapping[str, Any]) -> Iterator[Severity]:
    """Of the newest CVSS version that anybody scored it by."""
    metrics = cve.get("metrics", {})
    for key in ("cvssMetricV40", "cvssMetricV31", "cvssMetricV30", "cvssMetricV2"):
        scored = [of_vector(str(each["cvssData"]["vectorString"])) for each in metrics.get(key, [])]
        if scored:
            yield from scored
            return


def _nvd_affected(cve: Mapping[str, Any]) -> Iterator[Affected]:
    for configuration in cve.get("configurations", []):
        for node in configuration.get("nodes", []):
            for match in node.get("cpeMatch", []):
                if match.get("vulnerable") and (found := _of_cpe(match)):
                    yield found


def _of_cpe(match: Mapping[str, Any]) -> Affected | None:
    """The package that a CPE means; None where it is not one of a package registry."""
    parts = str(match["criteria"]).replace("\\:", "\0").split(":")
    if len(parts) != 13:
        return None
    product, version, target = parts[4], parts[5], parts[10].replace("\\", "")
    ecosystem = _CPE_ECOSYSTEMS.get(target)
    if ecosystem is None:
        return None
    name = product.replace("\0", ":").replace("\\", "")
    if version not in ("*", "-"):
        return Affected(ecosystem, name, versions=(version.replace("\\", ""),))
    events = [("introduced", str(match.get("versionStartIncluding", "0")))]
    if "versionStartExcluding" in match:
        events = [("after", str(match["versionStartExcluding"]))]
    if "versionEndExcluding" in match:
        events.append(("fixed", str(match["versionEndExcluding"])))
    elif "versionEndIncluding" in match:
        events.append(("last_affected", str(match["versionEndIncluding"])))
    return Affected(ecosystem, name, ranges=(Range("ECOSYSTEM", tuple(events)),))
