"""Readers and pruners of a backup: never at the same time, whoever comes first, whoever dies."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gcs_server import serve

from stores.objects import ObjectRetained, ObjectStore
from stores.objects_gcs import GcsObjects
from stores.objects_local import LocalObjects
from stores.pins import (
    CLAIM_LEASE,
    LAPSE_S,
    LOOK_S,
    PIN_LEASE,
    RENEW_S,
    Pinned,
    PruneClaim,
    PruningStuck,
    pinned,
    store_now,
    sweep,
)


@pytest.fixture(params=["local", "gcs"])
def objects(request: Any, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "local":
        yield LocalObjects(tmp_path / "objects")
        return
    with serve() as server:
        opened = GcsObjects("backups", endpoint=server.url, deadline_s=5, attempt_s=1)
        yield opened
        opened.close()


class Ticking:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pruner_gives_way_to_a_reader_and_goes_on_after_it(objects: ObjectStore) -> None:
    claim = PruneClaim(objects, "eu", "prune/eu/1")
    with pinned(objects, "eu", "restore/eu/1"), pytest.raises(Pinned, match="eu/pins/"):
        claim.check()
    claim.release()
    again = PruneClaim(objects, "eu", "prune/eu/1")
    again.check()
    again.release()
    assert list(objects.list("eu/")) == []


def test_a_reader_that_comes_later_waits_until_the_pruner_has_seen_it(
    objects: ObjectStore,
) -> None:
    clock, waited = Ticking(), list[float]()
    claim = PruneClaim(objects, "eu", "prune/eu/1", clock=clock)
    claim.check()

    def sleep(seconds: float) -> None:
        """The pruner's next look, while the reader waits."""
        waited.append(seconds)
        clock.now += LOOK_S + 1
        with pytest.raises(Pinned):
            claim.check()
        claim.release()

    with pinned(objects, "eu", "restore/eu/1", sleep=sleep):
        assert len(waited) == 1
    assert list(objects.list("eu/")) == []


def test_a_claim_is_renewed_without_a_moment_between_two(objects: ObjectStore) -> None:
    clock = Ticking()
    claim = PruneClaim(objects, "eu", "prune/eu/1", clock=clock)
    claim.check()
    [first] = objects.list("eu/pruning/")
    clock.now += RENEW_S + 1
    claim.check()
    [second] = objects.list("eu/pruning/")
    assert first.name != second.name
    clock.now += LAPSE_S + 1
    with pytest.raises(Pinned, match="lapsed"):
        claim.check()


def test_a_pruner_that_died_holds_nobody_up_for_longer_than_its_lease(tmp_path: Path) -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)
    objects = LocalObjects(tmp_path, clock=lambda: now)
    PruneClaim(objects, "eu", "prune/eu/1").check()  # and never again
    now += CLAIM_LEASE + timedelta(seconds=1)
    with pinned(objects, "eu", "restore/eu/1", sleep=_never):
        pass
    assert sweep(objects, "eu", now) == 1


def test_a_reader_that_died_holds_nobody_up_for_longer_than_its_lease(tmp_path: Path) -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)
    objects = LocalObjects(tmp_path, clock=lambda: now)
    objects.put("eu/pins/dead.json", b"{}")
    with pytest.raises(Pinned):
        PruneClaim(objects, "eu", "prune/eu/1").check()
    now += PIN_LEASE + timedelta(seconds=1)
    assert sweep(objects, "eu", now) == 2
    PruneClaim(objects, "eu", "prune/eu/2").check()


class Retaining(LocalObjects):
    """A bucket whose policy lets nothing go."""

    def delete(self, name: str, *, if_generation: int) -> None:
        raise ObjectRetained(f"object {name}: retained until 2030")


def test_a_bucket_that_lets_nothing_go_blocks_nobody(tmp_path: Path) -> None:
    objects = Retaining(tmp_path)
    with pinned(objects, "eu", "snapshot"):
        pass
    claim = PruneClaim(objects, "eu", "prune/eu/1")
    claim.check()
    claim.release()
    with pinned(objects, "eu", "restore/eu/1", sleep=_never), pytest.raises(Pinned):
        PruneClaim(objects, "eu", "prune/eu/1").check()
    assert sweep(objects, "eu", datetime.now(UTC) + PIN_LEASE * 2) == 0


def test_a_pruner_that_never_gives_way_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = LocalObjects(tmp_path)
    objects.put("eu/pruning/other.json", b"{}")
    monkeypatch.setattr("stores.pins.CLAIM_LEASE", timedelta(seconds=0.2))

    def sleep(_seconds: float) -> None:
        for found in list(objects.list("eu/pruning/")):
            objects.delete(found.name, if_generation=found.generation)
        objects.put("eu/pruning/other.json", b"{}")

    with pytest.raises(PruningStuck), pinned(objects, "eu", "restore/eu/1", sleep=sleep):
        raise AssertionError("not to be had")
    assert not list(objects.list("eu/pins/"))


def test_the_stores_own_clock_is_read_and_leaves_nothing(objects: ObjectStore) -> None:
    assert abs(store_now(objects, "eu") - datetime.now(UTC)) < timedelta(minutes=1)
    assert list(objects.list("eu/")) == []


def _never(_seconds: float) -> None:
    raise AssertionError("waits for a claim whose lease has ended")
