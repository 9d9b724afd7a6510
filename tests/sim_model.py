"""What a simulated history must leave behind, kept apart from every store.

An operation takes effect in one store after one change of it, or in the buffer first. A store that
was restored from another one holds what that one held up to the change that was reached.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

Doc = tuple[str, ...]
"""``("kv", tenant, key)``, ``("tenant", id)`` or ``("receipt", idempotency key)``."""


class Violation(AssertionError):
    """The stores did what they must not do."""


@dataclass(eq=False)
class Operation:
    """One attempted change of a document.

    Attributes:
        at: the change after which each store holds it; 0: since that store was restored.
        number: its record in the buffer's spool.
        lost: why it is not in the primary, if it may be missing.
    """

    doc: Doc
    value: bytes | None
    acknowledged: bool = False
    at: dict[str, int] = field(default_factory=dict)
    number: int | None = None
    lost: str = ""

    def __str__(self) -> str:
        said = "acknowledged" if self.acknowledged else "attempted"
        return f"{'/'.join(self.doc)} = {self.value!r} ({said}, record {self.number}, at {self.at})"


@dataclass
class Model:
    """Every operation that took effect, in that order."""

    effective: list[Operation] = field(default_factory=list)
    buffered: dict[int, Operation] = field(default_factory=dict)
    conflicts: list[Operation] = field(default_factory=list)
    shipped: dict[str, int] = field(default_factory=dict)
    """The last change of each store that a round said it had shipped."""

    def happened(self, operation: Operation, store: str, seq: int) -> None:
        """The operation is in a store, after this change."""
        if operation in self.effective:
            self.effective.remove(operation)
        operation.at[store] = seq
        operation.lost = ""
        self.effective.append(operation)

    def kept(self, operation: Operation, number: int) -> None:
        """The operation is in the buffer."""
        operation.number = number
        self.buffered[number] = operation

    def drained(self, number: int, *, applied: bool, store: str, seq: int) -> None:
        """The store has a mark for a buffered operation."""
        operation = self.buffered.get(number)
        if operation is None:
            raise Violation(f"record {number} was drained, and nobody wrote it")
        if not applied:
            if operation not in self.conflicts:
                self.conflicts.append(operation)
        elif store not in operation.at:
            self.happened(operation, store, seq)

    def emptied(self, store: str) -> None:
        """The buffer was cleared: everything in it must have come somewhere."""
        for operation in self.buffered.values():
            if store not in operation.at and operation not in self.conflicts:
                raise Violation(f"the buffer was cleared without {operation}")
        self.buffered.clear()

    def expected(self, store: str) -> dict[Doc, bytes]:
        """The documents that a store must hold."""
        found: dict[Doc, bytes] = {}
        for operation in self.effective:
            if store not in operation.at:
                continue
            if operation.value is None:
                found.pop(operation.doc, None)
            else:
                found[operation.doc] = operation.value
        return found

    def restored(self, source: str, store: str, *, reached: int) -> None:
        """A store holds what the other one held then."""
        for operation in self.effective:
            if operation.at.get(source, reached + 1) <= reached:
                operation.at[store] = 0

    def lacking(self, before: set[str], store: str) -> Iterator[Operation]:
        """What one of these stores held and a later one does not, and nobody said why yet."""
        for operation in self.effective:
            if before & operation.at.keys() and store not in operation.at and not operation.lost:
                yield operation

    def missing(self, store: str) -> Iterator[Operation]:
        """Acknowledged operations that are in neither store nor buffer, and nobody said so."""
        for operation in self.effective:
            if operation.acknowledged and store not in operation.at and not operation.lost:
                yield operation
