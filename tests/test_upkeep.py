"""Drill, reading and pruning as the recovery process wires them: real keys, real configuration."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from temporalio.testing import ActivityEnvironment

from activities.drills import DrillActivities
from activities.pruning import PruneActivities
from activities.validation import ValidationActivities
from models.addresses import (
    BackupAddress,
    GatewayAddress,
    RegionAddresses,
    TemporalAddress,
    WorkerAddress,
)
from models.drill import DrillKind, DrillStep
from models.validation import ValidateRequest
from stores.changelog import protect
from stores.keys import ensure_key
from stores.kv import TenantKV
from stores.pace import Pace
from stores.sql import create_all, open_engine
from workers.backup import RegionBackup
from workers.upkeep import upkeep


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegionBackup:
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    folder = tmp_path / "regions" / "eu"
    folder.mkdir(parents=True)
    (tmp_path / "fleet.toml").write_text("[backup]\nbackup_validation_sampling_percent = 50\n")
    ensure_key(folder / "key.pem")
    backup = BackupAddress(
        objects=str(tmp_path / "objects"),
        work=folder / "recovery",
        witness=tmp_path / "witness",
        tenant_keys=f"sqlite:///{folder}/keys.db",
        region_key=folder / "region.key",
    )
    addresses = RegionAddresses(
        region="eu",
        temporal=TemporalAddress(address="127.0.0.1:7233", namespace="eu", task_queue="region"),
        worker=WorkerAddress(health_port=0, metrics_port=0),
        database=f"sqlite:///{folder}/region.db",
        signing_key=folder / "key.pem",
        config=tmp_path / "fleet.toml",
        releases=tmp_path / "releases",
        workdir=folder / "work",
        gateway=GatewayAddress(port=1, admin_port=1, directory=folder / "envoy", kv_port=1),
        backup=backup,
    )
    folder.joinpath("recovery").mkdir()
    return RegionBackup(addresses, backup)


@pytest.fixture
def engine(backup: RegionBackup, tmp_path: Path) -> Iterator[Engine]:
    """The region's store, with what three tenants wrote and the backup has."""
    engine = open_engine(f"sqlite:///{tmp_path}/regions/eu/region.db")
    create_all(engine)
    protect(engine, "eu")
    for number in range(9):
        TenantKV(engine, f"tenant-{number % 3}").put(f"key/{number}", b"%d" % number)
        backup.round()
    yield engine
    engine.dispose()
    stopping = threading.Event()
    stopping.set()
    backup.run(stopping)  # lets go of what it holds


@pytest.mark.parametrize("kind", ["weekly", "monthly", "yearly"])
def test_every_drill_is_proved_against_the_live_store(
    backup: RegionBackup, engine: Engine, kind: DrillKind, tmp_path: Path
) -> None:
    [drills] = [each for each in upkeep(backup) if isinstance(each, DrillActivities)]
    TenantKV(engine, "tenant-1").put("late", b"not shipped yet")
    step = DrillStep(kind=kind, holder=f"drill/eu/{kind}")
    done = ActivityEnvironment().run(drills.drill_region, step)
    assert done.compared.same is True and not done.faults and done.report.documents > 9
    assert Path(done.path).parent == tmp_path / "regions" / "eu" / "recovery" / "certificates"
    assert ActivityEnvironment().run(drills.discard_scratch, step.holder) == [
        done.report.restored_store
    ]
    assert not list((tmp_path / "regions" / "eu").glob("*restored*"))


def test_the_backup_is_sound_sampled_and_too_young_to_prune(
    backup: RegionBackup, engine: Engine
) -> None:
    holders = upkeep(backup)
    [validation] = [each for each in holders if isinstance(each, ValidationActivities)]
    [pruning] = [each for each in holders if isinstance(each, PruneActivities)]
    environment = ActivityEnvironment()
    read = environment.run(validation.read_backup, ValidateRequest(everything=True))
    assert not read.bad and read.objects == sum(1 for _ in backup.objects.list("eu/"))
    assert read.then and environment.run(validation.save_rotation, read.then)
    sample = environment.run(validation.read_backup, ValidateRequest(kind="sample"))
    assert not sample.bad and sample.documents > 0 and sample.manifest
    plan = environment.run(pruning.plan_prune)
    assert plan.base == "" and plan.objects == 0
    assert engine


def test_a_snapshot_gives_way_as_configured_and_leaves_no_copy(
    backup: RegionBackup, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    class Watched(Pace):
        def rest(self) -> None:
            shares.append(1 / (1 + self._pause))

    monkeypatch.setattr("workers.backup.Pace", Watched)
    (tmp_path / "fleet.toml").write_text("[backup]\nsnapshot_work_percent = 40\n")
    seen: set[str] = set()
    made = backup.snapshotter().snapshot(
        lambda _done: seen.update(each.name for each in backup.work.iterdir())
    )
    assert made.manifest.documents >= 12 and engine
    assert len(shares) > len(made.manifest.chunks)
    assert shares == pytest.approx([0.4] * len(shares))
    assert "region.db.copy" in seen and not (backup.work / "region.db.copy").exists()
