"""`chainring events`: the fleet control bus, read from the receipts of all ledgers.

There is no second log that could disagree: an event is a receipt. The order is by time, then
ledger, then sequence number; between ledgers that is evidence only, within one it is certain.
"""

import heapq
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape

from models.receipts import Receipt
from stores.ledger import Ledger
from stores.sql import StoreUnavailable
from workers.cli.ledgers import LedgerPlace, find_ledger, known_ledgers, refusals
from workers.cli.output import console, errors, fail

POLL_SECONDS = 0.5

FOLLOW_TAIL = 20


class Cursor:
    """Where the reading of one ledger is; asking for more is one query by primary key."""

    def __init__(self, ledger: Ledger, next_seq: int) -> None:
        self.ledger = ledger
        self.next_seq = next_seq
        self._down = False

    def take(self) -> Iterator[Receipt]:
        """Receipts appended since the last time.

        A database that does not answer is reported once and asked again the next time.
        """
        try:
            for stored in self.ledger.read(self.next_seq):
                yield stored.receipt
                self.next_seq = stored.seq + 1
            self._down = False
        except StoreUnavailable as error:
            if not self._down:
                errors.print(f"ledger {self.ledger.name}: {error}", highlight=False)
            self._down = True


def events(
    follow: Annotated[bool, typer.Option(help="go on printing as things happen")] = False,
    region: Annotated[
        list[str] | None, typer.Option(help="only this ledger (control too); repeatable")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="only this kind or family, as shard; repeatable")
    ] = None,
    after: Annotated[
        list[str] | None, typer.Option(help="LEDGER=SEQ: go on after this receipt; repeatable")
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(min=0, help="the last so many a ledger; 20 with --follow, else all"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Show what happened to the fleet, from the receipts of all ledgers.

    Example: chainring events --follow --kind rollout --kind gate
    """
    with refusals():
        places = [find_ledger(name) for name in region] if region else known_ledgers()
        starts = _positions(after or [], places)
        if tail is None and follow:
            tail = FOLLOW_TAIL
        cursors = [_cursor(place.open(), starts.get(place.name), tail) for place in places]
        _print(merged(cursors), kind, as_json=as_json)
        while follow:
            time.sleep(POLL_SECONDS)
            _print(merged(cursors), kind, as_json=as_json)


def merged(cursors: Iterable[Cursor]) -> Iterator[Receipt]:
    """What is new in all ledgers, by (at, ledger, seq)."""
    return heapq.merge(
        *(cursor.take() for cursor in cursors),
        key=lambda receipt: (receipt.at, receipt.ledger, receipt.seq),
    )


def _positions(after: list[str], places: list[LedgerPlace]) -> dict[str, int]:
    names = {place.name for place in places}
    positions: dict[str, int] = {}
    for text in after:
        name, _, seq = text.partition("=")
        if name not in names or not seq.isdecimal():
            fail(f"after: {text!r} is not LEDGER=SEQ with a ledger that is shown")
        positions[name] = int(seq) + 1
    return positions


def _cursor(ledger: Ledger, start: int | None, tail: int | None) -> Cursor:
    if start is None:
        start = 0 if tail is None else max(0, ledger.head().size - tail)
    return Cursor(ledger, start)


def _wanted(receipt: Receipt, kinds: list[str] | None) -> bool:
    return not kinds or any(
        receipt.kind == kind or receipt.kind.startswith(f"{kind}.") for kind in kinds
    )


def _print(receipts: Iterable[Receipt], kinds: list[str] | None, *, as_json: bool) -> None:
    for receipt in receipts:
        if not _wanted(receipt, kinds):
            continue
        if as_json:
            sys.stdout.write(json.dumps(_event(receipt), ensure_ascii=False) + "\n")
        else:
            console.print(_line(receipt), highlight=False, soft_wrap=True)
    sys.stdout.flush()


def _event(receipt: Receipt) -> dict[str, Any]:
    return receipt.model_dump(
        mode="json",
        include={"at", "ledger", "seq", "kind", "subject", "actor", "workflow_id", "body"},
    )


def _line(receipt: Receipt) -> str:
    place = f"{receipt.ledger}/{receipt.seq}"
    return (
        f"[dim]{receipt.at[:23]}Z[/dim] {place:<14} [bold]{receipt.kind:<24}[/bold] "
        f"{escape(receipt.subject)} [dim]{escape(receipt.actor)}[/dim]"
    )
