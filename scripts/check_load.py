"""Proves from a record of load that no request failed and that no shard ever answered backwards.

    scripts/check_load.py load.csv --home .chainring

A shard answers backwards when a request that was SENT after an answer of a newer activation had
been RECEIVED is itself answered by an older one. The order of activations comes from the regions'
receipts (``--home``), or from a file (``--activations``, a JSON object: for each shard its releases
in order, beginning with the one before the run). With neither it is the order in which releases
were first seen, each once per shard: right for a rollout without a rollback, but after a rollback
the old release's return would count as backwards.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

from load import Answer, read_record

from models.ids import short
from stores.ledger import Ledger
from stores.shards import ACTIVATED
from stores.sql import StoreUnavailable, open_engine
from workers.settings import SettingsError, known_regions, load_region

PUBLICATION = timedelta(seconds=10)
"""How long after its receipt an activation may come into force: the publisher's deadline."""


class Violation(NamedTuple):
    """An answer that must not be, and why."""

    answer: Answer
    why: str


def failed(answers: Iterable[Answer]) -> list[Violation]:
    """Requests with no answer, or with one that is not 2xx."""
    return [
        Violation(answer, f"status {answer.status}" if answer.status else "no answer")
        for answer in answers
        if answer.failed
    ]


def backwards(
    answers: Iterable[Answer], activations: Mapping[str, Sequence[str]] | None = None
) -> list[Violation]:
    """Answers older than one that had been received, on the same shard, before they were asked for.

    An answer names a release, and a release may have been active more than once. Each answer is
    therefore given the earliest activation of its release that is not older than what was already
    received when it was sent; where there is none, no order of events explains the answer. Giving
    the earliest is safe: it constrains later answers the least.
    """
    by_shard: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        if answer.release:
            by_shard[answer.shard].append(answer)
    violations = []
    for shard, record in sorted(by_shard.items()):
        order = _seen_order(record) if activations is None else activations.get(shard, [])
        violations += _backwards_on_shard(record, [short(release) for release in order])
    return violations


def _backwards_on_shard(record: list[Answer], order: Sequence[str]) -> list[Violation]:
    violations = []
    arriving: list[tuple[int, int]] = []  # (received, activation) of answers not yet accounted for
    newest = 0
    for answer in sorted(record, key=lambda each: each.sent_ns):
        while arriving and arriving[0][0] < answer.sent_ns:
            newest = max(newest, heappop(arriving)[1])
        activation = _earliest(order, answer.release, newest)
        if activation is None:
            violations.append(Violation(answer, _reason(order, answer.release, newest)))
        else:
            heappush(arriving, (answer.received_ns, activation))
    return violations


def _earliest(order: Sequence[str], release: str, newest: int) -> int | None:
    try:
        return order.index(release, newest)
    except ValueError:
        return None


def _reason(order: Sequence[str], release: str, newest: int) -> str:
    if release not in order:
        return f"release {release} was never active on this shard"
    return f"release {release} after activation {newest} ({order[newest]}) had been answered"


def _seen_order(record: Iterable[Answer]) -> list[str]:
    by_receipt = sorted(record, key=lambda each: each.received_ns)
    return list(dict.fromkeys(answer.release for answer in by_receipt))


def read_activations(path: Path) -> dict[str, list[str]]:
    """The activations file; raises ValueError that says what is wrong with it."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it must be an object of shards")
    for shard, releases in content.items():
        if not isinstance(releases, list) or not all(isinstance(each, str) for each in releases):
            raise ValueError(f"{path}: {shard}: it must be a list of releases")
    return content


def activations_of_home(since: datetime) -> dict[str, list[str]]:
    """For each shard of every region, from its receipts: what ran at ``since``, and all later."""
    activations: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for region in known_regions():
        ledger = Ledger(open_engine(load_region(region).database), region)
        for stored in ledger.read(kinds=[ACTIVATED]):
            at = datetime.fromisoformat(stored.receipt.at)
            activations[stored.receipt.subject].append((at, str(stored.receipt.body["release"])))
    return {shard: _from(since - PUBLICATION, each) for shard, each in activations.items()}


def _from(since: datetime, activations: list[tuple[datetime, str]]) -> list[str]:
    """All that were not superseded before ``since``.

    Older ones must go: an answer of a release that ran long ago as well would be taken for one of
    that time.
    """
    superseded = sum(at < since for at, _ in activations[1:])
    return [release for _, release in activations[superseded:]]


def began(answers: Sequence[Answer]) -> datetime:
    """When the record begins, by the clock on the wall; raises ValueError after a restart."""
    age_ns = time.monotonic_ns() - min(answer.sent_ns for answer in answers)
    if age_ns < 0:
        raise ValueError("the record is of before this machine's last start: give --activations")
    return datetime.now(UTC) - timedelta(microseconds=age_ns / 1000)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("record", type=Path, help="what scripts/load.py wrote")
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--home", type=Path, help="state directory, for its receipts")
    order.add_argument("--activations", type=Path, help="JSON: shard -> releases in order")
    parser.add_argument("--show", type=int, default=20, help="violations to print of each kind")
    options = parser.parse_args(arguments)
    try:
        answers = read_record(options.record)
        if not answers:
            raise ValueError("the record holds no answers, which proves nothing")
        activations = _activations(options.home, options.activations, answers)
    except (OSError, ValueError, SettingsError, StoreUnavailable) as error:
        print(f"check_load: {error}", file=sys.stderr)
        return 2
    return _report(answers, failed(answers), backwards(answers, activations), options.show)


def _activations(
    home: Path | None, file: Path | None, answers: Sequence[Answer]
) -> dict[str, list[str]] | None:
    if file is not None:
        return read_activations(file)
    if home is None:
        return None
    os.environ["CHAINRING_HOME"] = str(home)
    return activations_of_home(began(answers))


def _report(
    answers: Sequence[Answer], losses: list[Violation], stale: list[Violation], show: int
) -> int:
    shards = {answer.shard for answer in answers}
    releases = {answer.release for answer in answers if answer.release}
    print(f"{len(answers)} requests, {len(shards)} shards, {len(releases)} releases seen")
    for title, violations in (("failed requests", losses), ("old answers after new", stale)):
        print(f"{title}: {len(violations)}")
        for violation in violations[:show]:
            sent_ns, _, region, shard, tenant, *_ = violation.answer
            print(f"  {sent_ns} {region} {shard} {tenant}: {violation.why}")
    return 1 if losses or stale else 0


if __name__ == "__main__":
    sys.exit(main())
