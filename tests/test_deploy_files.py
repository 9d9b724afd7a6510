"""The files of deploy/ against the code they start: commands, addresses, limits, templates."""

import configparser
import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from models.addresses import ControlAddresses, RegionAddresses, RegistryAddress
from models.config import load_config
from models.config_sections import default_regions
from stores.templates import render, render_default_config
from workers.process import DRAIN

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
REGIONS = sorted(default_regions())
VALUES = json.loads((DEPLOY / "config" / "example-values.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def rendered(path, **values):
    return render((DEPLOY / path).read_text(), values, name=path)


def is_real(command):
    """Whether a command line starts something that exists in this repository."""
    match command:
        case ["python", "-m", "workers", "control"]:
            return True
        case ["python", "-m", "workers", "region", region]:
            return region in (*REGIONS, "%i")
        case ["python", "-m", "workers", "host" | "gateway" | "recovery", *regions]:
            return bool(regions) and set(regions) <= {*REGIONS, "%i"}
        case ["python", "deploy/start_envoy.py", region]:
            return region in (*REGIONS, "%i")
        case ["chainring", "setup"] | ["sleep", "infinity"]:
            return True
    return False


def names(text, word):
    """Whether ``word`` occurs in a text on its own."""
    return re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", text) is not None


def seconds(text):
    assert re.fullmatch(r"\d+s?", str(text)), text
    return timedelta(seconds=int(str(text).removesuffix("s")))


@pytest.mark.parametrize("template", sorted(path.name for path in DEPLOY.glob("config/*.tera")))
def test_every_template_renders_with_the_example_and_loads(template):
    load_config(rendered(f"config/{template}", **VALUES))


def test_the_templates_together_hold_all_the_example_says():
    names = ("config/fleet.toml.tera", "config/regions.toml.tera", "config/recovery.toml.tera")
    config = load_config("".join(rendered(name, **VALUES) for name in names))
    assert config.tenants.tenants_per_shard == 100
    assert config.bake_seconds() == [300, 300, 600, 600]
    assert config.calendar.freeze[0].name == "year end"
    assert config.calendar.weekly[0].regions == ["eu"]
    assert config.regions["latam"].compliance == ["LGPD"]


def test_values_are_quoted_for_toml():
    windows = [{"name": 'a "b" \\', "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}]
    config = load_config(rendered("config/fleet.toml.tera", freeze_windows=windows))
    assert config.calendar.freeze[0].name == 'a "b" \\'


def test_uneven_shards_render_to_a_whole_number():
    text = rendered("config/fleet.toml.tera", total_tenants=10, shards=4)
    assert load_config(text).tenants.tenants_per_shard == 3


def test_a_new_home_gets_the_defaults():
    config = load_config(render_default_config())
    assert config.digest() == load_config(render_default_config()).digest()
    assert config.regions == load_config("").regions
    assert config.gate_policy() == load_config("").gate_policy()
    assert config.calendar == load_config("").calendar


def test_addresses_hold_and_name_no_one_else():
    control = rendered("addresses/control.json.tera")
    ControlAddresses.model_validate_json(control)
    assert not any(names(control, region) for region in REGIONS)
    for region in REGIONS:
        text = rendered("addresses/region.json.tera", region=region)
        assert RegionAddresses.model_validate_json(text).region == region
        assert not any(names(text, other) for other in [*REGIONS, "control"] if other != region)


def test_a_registry_is_named_where_there_is_one():
    url, secret = "https://registry.example.org/fleet", "/run/secrets/registry"
    for name in ("control", "region"):
        text = rendered(
            f"addresses/{name}.json.tera", region="eu", registry=url, registry_credentials=secret
        )
        model = ControlAddresses if name == "control" else RegionAddresses
        found = model.model_validate_json(text).registry
        assert found == RegistryAddress(url=url, credentials=secret)
        assert "releases" not in str(model.model_validate_json(text).releases.parent)
        bare = rendered(f"addresses/{name}.json.tera", region="eu", registry=url)
        assert model.model_validate_json(bare).registry == RegistryAddress(url=url)


@pytest.mark.parametrize("url", ["registry.example.org", "https://ana:x@host/", "http://h/../x y"])
def test_an_address_that_is_no_registry_is_refused(url):
    with pytest.raises(ValidationError, match="url"):
        RegistryAddress(url=url)


def test_regions_on_one_machine_share_no_port():
    taken = []
    for number, region in enumerate(REGIONS):
        text = rendered("addresses/region.json.tera", region=region, number=number)
        one = RegionAddresses.model_validate_json(text)
        taken += [one.worker.health_port, one.worker.metrics_port]
        taken += [one.gateway.port, one.gateway.admin_port, one.gateway.kv_port]
    control = ControlAddresses.model_validate_json(rendered("addresses/control.json.tera"))
    taken += [control.worker.health_port, control.worker.metrics_port]
    assert len(set(taken)) == len(taken)


def test_compose_starts_only_what_exists_and_all_of_it():
    commands = [service["command"] for service in SERVICES.values() if "build" in service]
    assert all(is_real(command) for command in commands), commands
    assert ["python", "-m", "workers", "control"] in commands
    for region in REGIONS:
        for process in ("region", "host", "gateway", "recovery"):
            assert ["python", "-m", "workers", process, region] in commands
        assert ["python", "deploy/start_envoy.py", region] in commands


def test_the_workers_know_the_commands():
    """Each must be understood: a process that is not one prints the usage and exits with 2."""
    source = (ROOT / "workers" / "__main__.py").read_text()
    for process in ("control", "region", "host", "gateway", "recovery"):
        assert f'case ["{process}"' in source


def test_compose_is_consistent():
    networks, volumes = set(COMPOSE["networks"]), set(COMPOSE["volumes"])
    for name, service in SERVICES.items():
        assert set(service.get("networks", [])) <= networks, name
        assert set(service.get("depends_on", [])) <= set(SERVICES), name
        assert "networks" in service or service["network_mode"].removeprefix("service:") in SERVICES
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source.startswith("./") or source in volumes, name
        assert "." not in service["image"].partition("/")[0].partition(":")[0], "registry host"


def test_in_compose_no_region_reaches_another():
    for name, service in SERVICES.items():
        region = next((r for r in REGIONS if name.partition("-")[2] == r), None)
        if region is None:
            continue
        text = json.dumps(service)
        assert not any(names(text, other) for other in REGIONS if other != region), name
        assert "control" not in service.get("networks", []), name
        assert service.get("network_mode", f"service:pod-{region}") == f"service:pod-{region}"
    for name in ("control", "db-control", "temporal-ui", "setup"):
        assert SERVICES[name]["networks"] == ["control"]


def test_compose_has_no_password_of_its_own():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "PWD" in key:
                assert re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value), (name, key)


def test_compose_gives_workers_time_to_drain():
    for name, service in SERVICES.items():
        if "build" in service:
            assert seconds(service["stop_grace_period"]) > DRAIN, name


def parsed(unit):
    parser = configparser.ConfigParser(strict=True, interpolation=None, delimiters=("=",))
    parser.optionxform = str
    parser.read_string(unit.read_text())
    return parser


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_start_what_exists_and_stop_it_gently(unit):
    service = parsed(unit)["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/.venv/bin/python")
    assert is_real(["python", *arguments])
    assert ("%i" in arguments) == ("@" in unit.name)
    assert service["Restart"] == "always"
    if "-m" in arguments and arguments[-2] in ("workers", "region"):
        assert seconds(service["TimeoutStopSec"]) > DRAIN
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictNamespaces"):
        assert service[key] == "yes"
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""


def test_there_is_a_unit_for_every_process():
    regional = ("envoy", "gateway", "host", "recovery", "region")
    names = ["control.service", *(f"{process}@.service" for process in regional)]
    assert [unit.name for unit in UNITS] == [f"chainring-{name}" for name in names]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_sees_only_its_own_part_of_the_home(unit):
    service = parsed(unit)["Service"]
    own = ["regions/%i"] if "@" in unit.name else ["control", "verification", "evidence"]
    assert service["TemporaryFileSystem"] == "/var/lib/chainring:ro"
    assert service["BindPaths"].split() == [f"/var/lib/chainring/{part}" for part in own]


def start_envoy(*arguments, home):
    return subprocess.run(
        [sys.executable, DEPLOY / "start_envoy.py", *arguments],
        env={"CHAINRING_HOME": str(home), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_start_envoy_says_what_is_missing(tmp_path):
    missing = start_envoy("eu", home=tmp_path)
    assert missing.returncode == 1 and "addresses.json does not exist" in missing.stderr
    assert "usage" in start_envoy(home=tmp_path).stderr


def test_the_readme_names_only_files_that_exist():
    text = (DEPLOY / "README.md").read_text()
    for name in re.findall(r"`((?:config|addresses|systemd|temporal)/[\w.@*-]*)`", text):
        assert list(DEPLOY.glob(name.rstrip("/"))), name
