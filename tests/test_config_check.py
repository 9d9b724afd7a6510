"""What `config check` says of a configuration that holds, and the command's answers."""

import json

import pytest
from typer.testing import CliRunner

from models.config import load_config
from models.config_check import ENFORCED, NOT_ENFORCED, check_config, config_keys
from workers.cli.config import app

RUN = CliRunner()


def notes(text):
    return [found for found in check_config(load_config(text)) if found.level == "note"]


def test_every_key_is_either_acted_on_or_named_as_not_enforced():
    keys = config_keys()
    assert "rollout.canary_percentage" in keys and "regions.*.compliance" in keys
    assert sorted([*ENFORCED, *NOT_ENFORCED]) == sorted(keys)


def test_every_key_without_effect_is_named():
    named = {found.key for found in check_config(load_config("")) if found.level == "not enforced"}
    assert named == set(NOT_ENFORCED)
    assert {"enforcement.geo_lock", "cost_control.budget_enforcement"} <= named


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("[tenants]\ntotal_tenants = 1001", "tenants.shards", "do not divide"),
        ("[tenants]\ntotal_tenants = 3\nshards = 3", "tenants.shards", "some regions have none"),
        ("[tenants]\nshards = 40", "rollout.canary_percentage", "at least about 2.5 %"),
        (
            "[tenants]\nshards = 10",
            "rollout.max_blast_radius_percent",
            "every plan will be refused",
        ),
        ("[rollout]\ncanary_percentage = 5", "rollout.rollout_rings", "adds nothing"),
    ],
)
def test_oddities_are_noted(text, key, words):
    assert any(note.key == key and words in note.text for note in notes(text))


def test_the_defaults_are_not_odd():
    assert notes("") == []


def test_check_lists_findings_and_exits_with_0(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text("[tenants]\ntotal_tenants = 1001\n")
    result = RUN.invoke(app, ["check", str(file), "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["valid"]
    assert {"level": "note", "key": "tenants.shards"}.items() <= report["findings"][0].items()


def test_check_strict_exits_with_1_while_keys_are_not_enforced(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text("")
    assert RUN.invoke(app, ["check", str(file), "--strict"]).exit_code == 1


def test_check_names_every_error_and_exits_with_1(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text("[rollout]\nfoo = 1\ncanary_percentage = 'x'\n")
    result = RUN.invoke(app, ["check", str(file)])
    assert result.exit_code == 1
    assert "rollout.foo" in result.output and "rollout.canary_percentage" in result.output
    report = json.loads(RUN.invoke(app, ["check", str(file), "--json"]).stdout)
    assert not report["valid"] and len(report["findings"]) == 2


def test_a_file_that_is_not_there_is_bad_input(tmp_path):
    result = RUN.invoke(app, ["check", str(tmp_path / "none.toml")])
    assert result.exit_code == 2 and "No such file" in result.output


def test_show_has_the_defaults_and_the_effective_gates(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text("[rollout]\nbake_seconds = 7\n")
    shown = json.loads(RUN.invoke(app, ["show", str(file), "--json"]).stdout)
    assert shown["config"]["gates"]["bake_seconds"] == 7
    assert shown["config"]["regions"]["eu"]["name"] == "Europe"
    assert shown["digest"] == load_config(file.read_text()).digest()
    table = RUN.invoke(app, ["show", str(file)], env={"COLUMNS": "200"})
    assert table.exit_code == 0 and "not enforced" in table.output


def test_render_sets_values_and_checks_the_result(tmp_path):
    template = tmp_path / "t.tera"
    template.write_text("[rollout]\ncanary_percentage = {{ rollout.canary }}\n{# c #}")
    good = RUN.invoke(app, ["render", str(template), "--set", "rollout.canary=1.5"])
    assert (good.exit_code, good.stdout) == (0, "[rollout]\ncanary_percentage = 1.5\n")
    bad = RUN.invoke(app, ["render", str(template), "--set", "rollout.canary=50"])
    assert bad.exit_code == 2 and "rollout.canary_percentage" in bad.output and not bad.stdout
    unchecked = ["render", str(template), "--set", "rollout.canary=50", "--no-check"]
    assert RUN.invoke(app, unchecked).exit_code == 0
    unset = RUN.invoke(app, ["render", str(template)])
    assert unset.exit_code == 2
    assert "line 2: variable `rollout.canary` is not set" in unset.output.replace("\n", " ")


@pytest.mark.parametrize("assignment", ["novalue", "=3", "a.b=1"])
def test_render_refuses_bad_assignments(tmp_path, assignment):
    template, values = tmp_path / "t.tera", tmp_path / "v.json"
    template.write_text("")
    values.write_text('{"a": 1}')
    arguments = ["render", str(template), "--values", str(values), "--set", assignment]
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2 and assignment in result.output
