"""Read Cargo.lock, and the list of crates that ``cargo auditable`` puts into a binary.

Sources: the Cargo book, "Cargo.toml vs Cargo.lock"; the encoding in Cargo's ``resolver/encode.rs``
(versions 1 to 4); ``cargo-auditable``'s ``PARSING.md`` for the section ``.dep-v0``.

A lock file overstates: it lists crates of every target and feature. The list in the binary is what
was compiled in.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from models.packages import MAX_PACKAGES, Package
from models.strict_json import EvidenceError, read_as, read_json

LOCK_BYTES = 8 * 1024**2
AUDIT_BYTES = 8 * 1024**2
"""The largest list of crates in a binary, after decompression."""

CRATE = "crate archive, as Cargo.lock says"

# Every line that Cargo itself writes. Anything else is refused before a TOML reader sees it, so
# that no nesting or chain of dotted keys can make that slow.
_LINE = re.compile(
    r"""\s*(?:\#.*
    | \[\[(?:package|patch\.unused)\]\] | \[(?:metadata|root)\]
    | (?:[A-Za-z0-9_-]{1,64} | "[^"\\\n]{1,600}")\ =\ (?:"[^"\\\n]{0,600}" | \d{1,9} | \[\]? )
    | "[^"\\\n]{1,600}",? | \],?
    )?\s*""",
    re.VERBOSE | re.ASCII,
)
_CHECKSUM = re.compile(r"[0-9a-f]{64}", re.ASCII)
_Word = Annotated[str, StringConstraints(min_length=1, max_length=600)]


class _Crate(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    name: _Word
    version: _Word
    source: str = ""
    checksum: str = ""
    dependencies: list[_Word] = Field(default_factory=list)


class _Lock(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    version: int = Field(default=1, ge=1, le=4)
    package: list[_Crate] = Field(default_factory=list, max_length=MAX_PACKAGES)
    root: _Crate | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


class _Compiled(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    name: _Word
    version: _Word
    source: _Word
    kind: Literal["runtime", "build"] = "runtime"
    dependencies: list[int] = Field(default_factory=list)
    root: bool = False


class _Audit(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    packages: list[_Compiled] = Field(max_length=MAX_PACKAGES)


def read_cargo_lock(data: bytes, source: str = "Cargo.lock") -> list[Package]:
    """The crates that a lock file names; checksums are the SHA-256 of the crate archives.

    Raises:
        EvidenceError: too large, not a lock file as Cargo writes it, or a field is wrong.
    """
    lock = read_as(_Lock, _toml(data, source), what=source)
    crates = [*lock.package, *([lock.root] if lock.root else [])]
    by_name: dict[str, list[_Crate]] = {}
    for crate in crates:
        by_name.setdefault(crate.name, []).append(crate)
    return [_locked(crate, by_name, lock.metadata, source) for crate in crates]


def read_audit_list(data: bytes, source: str) -> list[Package]:
    """The crates in a binary, from the decompressed JSON of its section ``.dep-v0``.

    Raises:
        EvidenceError: too large, not strict JSON, a field is wrong, or an index leads nowhere.
    """
    value = read_json(data, what=f"{source} .dep-v0", max_bytes=AUDIT_BYTES)
    compiled = read_as(_Audit, value, what=f"{source} .dep-v0").packages
    plain = [_compiled(crate, source) for crate in compiled]
    found = []
    for crate, package in zip(compiled, plain, strict=True):
        if any(not 0 <= index < len(plain) for index in crate.dependencies):
            raise EvidenceError(f"{source} .dep-v0: {crate.name} depends on no package of the list")
        requires = tuple(plain[index].purl for index in crate.dependencies)
        found.append(_with_requires(package, requires))
    return found


def _toml(data: bytes, source: str) -> dict[str, Any]:
    if len(data) > LOCK_BYTES:
        raise EvidenceError(f"{source}: {len(data)} bytes, the limit is {LOCK_BYTES}")
    try:
        text = data.decode()
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > 1300 or _LINE.fullmatch(line) is None:
                raise EvidenceError(f"{source}: line {number} is not one that Cargo writes")
        return tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EvidenceError(f"{source}: not TOML: {error}") from None


def _locked(
    crate: _Crate,
    by_name: Mapping[str, Sequence[_Crate]],
    metadata: Mapping[str, str],
    source: str,
) -> Package:
    checksum = crate.checksum or metadata.get(
        f"checksum {crate.name} {crate.version} ({crate.source})", ""
    )
    if checksum in ("", "<none>"):  # of a crate that is not from a registry
        checksum = ""
    elif _CHECKSUM.fullmatch(checksum) is None:
        raise EvidenceError(f"{source}: {crate.name}: its checksum is not 64 hex digits")
    requires = tuple(_plain(_chosen(text, by_name, source)).purl for text in crate.dependencies)
    return Package(
        ecosystem="cargo",
        name=crate.name,
        version=crate.version,
        origin="lock",
        source=source,
        hashes={"SHA-256": checksum} if checksum else {},
        hashed=CRATE if checksum else "",
        requires=requires,
        vcs=_vcs(crate.source),
        local=not crate.source,
    )


def _chosen(text: str, by_name: Mapping[str, Sequence[_Crate]], source: str) -> _Crate:
    """The crate of a dependency: ``name``, ``name version`` or ``name version (source)``."""
    name, _, rest = text.partition(" ")
    version, _, origin = rest.partition(" ")
    for crate in by_name.get(name, ()):
        if version in ("", crate.version) and origin in ("", f"({crate.source})"):
            return crate
    raise EvidenceError(f"{source}: the dependency {text[:200]!r} is no package of it")


def _plain(crate: _Crate) -> Package:
    return Package("cargo", crate.name, crate.version, "lock", "", vcs=_vcs(crate.source))


def _vcs(source: str) -> str:
    """``git+https://host/repository?branch=x#commit`` as ``git+https://host/repository@commit``."""
    if not source.startswith("git+"):
        return ""
    where, _, commit = source.partition("#")
    return f"{where.partition('?')[0]}@{commit}" if commit else where.partition("?")[0]


def _compiled(crate: _Compiled, source: str) -> Package:
    return Package(
        ecosystem="cargo",
        name=crate.name,
        version=crate.version,
        origin="binary",
        source=source,
        scope="required" if crate.kind == "runtime" else "excluded",
        local=crate.source == "local",
    )


def _with_requires(package: Package, requires: tuple[str, ...]) -> Package:
    return Package(**{**package.__dict__, "requires": requires})
