"""Read what Python packaging writes: METADATA, RECORD and requirement files with hashes.

Sources: "Core metadata specifications"; "Recording installed projects" (RECORD); pip's requirements
file format with ``--hash`` (its hash-checking mode). All three may come from a stranger.
"""

import csv
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import BytesHeaderParser

from packaging.requirements import InvalidRequirement, Requirement

from models.packages import MAX_PACKAGES, Package, normal_name
from models.sbom import HASH_DIGITS
from models.strict_json import EvidenceError

METADATA_BYTES = 1024**2
"""The largest block of headers; the description after it is not read."""

RECORD_BYTES = 32 * 1024**2
REQUIREMENTS_BYTES = 8 * 1024**2
MAX_LINE = 64 * 1024
MAX_FILES = 200_000
MAX_REQUIREMENTS = 2000

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,200}[A-Za-z0-9])?", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,200}", re.ASCII)
_HASH = re.compile(r"--hash[= ](sha256|sha384|sha512):([0-9a-fA-F]+)(?=\s|$)", re.ASCII)
_BREAK = re.compile(rb"\r?\n\r?\n")
_ALGORITHMS = {"sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}


@dataclass(frozen=True)
class Distribution:
    """Name, version and requirement texts of a Python distribution."""

    name: str
    version: str
    requires: tuple[str, ...]


@dataclass(frozen=True)
class RecordedFile:
    """A line of RECORD: a path relative to site-packages; SHA-256 as hex, or empty if not given."""

    path: str
    sha256: str


def read_metadata(data: bytes, source: str) -> Distribution:
    """Name, version and requirements from METADATA (or PKG-INFO).

    Raises:
        EvidenceError: too large, or name or version are missing, given twice or not valid.
    """
    headers = _BREAK.split(data, maxsplit=1)[0]
    if len(headers) > METADATA_BYTES:
        raise EvidenceError(f"{source}: more than {METADATA_BYTES} bytes of headers")
    try:
        message = BytesHeaderParser().parsebytes(headers)
        names, versions, requires = (
            [str(value) for value in message.get_all(field) or []]
            for field in ("Name", "Version", "Requires-Dist")
        )
    except (ValueError, LookupError) as error:
        raise EvidenceError(f"{source}: not metadata: {error}") from None
    if len(names) != 1 or _NAME.fullmatch(names[0].strip()) is None:
        raise EvidenceError(f"{source}: Name: missing, given twice or not valid")
    if len(versions) != 1 or _VERSION.fullmatch(versions[0].strip()) is None:
        raise EvidenceError(f"{source}: Version: missing, given twice or not valid")
    return Distribution(names[0].strip(), versions[0].strip(), tuple(requires[:MAX_REQUIREMENTS]))


def read_record(data: bytes, source: str) -> list[RecordedFile]:
    """The files that RECORD lists.

    Raises:
        EvidenceError: too large, not CSV as specified, or a hash that is none.
    """
    if len(data) > RECORD_BYTES:
        raise EvidenceError(f"{source}: {len(data)} bytes, the limit is {RECORD_BYTES}")
    found = []
    try:
        for number, row in enumerate(csv.reader(_lines(data, source), strict=True), 1):
            if not row:
                continue
            if len(row) not in (2, 3) or number > MAX_FILES:
                raise EvidenceError(f"{source}: line {number}: not a path, a hash and a size")
            found.append(RecordedFile(row[0], _recorded_hash(row[1], f"{source}: line {number}")))
    except csv.Error as error:
        raise EvidenceError(f"{source}: not CSV: {error}") from None
    return found


def required_names(distribution: Distribution) -> Iterator[str]:
    """The normal names of what a distribution requires anywhere; unreadable ones are left out.

    Whether a marker holds is for the environment to show: what is installed counts.
    """
    for text in distribution.requires:
        if len(text) <= MAX_LINE:
            try:
                yield normal_name(Requirement(text).name)
            except InvalidRequirement:
                continue


def read_requirements(data: bytes, source: str = "requirements.lock") -> list[Package]:
    """The packages of a requirements file in which each has an exact version and hashes.

    Options (``--index-url``) and comments are passed over. A package with one hash has it as its
    own; of several, which belong to its archives for different machines, any one may be the right
    one (``any_of``).

    Raises:
        EvidenceError: too large, or a line is not a pinned requirement with hashes.
    """
    if len(data) > REQUIREMENTS_BYTES:
        raise EvidenceError(f"{source}: {len(data)} bytes, the limit is {REQUIREMENTS_BYTES}")
    found = []
    for number, line in _logical_lines(_lines(data, source)):
        where = f"{source}: line {number}"
        if line.startswith("-") and not line.startswith(("-r", "-e", "-c", "--req", "--edit")):
            continue
        found.append(_pinned(line, where, source))
        if len(found) > MAX_PACKAGES:
            raise EvidenceError(f"{source}: more than {MAX_PACKAGES} packages")
    return found


def _pinned(line: str, where: str, source: str) -> Package:
    text, *_ = line.split(" --hash", 1)
    hashes = _HASH.findall(line)
    try:
        requirement = Requirement(text.strip())
    except InvalidRequirement:
        raise EvidenceError(f"{where}: not a requirement of one package") from None
    versions = [each.version for each in requirement.specifier if each.operator in ("==", "===")]
    if len(versions) != 1 or len(requirement.specifier) != 1 or "*" in versions[0]:
        raise EvidenceError(f"{where}: {requirement.name} has no exact version")
    if not hashes or len(hashes) != line.count("--hash"):
        raise EvidenceError(f"{where}: {requirement.name} has no hash, or one that is not valid")
    values = tuple(f"{algorithm}:{value.lower()}" for algorithm, value in hashes)
    if any(len(value) != HASH_DIGITS[_ALGORITHMS[name]] for name, value in hashes):
        raise EvidenceError(f"{where}: a hash of {requirement.name} has a wrong length")
    single = {_ALGORITHMS[hashes[0][0]]: hashes[0][1].lower()} if len(hashes) == 1 else {}
    return Package(
        ecosystem="pypi",
        name=normal_name(requirement.name),
        version=versions[0],
        origin="lock",
        source=source,
        hashes=single,
        hashed="distribution archive, as the lock file says" if single else "",
        any_of=() if single else values,
        scope="optional" if requirement.marker else "required",
    )


def _logical_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Lines with continuations joined and comments taken off, each with its first line's number."""
    parts: list[str] = []
    first = size = 0
    for number, line in enumerate(lines, 1):
        first = first if parts else number
        text = re.sub(r"(^|\s)#.*", "", line.rstrip("\r\n"))
        size = size + len(text) if parts else len(text)
        if size > MAX_LINE:
            raise EvidenceError(f"line {first}: longer than {MAX_LINE} characters")
        parts.append(text.removesuffix("\\"))
        if text.endswith("\\"):
            continue
        if joined := " ".join(" ".join(parts).split()):
            yield first, joined
        parts = []
    if joined := " ".join(" ".join(parts).split()):
        yield first, joined


def _lines(data: bytes, source: str) -> Iterator[str]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{source}: not UTF-8: {error.reason}") from None
    for line in text.split("\n"):
        if len(line) > MAX_LINE:
            raise EvidenceError(f"{source}: a line is longer than {MAX_LINE} characters")
        yield line.removesuffix("\r")


def _recorded_hash(text: str, where: str) -> str:
    algorithm, _, value = text.partition("=")
    if algorithm != "sha256":
        return ""  # none (RECORD itself), or one that says nothing today
    try:
        digest = urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    except ValueError:
        digest = ""
    if len(digest) != HASH_DIGITS["SHA-256"]:
        raise EvidenceError(f"{where}: not a SHA-256")
    return digest
