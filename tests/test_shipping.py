"""Shipping beside writers that do not stop."""

from pathlib import Path

from recovery_harness import REGION, Backup

from stores.shipping import Shipper
from stores.sql import open_engine
from stores.state_tree import StateTree

MOST_ROUNDS = 5


def test_what_is_written_meanwhile_waits_for_the_next_round(tmp_path: Path):
    made = Backup(open_engine(f"sqlite:///{tmp_path}/region.db"), tmp_path)
    written: list[int] = []

    def one_more() -> None:
        """Something is written at every put, as long as a broken shipper does not follow it."""
        if len(written) < MOST_ROUNDS:
            made.work(1)
            written.append(made.written)

    tree = StateTree(made.tree_file)
    shipper = Shipper(
        made.engine,
        REGION,
        made.objects,
        tree,
        made.key,
        made.witness,
        made.seals.seal,
        before_put=one_more,
    )
    shipper.ship()  # the tree is built
    made.work(10)
    written.clear()
    assert shipper.ship_all() == 1
    assert len(written) == 1
    assert shipper.lag().changes > 0
    before = shipper.position().seq
    assert shipper.ship_all() == 1
    assert shipper.position().seq > before


def test_nothing_is_shipped_up_to_where_the_backup_is_already(tmp_path: Path):
    made = Backup(open_engine(f"sqlite:///{tmp_path}/region.db"), tmp_path)
    with made.shipper() as shipper:
        made.work(10)
        shipper.ship_all()
        there = shipper.position().seq
        made.work(10)
        assert shipper.ship_all(until=there - 3) == 0
        assert shipper.position().seq == there
