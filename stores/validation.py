"""Reading a backup for its own sake: all of its objects in turn, and whether they belong together.

Every object is read by its share of the rotation. What no single object can show is looked at in
each run: that snapshots find their chunks, and that segments lead from the first snapshot on to the
head.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue, ValidationError

from models.canonical import canonical
from models.checkpoint import PublicKey
from models.manifest import ManifestError, read_manifest
from models.validation import MOST_BAD, SHARES, BadObject, Rotation, ValidationReport, share_of
from stores.backup_layout import (
    bad_name,
    bad_objects,
    chunk_copies,
    manifests,
    segments,
    stores,
)
from stores.files import file_lock, write_atomic
from stores.object_check import ObjectCheck
from stores.objects import (
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    ObjectTooLarge,
)
from stores.witness import Witness, open_head

Progress = Callable[[int], None]


class RotationFile:
    """How far the rotation of one region is, on a disk that outlives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Rotation:
        """The state; a file that is lost or damaged begins the rotation anew."""
        try:
            return Rotation.model_validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return Rotation()

    def save(self, rotation: Rotation) -> bool:
        """Keep a state that is further than the one that is there."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self._path.with_suffix(".lock")):
            if self.read().read >= rotation.read:
                return False
            write_atomic(self._path, rotation.model_dump_json().encode())
            return True


class Validator:
    """Reads the backup of one region.

    Args:
        keys: of the region.
    """

    def __init__(
        self, objects: ObjectStore, region: str, keys: Sequence[PublicKey], witness: Witness
    ) -> None:
        self._objects = objects
        self._region = region
        self._keys = keys
        self._witness = witness
        self._check = ObjectCheck(objects, region, keys)

    def rotate(
        self,
        rotation: Rotation,
        now: datetime,
        *,
        everything: bool = False,
        progress: Progress = lambda _objects: None,
    ) -> ValidationReport:
        """Read the shares that are due, and look at what all objects are together.

        Raises:
            ObjectsUnavailable: the backup cannot be read now.
        """
        shares = list(range(SHARES)) if everything else rotation.due(now)
        known: set[str] = set()
        bad: dict[str, BadObject] = {}
        count = size = 0
        with self._noting(bad):
            for info in self._objects.list(f"{self._region}/"):
                if share_of(info.name) in shares:
                    count, size = count + 1, size + info.size
                    if why := self._check.fault(info):
                        bad[info.name] = BadObject(name=info.name, what=why[:500])
                    progress(count)
        with self._noting(bad):
            for store in stores(self._objects, self._region):
                known |= bad_objects(self._objects, self._region, store)
                for each in (*self._gaps(store), *self._lost(store, shares, bad.keys())):
                    bad.setdefault(each.name, each)
        new = tuple(each for name, each in sorted(bad.items()) if name not in known)
        return ValidationReport(
            objects=count,
            bytes=size,
            bad=new[:MOST_BAD],
            more=len(new[MOST_BAD:]),
            known=len(bad) - len(new),
            then=rotation.after(len(shares), now),
        )

    def mark(self, bad: Sequence[BadObject]) -> None:
        """Keep in the backup what was found, so that no snapshot builds on it."""
        for each in bad:
            if len(each.name.split("/")) != 4:
                continue  # not of a store's own
            said: dict[str, JsonValue] = {"object": each.name, "what": each.what}
            try:
                self._objects.put(bad_name(each.name), canonical(said))
            except ObjectExists:
                continue  # marked before, in other words

    @contextmanager
    def _noting(self, bad: dict[str, BadObject]) -> Iterator[None]:
        """A record that cannot be read ends a listing: what comes after it is not seen at all."""
        prefix = f"{self._region}/"
        try:
            yield
        except ObjectDamaged as error:
            bad[prefix] = BadObject(name=prefix, what=str(error)[:500])

    def _gaps(self, store: str) -> list[BadObject]:
        """Changes between the oldest snapshot and the head that no segment holds."""
        found = list(self._missing_changes(store))
        if found:  # or something was pruned between two listings
            again = list(self._missing_changes(store))
            found = [each for each in found if each in again]
        return found

    def _missing_changes(self, store: str) -> Iterator[BadObject]:
        note = self._witness.head(self._region, store)  # first: its segments are there by then
        first = [each.seq for each in manifests(self._objects, self._region, store)]
        reached = min(first, default=None)
        for segment in segments(self._objects, self._region, store):
            reached = segment.first - 1 if reached is None else reached
            if segment.first > reached + 1:
                yield self._gap(store, reached + 1, segment.first - 1)
            reached = max(reached, segment.last)
        head = open_head(note, self._keys).size if note else 0
        if reached is not None and head > reached:
            yield self._gap(store, reached + 1, head)

    def _gap(self, store: str, first: int, last: int) -> BadObject:
        name = f"{self._region}/{store}/changelog/{first:016d}-{last:016d}-missing"
        return BadObject(name=name, what=f"no segment holds the changes {first} to {last}")

    def _lost(self, store: str, shares: Sequence[int], bad: Collection[str]) -> Iterator[BadObject]:
        """Chunks that a snapshot names and that are not there, or not as it names them."""
        found = list(manifests(self._objects, self._region, store))
        there = {info.name: info for info in self._objects.list(f"{self._region}/{store}/chunks/")}
        for each in found:
            name = each.object.name
            newest = each is found[-1]
            if name in bad or not (newest or share_of(name) in shares):
                continue
            try:
                manifest = read_manifest(self._objects.get(name, each.object.size))
            except (ManifestError, ObjectDamaged, ObjectMissing, ObjectTooLarge):
                continue  # its own share finds that
            for ref in manifest.chunks:
                info = there.get(ref.name)
                if info is None and self._is_missing(ref.name, name):
                    yield BadObject(name=ref.name, what=f"is not there; {name} names it")
                elif info is not None and (info.sha256, info.size) != (ref.sha256, ref.size):
                    what = f"has other bytes than {name} says"
                    yield BadObject(name=ref.name, what=what)

    def _is_missing(self, chunk: str, manifest: str) -> bool:
        """Whether nothing holds a chunk's documents, of a snapshot that was not pruned since."""
        gone = not chunk_copies(self._objects, chunk)
        return gone and self._objects.stat(manifest) is not None
