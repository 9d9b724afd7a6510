"""Which store is a region's primary: a small file beside the region's addresses.

It changes only to a higher epoch. Every process of the region reads it when it starts, and starts
again when it changes.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stores.files import file_lock, write_atomic


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
