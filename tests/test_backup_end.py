"""The end of a backup is witnessed where nobody was left to do it, and only what is signed."""

import shutil
import threading
from pathlib import Path

import pytest
from recovery_harness import REGION, Backup
from signed_home import back_up, make_signed

from models.state_head import open_head
from stores.backup_end import end_of_backup, newest_head
from stores.backup_layout import segments
from stores.keys import ensure_key
from stores.sql import open_engine
from workers.backup import BROKEN, RegionBackup
from workers.settings import load_region


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    """Shipped twice; only the first part is witnessed."""
    made = Backup(open_engine(f"sqlite:///{tmp_path}/region.db"), tmp_path)
    made.snapshot()
    made.work(3)
    made.ship()
    first = made.head()
    made.work(3)
    made.ship()
    assert made.head() != first
    witness_file(made).write_bytes(first)
    return made


def witness_file(backup: Backup) -> Path:
    [path] = (backup.directory / "witness").glob("*.note")
    return path


def segment_files(backup: Backup) -> list[Path]:
    found = (backup.directory / "objects").rglob("*.seg@*")
    return sorted(path for path in found if not path.name.endswith("@info"))


def end(backup: Backup, *others: Path) -> int:
    """Witness the end; the size of the head that is witnessed then."""
    keys = [ensure_key(path).public(REGION) for path in others] or [backup.key.public(REGION)]
    note = newest_head(backup.objects, backup.witness, REGION, backup.identity.id, keys)
    assert note == backup.head()
    return open_head(backup.head(), [backup.key.public(REGION)]).size


def test_a_newer_end_is_witnessed(backup: Backup) -> None:
    before = open_head(backup.head(), [backup.key.public(REGION)]).size
    assert end(backup) > before
    note = end_of_backup(backup.objects, REGION, backup.identity.id)
    assert note == backup.head()


def test_an_end_that_is_damaged_or_behind_or_signed_by_another_is_not(
    backup: Backup, tmp_path: Path
) -> None:
    before = open_head(backup.head(), [backup.key.public(REGION)]).size
    assert end(backup, tmp_path / "other.pem") == before

    first, last = segment_files(backup)
    data = last.read_bytes()
    last.chmod(0o600)
    last.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    assert end(backup) == before

    last.write_bytes(data)
    newest = end(backup)
    assert newest > before
    lost = list(segments(backup.objects, REGION, backup.identity.id))[-1].object
    backup.objects.delete(lost.name, if_generation=lost.generation)
    assert first.exists() and end(backup) == newest


def test_a_store_without_a_backup_has_no_end(backup: Backup) -> None:
    assert end_of_backup(backup.objects, REGION, "0" * 32) is None


class Once(threading.Event):
    """Stops after one round."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return super().wait(timeout)


def test_a_damaged_end_of_the_backup_is_not_held_against_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A healthy primary must not be failed over for what is wrong with its backup."""
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path / "home"))
    make_signed(tmp_path)
    addresses = load_region("eu")
    assert addresses.backup is not None
    back_up(addresses)
    for note in addresses.backup.witness.glob("*.note"):
        note.unlink()
    shutil.rmtree(addresses.backup.work)  # and so is the tree that knew
    for path in (tmp_path / "home" / "backup" / "eu").rglob("*@*"):
        if not path.name.endswith("@info") and "/snapshots/" in str(path):
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:-1])
    backup = RegionBackup(addresses, addresses.backup)
    backup.run(Once())
    assert BROKEN.labels("eu")._value.get() == 1
    assert backup.distrusted == ""
