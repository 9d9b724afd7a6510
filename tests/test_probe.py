"""Probing real stores: what is lost, hangs or lies is told apart, and one lost probe is nothing."""

import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from postgres import own_server, process_of, signal_family
from recovery_harness import REGION, Backup
from sqlalchemy import Engine, text
from tampering import rot

from models.changelog import ChangelogBroken
from models.probe import Health, Pace, Probe
from stores.changelog import fence
from stores.kv import TenantKV
from stores.pointer import Pointer
from stores.probe import Prober
from stores.probing import Probing
from stores.snapshots import SnapshotMismatch
from stores.sql import open_engine, write

pytest_plugins = ["databases"]
ROTTED = {"p": b"as it is", "w": b"as it was"}
QUICK = Pace(interval=0.05, beside=0.3, patience=0.6, slow=5.0)


@pytest.fixture
def backup(engine: Engine, tmp_path: Path) -> Backup:
    made = Backup(engine, tmp_path)
    made.work(12)
    return made


def pointer(backup: Backup) -> Pointer:
    url = backup.engine.url.render_as_string(hide_password=False)
    return Pointer(store=backup.identity.id, epoch=1, database=url)


def prober(backup: Backup, **more: object) -> Prober:
    return Prober(REGION, lambda: pointer(backup), slow=5.0, **more)


def look(watched: Prober) -> Probe:
    return watched.probe(datetime.now(UTC))


def watch(probing: Probing, rules: Pace = QUICK) -> Health:
    """Probe until there is a verdict."""
    found = Health()
    while found.verdict is None:
        for each in probing.step(rules, 1.0):
            found = found.after(each)
    return found


def test_a_store_that_is_well_stays_so_and_its_changelog_rests(backup: Backup):
    watched, before = prober(backup), backup.seq()
    assert [look(watched).outcome for _ in range(3)] == ["ok"] * 3
    assert backup.seq() == before


def test_a_store_of_before_there_was_a_canary_gets_one(backup: Backup):
    with write(backup.engine) as connection:
        connection.execute(text("DROP TABLE canary"))
    assert look(prober(backup)).outcome == "ok"


def test_a_flipped_bit_in_a_value_is_corruption(backup: Backup):
    flip = "SET value = 'tampered' WHERE tenant = 'tenant-1'"
    rot(backup.engine, f"UPDATE kv_entry {flip}")
    found = watch(Probing(prober(backup).probe)).verdict
    assert found is not None and found.fault == "corrupted"
    assert "a value of tenant-1" in found.why and "key/" not in found.why


def test_a_receipt_that_was_changed_is_corruption(backup: Backup):
    rot(backup.engine, "UPDATE receipt SET data = '{}' WHERE seq = 1")
    found = look(prober(backup))
    assert found.outcome == "corrupted" and "receipt 1" in found.why


def test_a_canary_that_was_changed_is_corruption(backup: Backup):
    watched = prober(backup)
    look(watched)
    with write(backup.engine) as connection:
        connection.execute(text("UPDATE canary SET sha256 = 'x'"))
    assert look(watched).outcome == "corrupted"


def test_all_live_values_are_looked_at_in_turn(backup: Backup, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stores.probe.SAMPLE", 4)
    TenantKV(backup.engine, "zoe").put("last", b"1")
    watched = prober(backup)
    look(watched)
    rot(backup.engine, "UPDATE kv_entry SET value = 'x' WHERE tenant = 'zoe'")
    found = [look(watched).outcome for _ in range(12)]
    assert found[0] == "ok" and found[-2:] == ["corrupted", "corrupted"]


def test_what_the_backup_holds_against_the_store_counts(backup: Backup):
    found = look(prober(backup, distrust=lambda: "change 7 does not follow"))
    assert (found.outcome, found.why) == ("corrupted", "change 7 does not follow")


def test_another_store_in_its_place_is_down(backup: Backup):
    other = pointer(backup).model_copy(update={"store": "0" * 32})
    found = Prober(REGION, lambda: other, slow=5.0).probe(datetime.now(UTC))
    assert found.outcome == "down" and "0" * 32 in found.why


def test_a_fenced_primary_is_down(backup: Backup):
    fence(backup.engine, REGION, epoch=2, why="epoch 2 is another store's")
    found = look(prober(backup))
    assert found.outcome == "down" and "epoch 2" in found.why


def test_a_read_over_the_threshold_is_slow(backup: Backup):
    watched = prober(backup)
    watched.slow = 0.0
    found = look(watched)
    assert found.outcome == "slow" and "0 s are allowed" in found.why


def test_a_database_that_somebody_else_has_locked_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stores.sql.BUSY_TIMEOUT_MS", 50)
    made = Backup(open_engine(f"sqlite:///{tmp_path}/fleet.db"), tmp_path)
    with write(made.engine):
        found = look(prober(made))
    assert found.outcome == "slow" and "locked" in found.why


def test_a_deleted_file_is_down_and_nothing_is_made_in_its_place(tmp_path: Path):
    made = Backup(open_engine(f"sqlite:///{tmp_path}/fleet.db"), tmp_path)
    watched = prober(made)
    assert look(watched).outcome == "ok"
    for each in tmp_path.glob("fleet.db*"):
        each.unlink()
    found = watch(Probing(watched.probe)).verdict
    assert found is not None and found.fault == "down" and "is not there" in found.why
    assert not (tmp_path / "fleet.db").exists()


def test_a_file_of_garbage_is_corruption(tmp_path: Path):
    made = Backup(open_engine(f"sqlite:///{tmp_path}/fleet.db"), tmp_path)
    made.engine.dispose()
    with (tmp_path / "fleet.db").open("r+b") as file:
        file.write(b"\0" * 100)
    assert look(prober(made)).outcome == "corrupted"


@pytest.mark.postgres
def test_a_postgresql_that_hangs_or_is_gone_is_down(tmp_path: Path):
    with own_server() as server:
        process = process_of(server)
        made = Backup(open_engine(server.get_uri(driver="psycopg")), tmp_path)
        made.work(3)
        probing = Probing(prober(made).probe)
        while not any(each.outcome == "ok" for each in probing.step(QUICK, 1.0)):
            pass
        signal_family(process, signal.SIGSTOP)
        found = watch(probing)
        assert found.verdict and found.verdict.fault == "down"
        assert all("no answer" in each.why for each in found.bad)
        signal_family(process, signal.SIGCONT)
        while not found.recovered:  # the probes that hung, and new ones, are answered
            for probe in probing.step(QUICK, 1.0):
                found = found.after(probe)
        made.engine.dispose()
        process.send_signal(signal.SIGQUIT)
        process.wait(10)
        gone = watch(probing).verdict
        assert gone is not None and "unreachable" in gone.why


def test_one_lost_probe_is_no_verdict_and_a_hung_one_hides_nothing():
    """The first probe hangs; the one that is begun beside it is answered."""
    hanging, begun = threading.Event(), []

    def probe(at: datetime) -> Probe:
        begun.append(at)
        if len(begun) == 1:
            hanging.wait()
        return Probe(outcome="ok", at=at, seconds=0.0)

    probing, found, said = Probing(probe), Health(), []
    while len(said) < 4:
        for each in probing.step(QUICK, 1.0):
            said.append(each.outcome)
            found = found.after(each)
            assert found.verdict is None
    hanging.set()
    assert "ok" in said and len(set(begun)) == len(begun)


def test_a_watcher_that_was_stopped_itself_accuses_nobody():
    """SIGSTOP and a suspended machine look like a store that gave no answer."""
    now = [0.0]
    hanging = threading.Event()

    def probe(at: datetime) -> Probe:
        hanging.wait()
        return Probe(outcome="ok", at=at, seconds=0.0)

    def clock() -> float:
        now[0] += 1000.0  # an hour may pass between any two looks
        return now[0]

    probing = Probing(probe, clock=clock)
    assert [probing.step(QUICK, 0.01) for _ in range(3)] == [[], [], []]
    hanging.set()


def test_a_value_that_rotted_gets_neither_into_a_snapshot_nor_into_a_segment(backup: Backup):
    backup.ship()
    TenantKV(backup.engine, "acme").put("rots", b"as it was")
    with write(backup.engine) as connection:
        connection.execute(text("UPDATE changelog SET payload = :p WHERE payload = :w"), ROTTED)
    with pytest.raises(ChangelogBroken, match="is not what was written"):
        backup.ship()
    with write(backup.engine) as connection:
        turned = {"p": ROTTED["w"], "w": ROTTED["p"]}
        connection.execute(text("UPDATE changelog SET payload = :p WHERE payload = :w"), turned)
    backup.ship()
    rot(backup.engine, "UPDATE kv_entry SET value = 'x' WHERE tenant = 'acme'")
    with pytest.raises(SnapshotMismatch, match=r"acme.*not that of its digest"):
        backup.snapshot()
