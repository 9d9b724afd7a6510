"""A few seeds of the simulator, and that it complains about a product that is broken."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sim_history import simulate

import activities.recovery
import stores.changelog_sql
import stores.drain
import stores.restore_build
from stores.kv import TenantKV
from stores.shipping import Shipper

SEEDS = range(4)
MUTATED = range(60)
"""Seeds that are tried until one finds a mutation."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_history_loses_nothing_and_makes_nothing_up(seed: int) -> None:
    found = simulate(seed)
    assert not found.violation, "\n".join((*found.trace, found.violation))


def test_a_seed_is_always_the_same_history() -> None:
    first, second = simulate(7, length=25), simulate(7, length=25)
    assert [_plain(each) for each in first.trace] == [_plain(each) for each in second.trace]


def _plain(line: str) -> str:
    """A line of the trace without the directory that the history was played in."""
    return re.split("/dev/shm|/tmp", line, maxsplit=1)[0]


# --- what the simulator is worth: each of these must be found ---


@contextlib.contextmanager
def _fence_forgotten(patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setattr(activities.recovery, "fence", lambda *_given, **_named: None)
    yield


@contextlib.contextmanager
def _tail_not_asked_for(patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setattr(
        activities.recovery.RecoveryActivities, "_require_all", lambda *_given, **_named: None
    )
    yield


@contextlib.contextmanager
def _record_dropped(patch: pytest.MonkeyPatch) -> Iterator[None]:
    real = stores.drain._by_tenant
    patch.setattr(stores.drain, "_by_tenant", lambda records: real(records[:-1]))
    patch.setattr(stores.drain, "DrainIncomplete", _Never)
    yield


class _Never(Exception):
    def __new__(cls, *_given: object) -> Any:
        raise AssertionError("a record has no mark")


@contextlib.contextmanager
def _shipper_skips(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A shipper that says it has shipped what it has not."""
    real = Shipper._put_once

    def put(self: Shipper, name: str, data: bytes) -> None:
        if not name.endswith(".seg"):
            real(self, name, data)

    patch.setattr(Shipper, "_put_once", put)
    yield


@contextlib.contextmanager
def _value_from_nowhere(patch: pytest.MonkeyPatch) -> Iterator[None]:
    real = TenantKV.put

    def put(self: TenantKV, key: str, value: bytes, **given: Any) -> int:
        return real(self, key, b"9" if value.endswith(b"3") else value, **given)

    patch.setattr(TenantKV, "put", put)
    yield


@contextlib.contextmanager
def _change_not_replayed(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A restore that says it reached what it left out."""
    real = stores.restore_build._folded

    def folded(collection: Any, keys: Any, rows: Any, fold: Any, course: Any) -> Any:
        fold.clear()
        return real(collection, keys, rows, fold, course)

    patch.setattr(stores.restore_build, "_folded", folded)
    patch.setattr(stores.restore_build.Builder, "_load_new", lambda *_given: None)
    yield


@pytest.mark.parametrize(
    "mutation",
    [
        _fence_forgotten,
        _tail_not_asked_for,
        _record_dropped,
        _shipper_skips,
        _value_from_nowhere,
        _change_not_replayed,
    ],
)
def test_a_broken_product_is_found(
    mutation: Callable[[pytest.MonkeyPatch], contextlib.AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with mutation(monkeypatch):
        assert any(simulate(seed).violation for seed in MUTATED)
