"""The file that says which store is a region's primary: replaced as a whole, never back in epoch.

The file and the spool of the region's buffer lie in one directory, which outlives every process.
"""

from pathlib import Path

from pydantic import ValidationError

from models.primary import Primary
from stores.files import FileWatch, file_lock, write_atomic

PRIMARY = "primary.json"
SPOOL = "spool"
"""Directory of the buffer's spool, beside the file."""


class PrimaryDamaged(Exception):
    """The file cannot be read or is another region's; the message names it."""


class StalePrimary(Exception):
    """The change's epoch is not above the one that is in force; nothing was changed."""

    def __init__(self, epoch: int, found: Primary) -> None:
        super().__init__(
            f"epoch {epoch} is stale: region {found.region} is {found.mode} by epoch {found.epoch}"
        )
        self.epoch = epoch
        self.found = found

    def __reduce__(self) -> tuple[type["StalePrimary"], tuple[int, Primary]]:
        return StalePrimary, (self.epoch, self.found)


class RegionNotNormal(Exception):
    """The region's request path is not served by its primary just now."""


class PrimaryFile:
    """A region's file; may be changed and read by any number of processes."""

    def __init__(self, directory: Path, region: str) -> None:
        self.path = directory / PRIMARY
        self._region = region

    def read(self) -> Primary:
        """What is in force; normal by epoch 0 where nothing was ever changed.

        Raises:
            PrimaryDamaged: see the class.
        """
        try:
            found = Primary.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Primary(region=self._region, epoch=0, mode="normal")
        except OSError as error:
            raise PrimaryDamaged(f"{self.path}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise PrimaryDamaged(f"{self.path}: {field}: {first['msg']}") from None
        if found.region != self._region:
            raise PrimaryDamaged(f"{self.path}: is region {found.region}'s, not {self._region}'s")
        return found

    def require_normal(self) -> None:
        """Pass only where the primary serves.

        Raises:
            RegionNotNormal: it does not.
            PrimaryDamaged: see the class.
        """
        found = self.read()
        if found.mode != "normal":
            why = f": {found.why}" if found.why else ""
            raise RegionNotNormal(f"region {self._region} is {found.mode}{why}")

    def switch(self, wanted: Primary) -> None:
        """Put a state into force; the same one again changes nothing.

        Raises:
            StalePrimary: another change has this epoch or a higher one.
            PrimaryDamaged: see `read`.
            ValueError: it is another region's, or one that nobody could read afterwards.
            OSError: the disk is full or not writable; nothing was changed.
        """
        if wanted.region != self._region:
            raise ValueError(f"region: {wanted.region}, this file is {self._region}'s")
        with file_lock(self.path.with_suffix(".lock")):
            found = self.read()
            if found == wanted:
                return
            if wanted.epoch <= found.epoch:
                raise StalePrimary(wanted.epoch, found)
            content = wanted.model_dump_json(indent=2).encode() + b"\n"
            Primary.model_validate_json(content)  # a copy with changes was never validated
            write_atomic(self.path, content)


class PrimaryWatch:
    """Notices changes of the file."""

    def __init__(self, file: PrimaryFile) -> None:
        self._file = file
        self._watch = FileWatch(file.path)
        self._newest: Primary | None = None

    def changed(self) -> bool:
        """Whether the file was replaced since `newest` read it."""
        return self._watch.changed()

    def newest(self) -> Primary:
        """The state of the highest epoch that was ever seen.

        Raises:
            PrimaryDamaged: the file cannot be read; `changed` stays true.
        """
        look = self._watch.look()
        found = self._file.read()
        self._watch.seen(look)
        if self._newest is None or found.epoch > self._newest.epoch:
            self._newest = found
        return self._newest
