"""Rehearsals: whose turn it is, and what one is made of."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recovery_harness import REGION, Backup, documents
from sqlalchemy import Engine

from models.drill import Rotation, turn
from stores.checkpoints import CheckpointFiles
from stores.drill import Driller
from stores.envelope import Envelopes
from stores.key_backup import KeyBackup, unsealing_from_backup
from stores.restore import Target
from stores.restore_plan import NothingToRestore
from stores.sealing import BackupSeals
from stores.snapshots import Snapshotter
from stores.sql import StoreUnavailable, create_all, open_engine
from stores.tenant_keys import TenantKeys, ensure_region_key

pytest_plugins = ["databases", "recovery_fixtures"]

REGIONS = st.lists(
    st.sampled_from(["apac", "eu", "latam", "us-east", "us-west", "x1", "x2"]), min_size=1
)


@given(REGIONS, st.integers(1, 9), st.integers(0, 10_000))
def test_every_region_has_its_turn_as_often_as_another(
    regions: list[str], sample: int, week: int
) -> None:
    count = len(set(regions))
    turns = Counter(
        region for number in range(count) for region in turn(regions, sample, week + number)
    )
    assert set(turns) == set(regions) and len(set(turns.values())) == 1
    assert all(len(turn(regions, sample, week + n)) == min(sample, count) for n in range(count))


@given(st.datetimes(datetime(2000, 1, 3), datetime(2100, 1, 1)))
def test_a_turn_lasts_from_monday_to_sunday(at: datetime) -> None:
    monday = (at - timedelta(days=at.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    three = [Rotation(region=each, regions=["a", "b", "c"], sample=1) for each in "abc"]
    [whose] = [each for each in three if each.takes_part(monday.replace(tzinfo=UTC))]
    assert whose.takes_part(at.replace(tzinfo=UTC))
    assert not whose.takes_part((at + timedelta(weeks=1)).replace(tzinfo=UTC))


def test_a_region_comes_back_from_its_backup_and_its_key_alone(
    backup: Backup, target: Engine, tmp_path: Path
) -> None:
    """The tenants' keys are those of the backup; what the running region has is not asked."""
    region_key = ensure_region_key(tmp_path / "region.key")
    keys_engine = open_engine(f"sqlite:///{tmp_path}/keys.db")
    create_all(keys_engine)
    keys = TenantKeys(keys_engine, region_key)
    backup.seals = BackupSeals(Envelopes(keys), region_key)  # type: ignore[assignment]
    backup.work(8)
    backup.snapshot()
    keys.destroy("tenant-1")
    KeyBackup(REGION, backup.objects, keys).back_up()
    keys_engine.dispose()
    wanted = backup.documents()

    driller = Driller(
        REGION,
        live=Lost(),
        objects=backup.objects,
        witness=backup.witness,
        key=backup.key,
        checkpoints=CheckpointFiles(tmp_path / "none", REGION),
        unseal=_refuse,
        unsealing_from_backup=unsealing_from_backup(REGION, backup.objects, region_key),
    )
    where = Target(target, "b" * 32, 2)
    done = driller.drill("yearly", "0" * 32, where, lambda _phase, _amount: None)

    assert done.report.complete and done.report.source_store == backup.identity.id
    assert done.compared.same is None and "the disk is lost" in done.compared.why
    kept = {name: value for name, value in wanted.items() if '"tenant-1"' not in name[1]}
    assert documents(target) == kept and done.report.erased == len(wanted) - len(kept) > 0
    with pytest.raises(NothingToRestore, match="no signed head"):
        driller.drill("weekly", "0" * 32, where, lambda _phase, _amount: None)


class Lost:
    """A store that does not answer."""

    def snapshotter(self) -> Snapshotter:
        raise StoreUnavailable("unreachable", "the disk is lost")


def _refuse(tenant: str, sealed: bytes, bound_to: bytes) -> bytes | None:
    raise AssertionError(f"asked for the key of {tenant}")
