"""The file that says what a region's primary is: compare-and-set by epoch, whole or not there."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from models.primary import Primary
from stores.primary import PRIMARY, PrimaryDamaged, PrimaryFile, PrimaryWatch, StalePrimary


def state(epoch: int, mode: str = "buffered", **more: object) -> Primary:
    return Primary.model_validate({"region": "eu", "epoch": epoch, "mode": mode, **more})


@pytest.fixture
def file(tmp_path: Path) -> PrimaryFile:
    return PrimaryFile(tmp_path / "recovery", "eu")


def test_a_region_is_normal_until_something_else_is_said(file: PrimaryFile):
    assert file.read() == state(0, "normal")
    file.switch(state(1))
    assert file.read() == state(1)


def test_only_a_higher_epoch_changes_it_and_the_same_state_is_no_change(file: PrimaryFile):
    file.switch(state(3))
    file.switch(state(3))
    for late in (state(3, "normal"), state(2, "normal"), state(0, "normal")):
        with pytest.raises(StalePrimary, match="eu is buffered by epoch 3"):
            file.switch(late)
    assert file.read() == state(3)


def test_of_two_coordinators_one_wins(file: PrimaryFile):
    won: list[str] = []

    def take(who: str) -> None:
        try:
            file.switch(state(1, why=who))
            won.append(who)
        except StalePrimary:
            pass

    threads = [threading.Thread(target=take, args=(f"c{n}",)) for n in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [file.read().why] == won


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid JSON"),
        (b'{"region": "eu", "epoch": -1, "mode": "normal"}', "epoch"),
        (b'{"region": "eu", "epoch": 1, "mode": "odd"}', "mode"),
        (b'{"region": "us", "epoch": 1, "mode": "normal"}', "is region us's, not eu's"),
        (b'{"region": "eu", "epoch": 1, "mode": "normal", "x": 1}', "x"),
    ],
)
def test_a_damaged_file_is_named_and_never_guessed_at(
    file: PrimaryFile, content: bytes, message: str
):
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    with pytest.raises(PrimaryDamaged, match=rf"{PRIMARY}: .*{message}"):
        file.read()
    with pytest.raises(PrimaryDamaged):
        file.switch(state(9))
    assert file.path.read_bytes() == content


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("snapshot", {"snapshot": "sqlite:///x"}),
        ("snapshot", {"snapshot_at": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("snapshot", {"snapshot": "postgresql+psycopg://u:secret@h/d"}),
        ("epoch", {"epoch": 1 << 17}),
    ],
)
def test_a_wrong_state_names_its_field(field: str, wrong: dict[str, object]):
    with pytest.raises(ValidationError, match=field):
        state(**{"epoch": 1, **wrong})  # type: ignore[arg-type]


def test_a_watch_never_goes_back(file: PrimaryFile):
    watch = PrimaryWatch(file)
    assert watch.changed() and watch.newest() == state(0, "normal")
    assert not watch.changed()
    file.switch(state(5))
    assert watch.changed() and watch.newest() == state(5)
    assert not watch.changed()
    file.path.write_text(state(4, "normal").model_dump_json())
    assert watch.changed() and watch.newest() == state(5)
    assert not watch.changed()
    file.path.unlink()
    assert watch.newest() == state(5)
    file.path.write_text("{")
    with pytest.raises(PrimaryDamaged):
        watch.newest()
    assert watch.changed()
    with pytest.raises(ValueError, match="region"):
        file.switch(Primary(region="us", epoch=9, mode="normal"))


def test_a_state_that_could_not_be_read_is_never_written(file: PrimaryFile):
    """A copy with changes is not validated by itself."""
    changed = {"snapshot": "postgresql://u:secret@h/d", "snapshot_at": datetime.now(UTC)}
    with pytest.raises(ValueError, match="must hold no password"):
        file.switch(state(1).model_copy(update=changed))
    assert file.read() == state(0, "normal")
