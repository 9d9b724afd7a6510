"""Restoring one tenant in place: what differs from a copy, and writing it key by key.

The plan names each key's version in the live store. A key is written only while it is at that
version; one that somebody wrote since is a conflict, is reported and stays.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue
from sqlalchemy import Engine

from models.tenant_restore import SHOWN, AppliedTenant, Comparison
from models.verifier import Refused
from stores.kv import ABSENT, KvItem, TenantKV, VersionConflict, value_digest
from stores.quarantine import ENTRIES, PLAN, file_digest, read_items, read_lines, write_lines
from stores.tenant_copy import entries_digest

Beat = Callable[[int], None]
"""Called now and then with how many keys are done; may raise to stop before the next one."""

_EVERY = 50


class StoreChanged(Exception):
    """The region's primary is another store than the one that was compared: compare again."""


@dataclass
class _Count:
    put: int = 0
    remove: int = 0
    same: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, line: Mapping[str, JsonValue]) -> None:
        removes = line["value"] is None
        self.remove += removes
        self.put += not removes
        if len(self.first) < SHOWN:
            was = "new" if line["expected"] == ABSENT else f"version {line['expected']}"
            self.first.append(f"{'remove' if removes else 'put'} {line['key']} ({was})")


def compare_tenant(live: Engine, store: str, tenant: str, place: Path) -> Comparison:
    """What differs between a copy and the live tenant; the plan is written beside the copy.

    Args:
        store: the id of the live store.
    """
    kv, count = TenantKV(live, tenant), _Count()
    before = entries_digest(kv.items())
    plan = write_lines(place / PLAN, _counted(_differences(kv, tenant, place), count))
    return Comparison(
        store=store,
        plan=plan,
        before=before,
        put=count.put,
        remove=count.remove,
        same=count.same,
        first=tuple(count.first),
    )


def apply_plan(
    live: Engine, tenant: str, place: Path, comparison: Comparison, beat: Beat = lambda _done: None
) -> AppliedTenant:
    """Write a plan through the store's own write path; again it goes on where it was.

    Raises:
        Refused: the plan's file is not the one that was compared.
        StoreUnavailable: the store does not answer, or is fenced; call again.
    """
    if file_digest(place / PLAN) != comparison.plan:
        raise Refused("altered", f"{PLAN}: is not the plan that was decided upon")
    kv, put, removed = TenantKV(live, tenant), 0, 0
    conflicts: list[str] = []
    for number, line in enumerate(read_lines(place / PLAN)):
        if number % _EVERY == 0:
            beat(number)
        value = None if line["value"] is None else base64.b64decode(line["value"])
        if not _write(kv, line["key"], value, line["expected"]):
            conflicts.append(line["key"])
        elif value is None:
            removed += 1
        else:
            put += 1
    return AppliedTenant(
        put=put,
        removed=removed,
        conflicts=len(conflicts),
        first_conflicts=tuple(conflicts[:SHOWN]),
        before=comparison.before,
        after=entries_digest(kv.items()),
    )


def _write(kv: TenantKV, key: str, value: bytes | None, expected: int) -> bool:
    """Whether the key is what it should be now; false: somebody else has written it."""
    try:
        if value is None:
            kv.delete(key, expected_version=expected)
        else:
            kv.put(key, value, expected_version=expected)
    except VersionConflict as conflict:
        # An earlier try, whose answer was lost, may have written it.
        if value is None or conflict.found == ABSENT:
            return value is None and conflict.found == ABSENT
        found = kv.get(key)
        return found is not None and found.value == value
    return True


def _differences(kv: TenantKV, tenant: str, place: Path) -> Iterator[dict[str, JsonValue] | None]:
    """A line of the plan for each key that differs, None for each that does not."""
    copy, live = read_items(place / ENTRIES), kv.items()
    wanted, there = next(copy, None), next(live, None)
    while wanted is not None or there is not None:
        if there is None or (wanted is not None and wanted.key < there.key):
            assert wanted is not None
            yield _put(wanted, ABSENT)
            wanted = next(copy, None)
        elif wanted is None or there.key < wanted.key:
            yield {"key": there.key.decode(), "value": None, "expected": there.version}
            there = next(live, None)
        else:
            same = _is_whole(tenant, there) and there.value == wanted.value
            yield None if same else _put(wanted, there.version)
            wanted, there = next(copy, None), next(live, None)


def _is_whole(tenant: str, item: KvItem) -> bool:
    """Whether the live value is what was written; one that rotted is written anew."""
    return value_digest(tenant, item.key, item.value) == item.sha256


def _put(item: KvItem, expected: int) -> dict[str, JsonValue]:
    return {
        "key": item.key.decode(),
        "value": base64.b64encode(item.value).decode(),
        "expected": expected,
    }


def _counted(
    lines: Iterator[dict[str, JsonValue] | None], count: _Count
) -> Iterator[dict[str, JsonValue]]:
    for line in lines:
        if line is None:
            count.same += 1
        else:
            count.add(line)
            yield line
