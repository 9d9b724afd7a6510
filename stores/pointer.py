"""Which store is a region's primary: a small file beside the region's addresses.

It changes only to a higher epoch. The gateway and the release host go on with the new store at
once; the region's worker starts again on it.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Engine

from stores.files import FileWatch, file_lock, write_atomic
from stores.sql import engine_for


class Pointer(BaseModel):
    """The primary from an epoch on; ``former`` are the databases that must not be written again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(pattern=r"[0-9a-f]{32}")
    epoch: int = Field(ge=1)
    database: str = Field(description="SQLAlchemy URL")
    former: tuple[str, ...] = ()


class PointerError(Exception):
    """The pointer is damaged, or another one was faster."""


class PrimaryPointer:
    """The pointer of one region, in the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Pointer | None:
        """The primary; None where it never changed.

        Raises:
            PointerError: the file is not one.
        """
        try:
            return Pointer.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            raise PointerError(f"{self.path}: {first['loc']}: {first['msg']}") from None

    def move(self, pointer: Pointer, *, replaces: Pointer | None = None) -> None:
        """Point at another store; the same again changes nothing.

        Args:
            replaces: what must be there until now; None: whatever is there.

        Raises:
            PointerError: the file has this epoch or a higher one already, for another store, or
                another store than that of ``replaces``.
        """
        with file_lock(self.path.with_suffix(".lock")):
            found = self.read()
            if found == pointer:
                return
            if found is not None and found.epoch >= pointer.epoch:
                raise PointerError(
                    f"epoch {pointer.epoch} is stale: store {found.store} is the primary since "
                    f"epoch {found.epoch}"
                )
            if replaces is not None and found != replaces:
                raise PointerError(f"another store than {replaces.store} is the primary by now")
            write_atomic(self.path, pointer.model_dump_json(indent=1).encode())


class PrimaryEngine:
    """The engine of a region's primary, whichever that is when it is asked for.

    Args:
        configured: URL of the database that is the primary as long as the pointer names none.
        pointer: None: the primary never changes.
    """

    def __init__(self, configured: str, pointer: PrimaryPointer | None = None) -> None:
        self._configured = configured
        self._pointer = pointer
        self._watch = None if pointer is None else FileWatch(pointer.path)
        self._engine: Engine | None = None

    def __call__(self) -> Engine:
        """The engine; microseconds where nothing has changed.

        Raises:
            PointerError: the pointer's file is damaged.
        """
        if self._engine is None or (self._watch is not None and self._watch.changed()):
            self._engine = engine_for(self._newest())
        return self._engine

    def _newest(self) -> str:
        if self._pointer is None or self._watch is None:
            return self._configured
        look = self._watch.look()
        found = self._pointer.read()
        self._watch.seen(look)
        return self._configured if found is None else found.database
