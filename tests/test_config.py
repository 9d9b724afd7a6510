"""Loading, overriding and digesting the configuration, and every refusal naming its key."""

import json
import re
import subprocess
import sys

import pytest
from pydantic import TypeAdapter

from models.config import Config, ConfigError, load_config


def refused(text):
    with pytest.raises(ConfigError) as caught:
        load_config(text)
    return caught.value


def test_an_empty_text_gives_the_defaults_of_the_source_document():
    config = load_config("")
    assert (config.tenants.total_tenants, config.tenants.shards) == (10_000, 100)
    assert config.rollout.canary_percentage == 2
    assert config.rollout.rollout_rings == [5, 25, 100]
    assert config.rollout.max_blast_radius_percent == 5
    assert list(config.regions) == ["eu", "us-east", "us-west", "apac", "latam"]
    assert config.gate_policy().metrics == ["p99_latency_ms", "error_rate", "memory_usage_mb"]


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        # unknown
        ("[rolout]\n", "rolout", "unknown section; did you mean rollout?"),
        ("[rollout]\ncanary_percent = 2", "rollout.canary_percent", "mean canary_percentage?"),
        ("[gates]\nbake_second = 2", "gates.bake_second", "did you mean bake_seconds?"),
        ("[isolation]\nx = 1", "isolation.x", "known: cross_tenant_isolation, per_tenant_kv"),
        # wrong type: strict, so that a number in quotes is not taken for one
        ("[tenants]\nshards = '100'", "tenants.shards", "valid integer"),
        ("[tenants]\nshards = 99.5", "tenants.shards", "valid integer"),
        ("[tenants]\nshards = true", "tenants.shards", "valid integer"),
        ("[rollout]\ncanary_percentage = '2'", "rollout.canary_percentage", "valid number"),
        ("[rollout]\ncanary_percentage = nan", "rollout.canary_percentage", "finite|greater"),
        ("[rollout]\nrollout_rings = 5", "rollout.rollout_rings", "valid"),
        ("[rollout]\nrollout_rings = [5, '25', 100]", "rollout.rollout_rings.1", "valid number"),
        ("[gates]\nalpha = '0.05'", "gates.alpha", "valid number"),
        ("[isolation]\nper_tenant_kv = 1", "isolation.per_tenant_kv", "valid boolean"),
        ("tenants = 3", "tenants", "object"),
        # out of range
        ("[tenants]\ntotal_tenants = 0", "tenants.total_tenants", "greater"),
        ("[rollout]\nrollout_rings = []", "rollout.rollout_rings", "at least 1"),
        ("[rollout]\nwhen_busy = 'queue'", "rollout.when_busy", "'wait', 'supersede' or 'refuse'"),
        ("[rollout]\nregion_down = 'go'", "rollout.region_down", "'wait', 'skip' or 'stop'"),
        ("[rollout]\nmax_concurrent_shards = 0", "rollout.max_concurrent_shards", "from 1 on"),
        ("[rollout]\nmax_concurrent_shards = '0%'", "rollout.max_concurrent_shards", "percentage"),
        ("[rollout]\nmax_concurrent_shards = '101%'", "rollout.max_concurrent_shards", "100%"),
        ("[rollout]\nmax_concurrent_shards = '25'", "rollout.max_concurrent_shards", "percentage"),
        ("[rollout]\nring_gates = ['cpu']", "rollout.ring_gates", "unknown metric 'cpu'"),
        ("[rollout]\nring_gates = []", "rollout.ring_gates", "at least one"),
        ("[rollout]\nbake_seconds = -1", "rollout.bake_seconds", "seconds from 0"),
        ("[rollout]\nbake_seconds = [1, inf, 1, 1]", "rollout.bake_seconds", "seconds from 0"),
        ("[fleet]\nname = 'a b'", "fleet.name", "pattern"),
        # less isolation than there is
        ("[isolation]\nper_tenant_kv = false", "isolation.per_tenant_kv", "must be true"),
        ("[isolation]\ncross_tenant_isolation = 'none'", "isolation.cross_tenant_isolation", "str"),
        ("[enforcement]\ncross_region_transit = 'ok'", "enforcement.cross_region_transit", "forb"),
        ("[failover]\nindependent_regions = false", "failover.independent_regions", "must be true"),
        # combinations
        ("[rollout]\nrollout_rings = [5, 5, 100]", "rollout.rollout_rings", "must increase"),
        ("[rollout]\nrollout_rings = [25, 5, 100]", "rollout.rollout_rings", "must increase"),
        ("[rollout]\nrollout_rings = [5, 25]", "rollout.rollout_rings", "must end at 100"),
        ("[rollout]\nrollout_rings = [1, 100]", "rollout.canary_percentage", "above the first"),
        (
            "[rollout]\nmax_blast_radius_percent = 1",
            "rollout.max_blast_radius_percent",
            "below the canary",
        ),
        ("[rollout]\nbake_seconds = [1, 2]", "rollout.bake_seconds", "2 entries for 4 rings"),
        ("[tenants]\ntotal_tenants = 99", "tenants.shards", "100 shards are more than 99 tenants"),
        ("[tenants]\ntenants_per_shard = 99", "tenants.tenants_per_shard", "contradicts"),
        (
            "[rollout]\nhold_seconds = 5\n[gates]\nhold_seconds = 6",
            "rollout.hold_seconds",
            "set one of them",
        ),
        (
            "[rollout]\nring_gates = ['error_rate']\n[gates]\nmetrics = ['p99_latency_ms']",
            "rollout.ring_gates",
            "set one of them",
        ),
        ("regions = {}", "regions", "at least one"),
        # not TOML
        ("[rollout\nx = 1", "", "not valid TOML.*line 1"),
        ("a = " + "[" * 5000, "", "not valid TOML"),
    ],
)
def test_what_does_not_hold_is_refused_with_its_key(text, key, reason):
    error = refused(text)
    assert error.key == key
    assert re.search(reason, error.reason)


REGION = 'name = "{0}"\ncatalog_shard = {1}\nreceipt_partition = {2}\n'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[regions.EU]\n" + REGION.format("x", 1, 1), "regions.EU"),
        ("[regions.eu]\n" + REGION.format("x", 0, 1), "regions.eu.catalog_shard"),
        ("[regions.eu]\nname = 'x'\nreceipt_partition = 1", "regions.eu.catalog_shard"),
        ("[regions.eu]\ncity = 'x'\n" + REGION.format("x", 1, 1), "regions.eu.city"),
        (
            "[[regions.eu]]\n" + REGION.format("x", 1, 1) + "[[regions.eu]]\n",
            "regions.eu",
        ),
        (
            "[regions.eu]\n"
            + REGION.format("x", 1, 1)
            + "[regions.us]\n"
            + REGION.format("y", 1, 2),
            "regions.us.catalog_shard",
        ),
        (
            "[regions.eu]\n"
            + REGION.format("x", 1, 7)
            + "[regions.us]\n"
            + REGION.format("y", 2, 7),
            "regions.us.receipt_partition",
        ),
    ],
)
def test_regions_that_do_not_hold_are_refused_with_their_key(text, key):
    assert refused(text).key == key


@pytest.mark.parametrize(
    ("window", "key"),
    [
        (
            "freeze]]\nname='x'\nstart=2026-01-01T00:00:00\nend=2026-01-02T00:00:00Z",
            "freeze.0.start",
        ),
        (
            "freeze]]\nname='x'\nstart=2026-01-02T00:00:00Z\nend=2026-01-01T00:00:00Z",
            "freeze.0.end",
        ),
        (
            "freeze]]\nname='x'\nstart=2026-01-01T00:00:00Z\nend=2026-01-02T00:00:00Z\n"
            "regions=['mars']",
            "freeze.0.regions",
        ),
        (
            "weekly]]\nname='x'\ndays=['fri']\nfrom='08:00'\nto=09:00:00\nzone='Europe/Atlantis'",
            "weekly.0.zone",
        ),
        (
            "weekly]]\nname='x'\ndays=['mon','tue','wed','thu','fri','sat','sun']\nfrom='08:00'\n"
            "to='08:00'\nzone='Europe/Berlin'",
            "weekly",
        ),
    ],
)
def test_windows_that_do_not_hold_are_refused_with_their_key(window, key):
    assert refused(f"[[calendar.{window}").key == f"calendar.{key}"


def test_all_problems_are_listed_at_once():
    error = refused("[tenants]\nshards = 'x'\n[rollout]\nfoo = 1\n[bar]")
    assert [problem.key for problem in error.problems] == ["tenants.shards", "rollout.foo", "bar"]
    assert str(error).count("\n") == 2


def test_both_ways_to_write_a_region_mean_the_same():
    table, array = (load_config(f"{head}\n{REGION.format('Europe', 1, 1)}") for head in HEADS)
    assert table == array


HEADS = ("[regions.eu]", "[regions]\n[[regions.eu]]")


def test_a_whole_float_is_a_whole_number_but_a_fraction_is_none():
    assert load_config("[tenants]\ntenants_per_shard = 100.0").tenants.tenants_per_shard == 100


def test_tenants_that_do_not_divide_take_either_neighbour():
    for each in (3, 4):
        load_config(f"[tenants]\ntotal_tenants = 10\nshards = 3\ntenants_per_shard = {each}")


def test_rollout_keys_reach_the_gate_policy():
    config = load_config(
        "[rollout]\nring_gates = ['error_rate']\nbake_seconds = 9\nhold_seconds = 8\n"
        "[gates]\nmin_samples = 7"
    )
    policy = config.gate_policy()
    assert (policy.metrics, policy.bake_seconds, policy.hold_seconds, policy.min_samples) == (
        ["error_rate"],
        9,
        8,
        7,
    )
    assert config.bake_seconds() == [9, 9, 9, 9]


def test_bakes_by_ring():
    config = load_config("[rollout]\nbake_seconds = [1, 2, 3, 4]\n[gates]\nlooks = 3")
    assert config.bake_seconds() == [1, 2, 3, 4]
    assert load_config("[gates]\nbake_seconds = 6").bake_seconds() == [6] * 4


@pytest.mark.parametrize(
    ("wanted", "shards", "at_once"),
    [(10, 50, 10), (10, 4, 4), ("25%", 50, 12), ("25%", 3, 1), ("100%", 7, 7), ("0.5%", 10, 1)],
)
def test_concurrency_is_a_number_or_a_share_and_never_none(wanted, shards, at_once):
    rollout = load_config(f"[rollout]\nmax_concurrent_shards = {json.dumps(wanted)}").rollout
    assert rollout.concurrent_shards(shards) == at_once


def test_overrides_are_checked_like_the_configuration_and_leave_it_alone():
    config = load_config("[rollout]\nbake_seconds = 60")
    changed = config.with_overrides({"rollout.canary_percentage": 1, "gates.looks": 3})
    assert (changed.rollout.canary_percentage, changed.gate_policy().looks) == (1, 3)
    assert changed.gate_policy().bake_seconds == 60
    assert config.rollout.canary_percentage == 2


@pytest.mark.parametrize("key", ["rollout.bake_seconds", "gates.bake_seconds"])
@pytest.mark.parametrize("section", ["rollout", "gates"])
def test_an_override_wins_over_both_sections(section, key):
    config = load_config(f"[{section}]\nbake_seconds = 60")
    assert config.with_overrides({key: 1}).bake_seconds() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"rollout.canary": 1}, "rollout.canary"),
        ({"rollout.canary_percentage": "1"}, "rollout.canary_percentage"),
        ({"rollout.canary_percentage": 30}, "rollout.canary_percentage"),
        ({"tenants.shards": 1}, "tenants.shards"),
        ({"calendar.freeze": []}, "calendar.freeze"),
        ({"rollout": {}}, "rollout"),
        ({"": 1}, ""),
        ({"rollout.max_blast_radius_percent": 50}, "rollout.max_blast_radius_percent"),
        ({"rollout.when_busy.x": 1}, "rollout.when_busy.x"),
    ],
)
def test_overrides_that_do_not_hold_are_refused_with_their_key(overrides, key):
    with pytest.raises(ConfigError) as caught:
        load_config("").with_overrides(overrides)
    assert caught.value.key == key


def test_the_blast_radius_may_be_lowered():
    lower = load_config("").with_overrides({"rollout.max_blast_radius_percent": 3})
    assert lower.rollout.max_blast_radius_percent == 3


def test_the_digest_is_of_what_is_in_effect():
    config = load_config("")
    assert config.digest() == load_config("[rollout]\ncanary_percentage = 2.0").digest()
    assert config.digest() != load_config("[rollout]\ncanary_percentage = 1").digest()
    assert config.digest().startswith("sha256:") and len(config.digest()) == 71


def test_a_configuration_survives_json():
    config = load_config(
        "[[calendar.weekly]]\nname='x'\ndays=['fri']\nfrom='08:00'\nto=09:00:00\nzone='UTC'\n"
        "[[calendar.freeze]]\nname='y'\nstart=2026-01-01T00:00:00Z\nend=2026-01-02T00:00:00Z"
    )
    adapter = TypeAdapter(Config)
    again = adapter.validate_json(adapter.dump_json(config, by_alias=True))
    assert again == config and again.digest() == config.digest()


def test_the_configuration_costs_a_workflow_little_to_import():
    """No template engine, no database and no statistics come with it."""
    program = "import sys, models.config; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"jinja2", "sqlalchemy", "sqlmodel", "scipy", "numpy", "temporalio"}
    assert heavy.isdisjoint(run.stdout.split())
