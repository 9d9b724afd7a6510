"""Measure planning and seeding against what the database alone needs; prints Markdown tables.

    .venv/bin/python scripts/bench_planning.py

Planning: read the catalogs of a fleet of 1,000,000 tenants in 10,000 shards from five SQLite files
and plan a rollout. Its floor is the bare SQL aggregate over the same files in the same run.
Seeding: whole fleets of 10,000 and 1,000,000 tenants, each region with its receipt, against bare
``executemany`` of the same rows, made beforehand, into tables with the same index. Each runs in a
process of its own; peak memory is the growth of that process's resident set over its start.
"""

import argparse
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.planning import Plan, plan_rollout
from models.seeding import FleetLayout
from stores.fleet import FleetStore
from stores.ledger import Ledger
from stores.sql import create_all, open_engine

REGIONS = ("eu", "us-east", "us-west", "apac", "latam")
SMALL = (10_000, 100)
LARGE = (1_000_000, 10_000)
RELEASE = "sha256:" + "0" * 64
AGGREGATE = "SELECT shard, count(*), sum(size) FROM tenant GROUP BY shard"
RAW_TABLES = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
CREATE TABLE tenant (id TEXT PRIMARY KEY, shard TEXT NOT NULL, region TEXT NOT NULL,
    zone TEXT NOT NULL, size INTEGER NOT NULL, state TEXT NOT NULL, created_at TEXT NOT NULL);
CREATE INDEX tenant_by_shard ON tenant (shard, size);
"""


def seed(home: Path, tenants: int, shards: int) -> dict[str, float]:
    """Seed a whole fleet; schema creation is not counted."""
    stores = [_fleet(home, region) for region in REGIONS]
    memory, start = _peak_mib(), time.perf_counter()
    for store in stores:
        store.seed(FleetLayout(tenants, shards, REGIONS), actor="bench")
    return {"seconds": time.perf_counter() - start, "mib": _peak_mib() - memory}


def raw(home: Path, tenants: int, shards: int) -> dict[str, float]:
    """Insert the rows of the same fleet, which are all in memory before the clock starts."""
    layout = FleetLayout(tenants, shards, REGIONS)
    now = str(datetime.now(UTC))
    rows = {
        region: [
            (one.id, one.shard, region, one.zone, one.size, "active", now)
            for one in layout.tenants_of(region)
        ]
        for region in REGIONS
    }
    files = {region: sqlite3.connect(home / f"raw-{region}.db") for region in REGIONS}
    for file in files.values():
        file.executescript(RAW_TABLES)
    start = time.perf_counter()
    for region, file in files.items():
        with file:
            file.executemany("INSERT INTO tenant VALUES (?, ?, ?, ?, ?, ?, ?)", rows[region])
    return {"seconds": time.perf_counter() - start}


def plan(home: Path, tenants: int, shards: int) -> dict[str, float]:
    """Plan over the fleet that `seed` left in ``home``."""
    aggregate = min(_aggregate(home) for _ in range(3))
    stores = [_fleet(home, region) for region in REGIONS]
    start = time.perf_counter()
    catalog = [shard for store in stores for shard in store.catalog()]
    read = time.perf_counter()
    planned = plan_rollout(
        catalog, RELEASE, canary_percent=2, rings=[5, 25, 100], max_blast_radius_percent=5
    )
    end = time.perf_counter()
    _check(planned, tenants, shards)
    return {"floor": aggregate, "read": read - start, "plan": end - read, "whole": end - start}


def _aggregate(home: Path) -> float:
    start = time.perf_counter()
    for region in REGIONS:
        with sqlite3.connect(home / f"{region}.db") as file:
            file.execute(AGGREGATE).fetchall()
    return time.perf_counter() - start


def _check(planned: Plan, tenants: int, shards: int) -> None:
    if (planned.total_tenants, planned.total_shards) != (tenants, shards):
        raise SystemExit("the plan is not about the fleet that was seeded")


def _fleet(home: Path, region: str) -> FleetStore:
    engine = open_engine(f"sqlite:///{home}/{region}.db")
    create_all(engine)
    return FleetStore(engine, Ledger(engine, region), region)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


STEPS = {"seed": seed, "raw": raw, "plan": plan}


def _run(step: str, home: Path, size: tuple[int, int]) -> dict[str, Any]:
    """One step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--home", str(home)]
    command += ["--tenants", str(size[0]), "--shards", str(size[1])]
    answer: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return answer


def _report() -> None:
    print("| seeding | tenants | shards | seconds | raw executemany | ratio | peak memory |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for size in (SMALL, LARGE):
            home = Path(directory) / str(size[0])
            home.mkdir()
            ours, floor = _run("seed", home, size), _run("raw", home, size)
            ratio = ours["seconds"] / floor["seconds"]
            print(
                f"| fleet | {size[0]:,} | {size[1]:,} | {ours['seconds']:.2f} "
                f"| {floor['seconds']:.2f} | {ratio:.2f} | +{ours['mib']:.0f} MiB |"
            )
        planned = _run("plan", home, LARGE)
    print()
    print("| planning | seconds |")
    print("|---|---|")
    print(f"| bare SQL aggregate over {LARGE[0]:,} tenants (the floor) | {planned['floor']:.2f} |")
    print(f"| catalogs of {LARGE[1]:,} shards read through the stores | {planned['read']:.2f} |")
    print(f"| plan of four rings | {planned['plan']:.2f} |")
    print(f"| whole (target: 10 or less) | {planned['whole']:.2f} |")
    print(f"| whole against the floor | {planned['whole'] / planned['floor']:.1f}x |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tenants", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step is None:
        _report()
    else:
        print(json.dumps(STEPS[asked.step](asked.home, asked.tenants, asked.shards)))


if __name__ == "__main__":
    main()
