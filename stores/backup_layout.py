"""Where a region's backup lies in the object store: names that sort, and are never written twice.

<region>/stores/<store>.json
<region>/<store>/changelog/<first>-<last>-<digest>.seg
<region>/<store>/chunks/<digest of the cores>.chunk, and <...>-<copy>.chunk instead of a bad one
<region>/<store>/snapshots/<seq>-<digest>.json
<region>/<store>/bad/<kind>/<leaf>.json
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from models.canonical import CanonicalError, parse
from stores.objects import (
    ObjectDamaged,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    ObjectTooLarge,
)

LARGEST_CLAIM = 4096

_SEGMENT = re.compile(r".*/changelog/([0-9]{16})-([0-9]{16})-([0-9a-f]{32})\.seg")
_STORE = re.compile(r".*/stores/([0-9a-f]{32})\.json")
_MANIFEST = re.compile(r".*/snapshots/([0-9]{16})-([0-9a-f]{32})\.json")


@dataclass(frozen=True)
class SegmentName:
    """A segment in the object store; both numbers are inclusive."""

    first: int
    last: int
    object: ObjectInfo


@dataclass(frozen=True)
class ManifestName:
    """A snapshot's manifest in the object store."""

    seq: int
    object: ObjectInfo


def segment_name(region: str, store: str, first: int, last: int, chain: bytes) -> str:
    """A segment's name; ``chain`` is the hash after its last change, which binds all of it."""
    return f"{region}/{store}/changelog/{first:016d}-{last:016d}-{chain.hex()[:32]}.seg"


def chunk_name(region: str, store: str, digest: bytes, copy: int = 0) -> str:
    """A chunk's name by the SHA-256 of its cores: the same documents have the same name.

    Args:
        copy: another object for the same documents, where those before it are bad.
    """
    number = f"-{copy}" if copy else ""
    return f"{region}/{store}/chunks/{digest.hex()}{number}.chunk"


def chunk_copies(objects: ObjectStore, name: str) -> list[str]:
    """All objects that are there for a chunk's documents, by the name of one of them."""
    directory, _, leaf = name.removesuffix(".chunk").rpartition("/")
    region, store, _kind = directory.split("/")
    digest = bytes.fromhex(leaf.partition("-")[0])
    found: list[str] = []
    for copy in count():
        other = chunk_name(region, store, digest, copy)
        try:
            there = objects.stat(other) is not None
        except ObjectDamaged:
            continue  # it is there, and nobody can say what it is
        if there:
            found.append(other)
        elif copy:
            return found
    raise AssertionError


def bad_name(name: str) -> str:
    """The name of the object that says that another one of a store is bad."""
    region, store, kind, leaf = name.split("/")
    return f"{region}/{store}/bad/{kind}/{leaf}.json"


def bad_objects(objects: ObjectStore, region: str, store: str) -> set[str]:
    """Names of a store's objects that were found to be bad."""
    prefix = f"{region}/{store}/bad/"
    names = [found.name.removeprefix(prefix) for found in objects.list(prefix)]
    return {f"{region}/{store}/{each.removesuffix('.json')}" for each in names}


def manifest_name(region: str, store: str, seq: int, digest: bytes) -> str:
    """A manifest's name, by the SHA-256 of its bytes."""
    return f"{region}/{store}/snapshots/{seq:016d}-{digest.hex()[:32]}.json"


def segments(objects: ObjectStore, region: str, store: str) -> Iterator[SegmentName]:
    """All segments of a store, by first change, then by last."""
    for found in objects.list(f"{region}/{store}/changelog/"):
        if match := _SEGMENT.fullmatch(found.name):
            yield SegmentName(int(match[1]), int(match[2]), found)


def manifests(objects: ObjectStore, region: str, store: str) -> Iterator[ManifestName]:
    """All snapshots of a store, oldest first."""
    for found in objects.list(f"{region}/{store}/snapshots/"):
        if match := _MANIFEST.fullmatch(found.name):
            yield ManifestName(int(match[1]), found)


def store_name(region: str, store: str) -> str:
    """The name of the object that says that a store of the region has a backup."""
    return f"{region}/stores/{store}.json"


def claimed_epoch(objects: ObjectStore, region: str, store: str) -> int | None:
    """The epoch of a store, as its claim says; None where that names none."""
    try:
        claim = parse(objects.get(store_name(region, store), LARGEST_CLAIM))
        epoch = claim["epoch"] if isinstance(claim, dict) else None
    except (CanonicalError, KeyError, ObjectDamaged, ObjectMissing, ObjectTooLarge):
        return None
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None


def epoch_name(region: str, epoch: int) -> str:
    """The name of the object that claims an epoch: whoever creates it has it."""
    return f"{region}/epochs/{epoch:08d}.json"


def certificate_name(region: str, store: str) -> str:
    """The name of the certificate of a restored store."""
    return f"{region}/certificates/{store}.json"


def stores(objects: ObjectStore, region: str) -> list[str]:
    """The ids of the region's stores that have a backup, in no order that means anything."""
    names = [found.name for found in objects.list(f"{region}/stores/")]
    return [match[1] for name in names if (match := _STORE.fullmatch(name))]
