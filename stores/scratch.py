"""Databases that drills build: each is noted before it is made, so that none is left behind.

A drill that is killed for good cannot clean up; the next one finds the note and does.
"""

import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stores.files import write_atomic
from stores.restore_target import create_target, drop_target, target_url


class Scratch(BaseModel):
    """One scratch database: the id of the store in it, which names it, and whose it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(pattern=r"[0-9a-f]{32}")
    holder: str = Field(description="workflow id")

    def database(self, beside: str) -> str:
        """Its address, beside another database of the region."""
        return target_url(beside, self.store)


class ScratchError(Exception):
    """A note cannot be read; the message names it."""


class ScratchStores:
    """The scratch databases of one region, by notes in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def make(self, beside: str, holder: str) -> Scratch:
        """Make an empty database beside another one.

        Raises:
            StoreUnavailable: the server does not answer, or the disk is not writable.
        """
        made = Scratch(store=secrets.token_hex(16), holder=holder)
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomic(self._note(made), made.model_dump_json().encode())
        create_target(made.database(beside))
        return made

    def all(self) -> list[Scratch]:
        """Every database that may be there.

        Raises:
            ScratchError: a note is damaged.
        """
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(Scratch.model_validate_json(path.read_bytes()))
            except FileNotFoundError:
                continue  # thrown away meanwhile
            except ValidationError as error:
                raise ScratchError(f"{path}: {error.errors()[0]['msg']}") from None
        return found

    def drop(self, beside: str, holder: str) -> list[str]:
        """Throw away what a workflow's drill made; the ids of the stores.

        Raises:
            StoreUnavailable, ScratchError: see above.
        """
        mine = [each for each in self.all() if each.holder == holder]
        for each in mine:
            drop_target(each.database(beside))
            self._note(each).unlink(missing_ok=True)
        return [each.store for each in mine]

    def _note(self, scratch: Scratch) -> Path:
        return self._directory / f"{scratch.store}.json"
