"""The whole stack on PostgreSQL: one database for the control plane and one a region."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from embedded import CONFIG, REGIONS, running_stack
from postgres import fresh_database
from sqlalchemy import text

from stores.sql import open_engine, read


@pytest.mark.postgres
def test_a_rollout_runs_and_its_receipts_verify_on_postgresql(tmp_path: Path) -> None:
    with ExitStack() as resources:
        places = ("control", *REGIONS)
        urls = {place: resources.enter_context(fresh_database()) for place in places}
        options = [part for place in places for part in ("--database", f"{place}={urls[place]}")]
        stack = resources.enter_context(running_stack(tmp_path / "home", CONFIG, *options))
        stack.chainring("fleet", "seed", "--tenants", "100", "--shards", "20")
        stack.build_samples("1.0.0")

        stack.chainring("rollout", "start", "catalog:1.0.0", "--skip-gates", "first installation")

        verified = stack.json("receipts", "verify")
        assert {each["ledger"] for each in verified} == set(places)
        for region in REGIONS:
            engine = open_engine(urls[region])
            with read(engine) as connection:
                query = "SELECT count(DISTINCT release), count(*) FROM shard"
                assert tuple(connection.execute(text(query)).one()) == (1, 10)
            engine.dispose()
    assert not list((tmp_path / "home").rglob("region.db"))
