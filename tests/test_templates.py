"""Tera's rules, kept by the renderer: vocabulary, arithmetic, printing, errors with their line."""

import pytest

from models.config import ConfigError, load_config
from stores.templates import TemplateError, render

# Section 1 of the source document. It sets `shards` and `total_tenants` by default where it prints
# them and divides the bare variables below, so it needs both to be given.
FLEET = """\
{# Multi-Tenant Mega-Fleet Configuration #}
[tenants]
total_tenants = {{ total_tenants | default(value=10000) }}
shards = {{ shards | default(value=100) }}
tenants_per_shard = {{ total_tenants / shards }}

[isolation]
per_tenant_kv = true
zone_affinity = true
cross_tenant_isolation = "strict"

[rollout]
canary_percentage = 2
ring_gates = ["p99_latency_ms", "error_rate", "memory_usage_mb"]
rollout_rings = [5, 25, 100]

[cost_control]
real_time_burn = true
budget_enforcement = "hard_quota"
tenant_visibility = "own_costs_only"
"""

# Section 2, as written but for what its line `compliance` is.
REGIONS = """\
{# Regional Sovereignty Configuration #}
[regions]
{% for region in regions %}
[[regions.{{ region.code }}]]
name = "{{ region.name }}"
compliance = COMPLIANCE
data_residency = "required"
catalog_shard = {{ region.shard_id }}
receipt_partition = {{ region.partition_id }}
audit_retention_days = {{ region.audit_retention }}
{% endfor %}

[enforcement]
geo_lock = true
cross_region_transit = "forbidden"
per_region_isolation = true
access_origin_validation = true

[failover]
independent_regions = true
no_global_consensus = true
recovery_chain_validation = true
"""
AS_WRITTEN = '{{ region.compliance | join(", ") }}'
AS_ARRAY = "{{ region.compliance | json_encode() }}"

EU = {
    "code": "eu",
    "name": "EU",
    "compliance": ["GDPR", "ISO 27001"],
    "shard_id": 1,
    "partition_id": 2,
    "audit_retention": 400,
}


def failed(source, **values):
    with pytest.raises(TemplateError) as caught:
        render(source, values, name="t.tera")
    return caught.value


def test_section_1_of_the_source_document_renders_and_loads():
    text = render(FLEET, {"total_tenants": 2000, "shards": 40})
    assert "tenants_per_shard = 50\n" in text
    tenants = load_config(text).tenants
    assert (tenants.total_tenants, tenants.shards, tenants.tenants_per_shard) == (2000, 40, 50)


def test_section_1_without_values_names_the_variable_and_its_line():
    error = failed(FLEET)
    assert (error.name, error.line) == ("t.tera", 5)
    assert error.reason == "variable `total_tenants` is not set"


def test_section_2_of_the_source_document_renders_and_loads_with_an_array():
    text = render(REGIONS.replace("COMPLIANCE", AS_ARRAY), {"regions": [EU]})
    region = load_config(text).regions["eu"]
    assert region.compliance == ["GDPR", "ISO 27001"]
    assert (region.catalog_shard, region.receipt_partition) == (1, 2)
    assert region.audit_retention_days == 400


def test_section_2_as_written_joins_to_something_that_is_not_toml():
    text = render(REGIONS.replace("COMPLIANCE", AS_WRITTEN), {"regions": [EU]})
    assert "compliance = GDPR, ISO 27001\n" in text
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(text)


@pytest.mark.parametrize(
    ("source", "values", "expected"),
    [
        # printing
        ("{{ x }}", {"x": True}, "true"),
        ("{{ x }}", {"x": 2.0}, "2"),
        ("{{ x }}", {"x": 1e-7}, "0.0000001"),
        ("{{ x }}", {"x": 1e20}, "100000000000000000000"),
        ("{{ x }}", {"x": [1, "a", False]}, "[1, a, false]"),
        ("{{ x }}", {"x": {"a": 1}}, "[object]"),
        ("{{ x }}", {"x": None}, ""),
        ("{{ x }}", {"x": "<&>"}, "<&>"),
        # a file ends as its template does
        ("a\n", {}, "a\n"),
        ("{# a\ncomment #}b", {}, "b"),
        ("{% raw %}{{ x }}{% endraw %}", {}, "{{ x }}"),
        # arithmetic
        ("{{ 10 / 5 }} {{ 7 / 2 }} {{ 2 / 0.5 }}", {}, "2 3.5 4"),
        ("{{ 1 + 2 * 3 - 1 }} {{ 7 % 4 }} {{ a % 4 }}", {"a": -7}, "6 3 -3"),
        # filters
        ("{{ x | default(value=3) }}", {}, "3"),
        ("{{ x | default(value=3) }}", {"x": 0}, "0"),
        ("{{ a.b.c | default(value=3) }}", {}, "3"),
        ("{{ a.b.c | default(value=3) }}", {"a": {"b": {}}}, "3"),
        ('{{ x | join(sep=", ") }}', {"x": [5, 25.5]}, "5, 25.5"),
        ('{{ x | join(", ") }}', {"x": ["a", "b"]}, "a, b"),
        ("{{ x | length }} {{ y | length }}", {"x": [1, 2], "y": "abc"}, "2 3"),
        ("{{ x | upper }}{{ x | lower }}{{ x | capitalize }}", {"x": "aB"}, "ABabAb"),
        ('{{ x | replace(from="a", to="b") }}', {"x": "aab"}, "bbb"),
        (
            "{{ x | round }} {{ y | round }} {{ z | round }}",
            {"x": 2.5, "y": -2.5, "z": 1},
            "3 -3 1",
        ),
        ('{{ x | round(method="ceil", precision=1) }}', {"x": 2.11}, "2.2"),
        ('{{ x | round(method="floor") }}', {"x": 2.9}, "2"),
        ("{{ x | json_encode() }}", {"x": {"é": ['"', 1.0]}}, '{"é":["\\"",1.0]}'),
        ("{{ x | first }}{{ x | last }}{{ x | nth(n=1) }}", {"x": [1, 2, 3]}, "132"),
        ("{{ x | sort | reverse | unique | join(sep='') }}", {"x": [1, 3, 3, 2]}, "321"),
        ('{{ x | split(pat="-") | json_encode }}', {"x": "a-b"}, '["a","b"]'),
        (
            '{{ x | filter(attribute="a", value=1) | map(attribute="b") }}',
            {"x": [{"a": 1, "b": 2}, {"a": 2, "b": 3}]},
            "[2]",
        ),
        ('{{ x | get(key="a") }}{{ x | get(key="b", default=2) }}', {"x": {"a": 1}}, "12"),
        ("{{ x | concat(with=[2]) }}{{ x | concat(with=3) }}", {"x": [1]}, "[1, 2][1, 3]"),
        # control
        ("{% if x is defined %}y{% elif not z %}n{% else %}e{% endif %}", {"z": True}, "e"),
        ("{% if x > 1 and y in [1, 2] or false %}y{% endif %}", {"x": 2, "y": 1}, "y"),
        ('{% if x is starting_with("a") and 4 is divisibleby(2) %}y{% endif %}', {"x": "ab"}, "y"),
        ("{% for i in range(start=1, end=6, step_by=2) %}{{ i }}{% endfor %}", {}, "135"),
        ("{% for k, v in x %}{{ loop.index }}{{ k }}{{ v }}{% endfor %}", {"x": {"a": 7}}, "1a7"),
        ("{% for i in x %}{{ i }}{% else %}none{% endfor %}", {"x": []}, "none"),
        ("{% set q = x / 4 %}{{ q | round }}", {"x": 10}, "3"),
        ("{{ 'a' ~ 1 ~ x ~ true }}", {"x": 2.0}, "a12true"),
        ("{{ x[0] }}{{ y['k'] }}", {"x": [1], "y": {"k": 2}}, "12"),
    ],
)
def test_renders_as_tera_does(source, values, expected):
    assert render(source, values) == expected


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        # unset variables, wherever they are met
        ("\n\n{{ x }}", 3, "variable `x` is not set"),
        ("\n{{ a.b.c }}", 2, "variable `a.b.c` is not set"),
        ("\n{{ m.y }}", 2, "variable `y` is not set; its object has k"),
        ("\n{{ x | upper }}", 2, "variable `x` is not set"),
        ("\n{{ 1 + x }}", 2, "variable `x` is not set"),
        ("\n{{ 'a' ~ x }}", 2, "variable `x` is not set"),
        ("\n{% if x %}{% endif %}", 2, "variable `x` is not set"),
        ("\n{% for i in x %}{% endfor %}", 2, "variable `x` is not set"),
        ("\n{% for k, v in x %}{% endfor %}", 2, "variable `x` is not set"),
        ("\n{{ [1][5] }}", 2, "variable `5` is not set"),
        # what Tera does not have
        ("\n{{ 1 if true else 2 }}", 2, "conditional expression"),
        ("\n{{ s.upper() }}", 2, "this call"),
        ("\n{{ s[1:] }}", 2, "slice"),
        ("\n{{ 2 ** 3 }}", 2, "operator **"),
        ("\n{{ 3 // 2 }}", 2, "operator //"),
        ("\n{{ x | default(3) }}", 2, "positional arguments"),
        ("\n{{ s | center }}", 2, "No filter named 'center'"),
        ("\n{% if s is sequence %}{% endif %}", 2, "No test named 'sequence'"),
        ("\n{% include 'x' %}", 2, "include"),
        ("\n{% macro m() %}{% endmacro %}", 2, "macro"),
        ("\n{{ s.__class__ }}", 2, "not set"),
        # what the two languages would read differently
        ("\n{{ 7 / 2 | round }}", 2, "a filter inside arithmetic"),
        ("\n{{ 'a' ~ s | upper }}", 2, "a filter inside arithmetic"),
        # mistakes
        ("\n{{ 1 / 0 }}", 2, "division by zero"),
        ("\n{{ 1 + s }}", 2, "arithmetic needs numbers"),
        ("\n{{ true + 1 }}", 2, "arithmetic needs numbers"),
        ("\n{{ 1 | upper }}", 2, "needs a string"),
        ("\n{{ s | join(sep='') }}", 2, "needs an array"),
        ("\n{{ s | replace(from='a') }}", 2, "from= and to="),
        ("\n{{ 1.5 | round(method='up') }}", 2, "no method 'up'"),
        ("\n{{ s | nth(m=1) }}", 2, "'m'"),
        ("\n{{ throw(message='no') }}", 2, "no"),
        ("\n{{ range(end=1000000000) }}", 2, "longer than"),
        ("\n{% if s %}", 2, "Unexpected end"),
        ("\n{{ s", 2, "unexpected end"),
    ],
)
def test_errors_name_the_line_and_the_reason(source, line, reason):
    error = failed(source, s="text", m={"k": 1})
    assert (error.line, reason in error.reason) == (line, True), str(error)
