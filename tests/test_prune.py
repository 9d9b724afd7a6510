"""Pruning real backups: what is wanted restores, what is not is gone, what is held stays."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gcs_server import serve
from recovery_harness import REGION, Backup, documents
from sqlalchemy import Engine

from models.backup_retention import Limits, RetentionRefused
from models.prune import PlannedRemoval, Pruned
from models.restore import Goal
from stores.backup_layout import manifests, segments, store_name
from stores.changelog import identity
from stores.ledger import Ledger
from stores.objects import ObjectStore
from stores.objects_gcs import GcsObjects
from stores.objects_local import LocalObjects
from stores.pins import PruneClaim, pinned
from stores.prune import Pruner
from stores.snapshots import Snapshotter
from stores.sql import open_engine

DAY = timedelta(days=1)
LIMITS = Limits(retention=5 * DAY, step=DAY)


class Days:
    """A backup that is written day by day, by a clock that a test may set wrong."""

    def __init__(self, directory: Path) -> None:
        self.now = datetime.now(UTC) - 12 * DAY
        self.engine = open_engine(f"sqlite:///{directory}/region.db")
        self.backup = Backup(self.engine, directory)
        self.backup.objects = LocalObjects(directory / "objects", clock=lambda: self.now)
        self.known: dict[int, dict[tuple[str, str], tuple[str, bytes | None]]] = {}

    def day(self) -> None:
        """Some writes in two shipments, and a snapshot."""
        self.now += DAY
        for _ in range(2):
            self.backup.work(4)
            self.backup.ship()
        with self.backup.shipper() as shipper:
            made = Snapshotter(self.engine, shipper, clock=lambda: self.now).snapshot()
        self.known[made.manifest.seq] = documents(self.engine)

    def pruner(self, objects: ObjectStore | None = None) -> Pruner:
        return Pruner(
            objects or self.backup.objects,
            REGION,
            [self.backup.key.public(REGION)],
            lambda: LIMITS,
            clock=lambda: self.now,
        )

    def prune(self, objects: ObjectStore | None = None) -> tuple[PlannedRemoval, Pruned]:
        pruner = self.pruner(objects)
        plan = pruner.plan()
        claim = PruneClaim(objects or self.backup.objects, REGION, "prune/eu/1")
        return plan, pruner.prune(plan.base, claim)

    def seqs(self) -> list[int]:
        return [each.seq for each in manifests(self.backup.objects, REGION, self.store)]

    @property
    def store(self) -> str:
        return self.backup.identity.id

    def names(self) -> set[str]:
        return {found.name for found in self.backup.objects.list(f"{REGION}/")}


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Days:
    """Twelve days, from which each test goes on by itself."""
    made = Days(tmp_path_factory.mktemp("days"))
    for _ in range(12):
        made.day()
    made.engine.dispose()
    return made


@pytest.fixture
def days(twelve: Days, tmp_path: Path) -> Iterator[Days]:
    shutil.copytree(twelve.backup.directory, tmp_path, dirs_exist_ok=True)
    made = Days(tmp_path)
    made.now, made.known = twelve.now, dict(twelve.known)
    made.backup.written = twelve.backup.written
    yield made
    made.engine.dispose()


@pytest.fixture
def targets(tmp_path: Path) -> Iterator["Targets"]:
    made = Targets(tmp_path)
    yield made
    made.close()


class Targets:
    """Empty databases to restore into."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: list[Engine] = []

    def next(self) -> Engine:
        number = len(self._open)
        self._open.append(open_engine(f"sqlite:///{self._directory}/target-{number}.db"))
        return self._open[-1]

    def close(self) -> None:
        for each in self._open:
            each.dispose()


def test_every_wanted_snapshot_restores_and_what_is_older_is_gone(
    days: Days, targets: Targets
) -> None:
    before, outside = days.seqs(), store_name(REGION, days.store)
    plan, pruned = days.prune()
    assert plan.age_days >= 6 and pruned.refused == 0 and pruned.counts == plan.counts
    assert set(plan.counts) == {"snapshots", "changelog", "chunks"}
    left = days.seqs()
    assert left == before[before.index(plan.base_seq) :] and len(left) == 7
    assert min(each.first for each in segments(days.backup.objects, REGION, days.store)) == (
        plan.base_seq + 1
    )
    assert days.backup.objects.stat(outside)
    for seq in left:
        target = targets.next()
        report = days.backup.restore(target, Goal(seq=seq))
        assert report.complete and not report.findings
        assert documents(target) == days.known[seq]
    between = (left[0] + left[1]) // 2
    report = days.backup.restore(targets.next(), Goal(seq=between))
    assert report.gap is None and report.base_seq == left[0]
    assert days.pruner().plan().objects == 0


def test_done_again_after_a_crash_it_goes_on(days: Days) -> None:
    plan = days.pruner().plan()
    for name in plan.first[:3]:
        info = days.backup.objects.stat(name)
        assert info
        days.backup.objects.delete(name, if_generation=info.generation)
    claim = PruneClaim(days.backup.objects, REGION, "prune/eu/1")
    pruned = days.pruner().prune(plan.base, claim)
    assert sum(pruned.counts.values()) == plan.objects - 3
    assert not list(days.backup.objects.list(f"{REGION}/pruning/"))


@pytest.mark.parametrize("point", [1, 8, 25])
def test_wherever_it_is_killed_what_is_wanted_restores(
    days: Days, targets: Targets, point: int
) -> None:
    plan = days.pruner().plan()
    killed = multiprocessing.get_context("fork").Process(
        target=_prune_and_die, args=(days, plan.base, point)
    )
    killed.start()
    killed.join(30)
    assert killed.exitcode == -signal.SIGKILL
    assert list(days.backup.objects.list(f"{REGION}/pruning/"))
    oldest = min(seq for seq in days.seqs() if seq >= plan.base_seq)
    target = targets.next()
    assert days.backup.restore(target, Goal(seq=oldest)).complete
    assert documents(target) == days.known[oldest]

    days.now += timedelta(minutes=5)  # what the dead one claimed is over
    pruned = days.pruner().prune(plan.base, PruneClaim(days.backup.objects, REGION, "prune/eu/2"))
    assert sum(pruned.counts.values()) == plan.objects - point + 1
    assert days.pruner().plan().objects == 0
    assert not list(days.backup.objects.list(f"{REGION}/pruning/"))


class Dying(LocalObjects):
    """A directory whose process is killed at a removal."""

    left = 0

    def delete(self, name: str, *, if_generation: int) -> None:
        if "/clock/" not in name:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        super().delete(name, if_generation=if_generation)


def _prune_and_die(days: Days, base: str, point: int) -> None:
    dying = Dying(days.backup.directory / "objects", clock=lambda: days.now)
    dying.left = point
    days.pruner(dying).prune(base, PruneClaim(dying, REGION, "prune/eu/1"))


@pytest.mark.parametrize("jump", [timedelta(days=60), timedelta(days=400), -timedelta(days=3)])
def test_a_clock_that_jumps_removes_nothing(days: Days, jump: timedelta) -> None:
    names = days.names()
    days.now += jump
    with pytest.raises(RetentionRefused):
        days.prune()
    assert days.names() == names


def test_snapshots_that_go_on_by_the_wrong_clock_do_not_age_the_others(days: Days) -> None:
    """The object store is a directory: it believes the same wrong clock."""
    right = days.pruner().plan().base_seq
    days.now += timedelta(days=60)
    days.day()
    plan = days.pruner().plan()
    position = days.seqs().index(plan.base_seq) - days.seqs().index(right)
    assert plan.base and 0 <= position <= 2
    days.now -= timedelta(days=61)
    with pytest.raises(RetentionRefused):
        days.pruner().plan()


def test_a_reader_stops_it_and_loses_nothing(days: Days, targets: Targets) -> None:
    plan = days.pruner().plan()
    names = days.names()
    claim = PruneClaim(days.backup.objects, REGION, "prune/eu/1")
    with pinned(days.backup.objects, REGION, "drill/eu/1"):
        stopped = days.pruner().prune(plan.base, claim)
        assert "/pins/" in stopped.reader and not stopped.counts
        oldest = days.seqs()[0]
        assert days.backup.restore(targets.next(), Goal(seq=oldest)).complete
    assert days.names() == names


def test_a_reader_that_comes_in_the_middle_stops_it_between_two_objects(days: Days) -> None:
    plan, left = days.pruner().plan(), 90
    clock = [0.0]
    claim = PruneClaim(days.backup.objects, REGION, "prune/eu/1", clock=lambda: clock[0])
    pin = f"{REGION}/pins/late.json"

    def beat() -> None:
        nonlocal left
        left -= 1
        if not left:
            days.backup.objects.put(pin, b"{}")
        clock[0] += 1.0

    stopped = days.pruner().prune(plan.base, claim, beat)
    assert "late" in stopped.reader and 0 < sum(stopped.counts.values()) < plan.objects
    assert left < 0 and not list(days.backup.objects.list(f"{REGION}/pruning/"))
    found = days.backup.objects.stat(pin)
    assert found
    days.backup.objects.delete(pin, if_generation=found.generation)
    again = PruneClaim(days.backup.objects, REGION, "prune/eu/1")
    rest = days.pruner().prune(plan.base, again).after(stopped)
    assert rest.counts == plan.counts and rest.bytes == plan.bytes and not rest.reader


def test_a_former_store_goes_when_its_successor_is_old_enough(days: Days, tmp_path: Path) -> None:
    former = days.store
    engine = open_engine(f"sqlite:///{tmp_path}/second.db")
    days.backup.restore(engine)
    days.backup.engine = days.engine = engine
    days.backup.identity = identity(engine, REGION)
    days.backup.tree_file = tmp_path / "second.tree"
    days.backup.ledger = Ledger(engine, REGION)
    for _ in range(5):
        days.day()
    days.prune()
    assert any(f"/{former}/" in name for name in days.names())
    for _ in range(3):
        days.day()
    plan, _pruned = days.prune()
    assert plan.store == days.store
    assert not [name for name in days.names() if f"/{former}/" in name]
    assert days.backup.objects.stat(store_name(REGION, former))
    engine.dispose()


class Meddling(GcsObjects):
    """A bucket in which an object is written anew between the plan and its removal."""

    replaced = ""

    def delete(self, name: str, *, if_generation: int) -> None:
        if name == self.replaced:
            found = self.stat(name)
            assert found
            self.put(name, b"another", if_generation=found.generation)
        super().delete(name, if_generation=if_generation)


def test_in_a_bucket_what_is_held_or_replaced_stays_and_the_rest_goes(days: Days) -> None:
    with serve() as server:
        bucket = Meddling("backups", endpoint=server.url, deadline_s=5, attempt_s=1)
        for found in days.backup.objects.list(f"{REGION}/"):
            bucket.put(found.name, days.backup.objects.get(found.name, found.size))
            server.objects[found.name].created = found.created
        plan = days.pruner(bucket).plan()
        assert plan.counts == days.pruner().plan().counts
        held = plan.first[0]
        bucket.replaced = next(name for name in plan.first if "/changelog/" in name)
        bucket.hold(held, True)
        pruned = days.pruner(bucket).prune(plan.base, PruneClaim(bucket, REGION, "prune/eu/1"))
        said = " ".join(pruned.first_refused)
        assert held in said and "held" in said and bucket.replaced in said
        assert bucket.get(bucket.replaced, 100) == b"another" and bucket.stat(held)
        assert sum(pruned.counts.values()) + pruned.refused == plan.objects
        needed = [each for each in pruned.first_refused if "is held needs it" in each]
        assert pruned.refused == 2 + len(needed) > 2
        bucket.close()
