"""What Prometheus sees of a region's buffer, and that each alert asks for what there is."""

import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from recovery_harness import Backup

from gateway.envoy import tenant_host
from gateway.kv_api import kv_application
from models.primary import Primary
from models.probe import Health, Probe
from models.validation import Rotation
from stores.changelog import identity
from stores.primary import PrimaryFile
from stores.spool import SpoolLimits
from stores.sql import create_all, open_engine
from stores.validation import RotationFile
from workers import backup, backup_gauges, watch

REGION = "eu"
HOST = {"Host": tenant_host("acme", REGION)}
ALERTS = Path(__file__).parent.parent / "deploy" / "prometheus" / "alerts.yaml"
Figures = dict[tuple[str, ...], float]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[TestClient]:
    engine = open_engine(f"sqlite:///{tmp_path}/region.db")
    create_all(engine)
    limits = SpoolLimits(records=4, bytes=1_000_000)
    app = kv_application(lambda: engine, REGION, recovery=tmp_path, limits=limits)
    async with TestClient(TestServer(app)) as client:
        yield client


async def figures(api: TestClient) -> Figures:
    """The samples by name and the labels beside the region's."""
    text = await (await api.get("/metrics")).text()
    found = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            assert each.labels["region"] == REGION
            more = [value for name, value in each.labels.items() if name != "region"]
            found[each.name, *more] = each.value
    return found


def switch(directory: Path, **state: object) -> None:
    file = PrimaryFile(directory, REGION)
    wanted = {"region": REGION, "epoch": file.read().epoch + 1, **state}
    file.switch(Primary.model_validate(wanted))


async def test_the_buffer_is_measured_as_it_fills_refuses_and_is_drained(
    api: TestClient, tmp_path: Path
):
    found = await figures(api)
    assert found["chainring_region_mode", "normal"] == 1
    assert found["chainring_buffer_records",] == found["chainring_buffer_fill_ratio",] == 0
    at = datetime.now(UTC) - timedelta(seconds=90)
    snapshot = f"sqlite:///{tmp_path}/region.db"
    switch(tmp_path, mode="buffered", snapshot=snapshot, snapshot_at=at)
    answers = [await api.put(f"/_kv/k{n}", data=b"v", headers=HOST) for n in range(6)]
    assert [each.status for each in answers] == [200] * 4 + [503] * 2

    found = await figures(api)
    assert found["chainring_region_mode", "buffered"] == 1
    assert found["chainring_region_mode", "normal"] == 0
    assert found["chainring_buffer_records",] == 4
    assert found["chainring_buffer_bytes",] > 4
    assert found["chainring_buffer_fill_ratio",] == 1.0
    assert found["chainring_buffer_refused_total",] == 2
    assert 90 <= found["chainring_snapshot_age_seconds",] < 120

    switch(tmp_path, mode="draining")
    found = await figures(api)
    assert found["chainring_region_mode", "draining"] == 1
    assert found["chainring_buffer_records",] == 4


async def test_a_mode_that_cannot_be_served_is_measured_too(api: TestClient, tmp_path: Path):
    (tmp_path / "primary.json").write_text("{")
    assert (await figures(api))["chainring_region_mode", "unavailable"] == 1


def test_the_watch_is_measured():
    gauges = watch.RegionGauges("metered")
    at = datetime(2026, 11, 28, tzinfo=UTC)
    probes = [
        Probe(outcome=outcome, at=at + timedelta(seconds=n), seconds=0.5)
        for n, outcome in enumerate(("ok", "down", "down"))
    ]
    health = Health()
    for each in probes:
        gauges.probed(each)
        health = health.after(each)
    gauges.standing(health.verdict)
    gauges.failed_over(normal=False)

    def sample(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"region": "metered", **labels})

    assert sample("chainring_probes_total", outcome="down") == 2
    assert sample("chainring_probe_last_good_timestamp_seconds") == at.timestamp()
    assert sample("chainring_primary_verdict", fault="down") == 1
    assert sample("chainring_primary_verdict", fault="slow") == 0
    assert sample("chainring_failovers_total", outcome="failed") == 1
    gauges.standing(None)
    assert sample("chainring_primary_verdict", fault="down") == 0


def test_snapshots_validation_and_bad_objects_are_measured(tmp_path: Path):
    made = Backup(open_engine(f"sqlite:///{tmp_path}/region.db"), tmp_path)
    rotation = RotationFile(tmp_path / "validation.json")
    now = [0.0]
    gauges = backup_gauges.BackupGauges(REGION, made.objects, rotation, lambda: now[0])

    def sample(name: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"region": REGION})

    store = identity(made.engine, REGION).id
    before = time.time()
    made.work(3)
    made.snapshot()
    gauges.tell(store)
    first = sample("chainring_snapshot_last_timestamp_seconds")
    assert first is not None and before - 1 <= first <= time.time()
    assert sample("chainring_backup_bad_objects") == 0

    at = datetime(2026, 11, 28, tzinfo=UTC)
    rotation.save(Rotation(read=1, at=at))
    made.objects.put(f"{REGION}/{store}/bad/chunks/00.chunk.json", b"{}")
    made.work(3)
    made.snapshot()
    gauges.tell(store)
    assert sample("chainring_backup_bad_objects") == 0  # listed a moment ago
    now[0] += backup_gauges.EVERY_S
    gauges.tell(store)
    assert sample("chainring_backup_bad_objects") == 1
    assert sample("chainring_backup_read_timestamp_seconds") == at.timestamp()
    again = sample("chainring_snapshot_last_timestamp_seconds")
    assert again is not None and again > first


async def test_every_alert_asks_for_figures_that_there_are(api: TestClient):
    known = {name for name, *_ in await figures(api)}
    known |= {each.name for each in REGISTRY.collect()}
    known |= {f"{each._name}_total" for each in (watch.PROBES, watch.FAILOVERS)}
    assert backup.LAG._name in known
    rules = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        asked = set(re.findall(r"chainring_\w+", rule["expr"]))
        assert asked and asked <= known, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert "$labels.region" in rule["annotations"]["summary"]


def test_the_buffer_is_warned_of_at_a_tenth_and_is_critical_at_four_fifths():
    text = ALERTS.read_text()
    for limit, severity in (("0.1", "warning"), ("0.8", "critical")):
        found = re.search(rf"fill_ratio > {limit}\n(?:.*for: .*\n)?.*severity: (\w+)", text)
        assert found is not None and found[1] == severity
