"""What single receipts say for forensics: activations, where tenants live, what befell a release.

A receipt of an unknown kind says nothing here. One of a known kind that does not say what its kind
should is a `FactError`: the index is not built over what it does not understand.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from models.ids import DIGEST_PATTERN

ACTIVATED = "shard.activated"
SEEDED = "fleet.seeded"
JUDGED = "release.judged"
BUILT = "release.built"
TENANT_KINDS = ("tenant.created", "tenant.moved", "tenant.suspended", "tenant.resumed")

_DIGEST = re.compile(DIGEST_PATTERN)


class FactError(ValueError):
    """A receipt does not say what its kind should; the message names the receipt and the field."""


@dataclass(frozen=True)
class Activation:
    """A shard runs another release from now on; ``verdict`` is the digest that it was let in by."""

    shard: str
    release: str
    rollout: str
    verdict: str


@dataclass(frozen=True)
class Placement:
    """A tenant lives in a shard from now on."""

    tenant: str
    shard: str


@dataclass(frozen=True)
class Seeding:
    """A whole fleet was laid out, tenants and shards by number."""

    tenants: int
    shards: int
    regions: tuple[str, ...]


@dataclass(frozen=True)
class ReleaseFact:
    """Something that happened to a release."""

    release: str
    outcome: str = ""
    verdict: str = ""
    source: str = ""
    builder: str = ""


def activation(body: Mapping[str, Any], where: str) -> Activation:
    """What a receipt ``shard.activated`` says; raises `FactError`."""
    predicate = _object(_object(body.get("deployment")).get("predicate"))
    verdict = _object(_object(predicate.get("verdict")).get("digest")).get("sha256", "")
    return Activation(
        shard=_text(body, "shard", where),
        release=_digest(body, "release", where),
        rollout=str(body.get("rollout", "")),
        verdict=f"sha256:{verdict}" if verdict else "",
    )


def placement(body: Mapping[str, Any], where: str) -> Placement:
    """What a receipt about a tenant says; raises `FactError`."""
    return Placement(_text(body, "id", where), _text(body, "shard", where))


def seeding(body: Mapping[str, Any], where: str) -> Seeding:
    """What a receipt ``fleet.seeded`` says; raises `FactError`."""
    numbers = [body.get(field) for field in ("tenants", "shards")]
    regions = body.get("regions")
    if not all(isinstance(number, int) and number > 0 for number in numbers) or not regions:
        raise FactError(f"{where}: tenants, shards or regions are not a fleet")
    return Seeding(int(numbers[0] or 0), int(numbers[1] or 0), tuple(map(str, regions)))


def release_facts(kind: str, subject: str, body: Mapping[str, Any]) -> Iterator[ReleaseFact]:
    """What any other receipt says of releases that it names by digest."""
    verdict = _object(body.get("verdict"))
    named = (
        subject,
        body.get("release"),
        body.get("digest"),
        verdict.get("release"),
        _object(body.get("deployed")).get("release"),
        _object(_object(body.get("request")).get("deployed")).get("release"),
    )
    source = verdict.get("source") or body.get("source") or _commit(body)
    for digest in dict.fromkeys(each for each in named if is_digest(each)):
        yield ReleaseFact(
            release=str(digest),
            outcome=str(verdict.get("outcome") or body.get("outcome") or ""),
            verdict=str(body.get("verdict_digest") or ""),
            source=source if isinstance(source, str) else "",
            builder=str(verdict.get("builder") or body.get("builder") or ""),
        )


def is_digest(value: object) -> bool:
    """Whether a value is a digest, ``sha256:`` and 64 hex digits."""
    return isinstance(value, str) and _DIGEST.match(value) is not None


def microseconds(at: str, where: str) -> int:
    """A receipt's time as microseconds since 1970; raises `FactError`."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise FactError(f"{where}: at: {at[:40]!r} is not a time") from None
    if moment.tzinfo is None:
        raise FactError(f"{where}: at: has no time zone")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


_MICROSECOND = datetime.resolution


def _commit(body: Mapping[str, Any]) -> str:
    """``repository@commit`` of a receipt that has them apart."""
    repository, commit = body.get("repository"), body.get("commit")
    return f"{repository}@{commit}" if repository and commit else ""


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(body: Mapping[str, Any], field: str, where: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise FactError(f"{where}: {field}: missing or not text")
    return value


def _digest(body: Mapping[str, Any], field: str, where: str) -> str:
    if not is_digest(body.get(field)):
        raise FactError(f"{where}: {field}: not a digest")
    return str(body[field])
