import math

import pytest
from pydantic import ValidationError

from models.gate_policy import KNOWN_METRICS, GatePolicy


def test_defaults_judge_the_source_documents_metrics():
    assert tuple(GatePolicy().metrics) == KNOWN_METRICS
    assert GatePolicy().metrics == ["p99_latency_ms", "error_rate", "memory_usage_mb"]


def test_every_field_says_what_it_is():
    assert all(field.description for field in GatePolicy.model_fields.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("p99_latency_ms", 0),
        ("error_rate", 1),
        ("error_rate", -0.1),
        ("memory_usage_mb", math.nan),
        ("latency_ratio_margin", 0.9),
        ("alpha", 0),
        ("alpha", 0.6),
        ("looks", 0),
        ("looks", 1.5),
        ("min_samples", 0),
        ("bake_seconds", -1),
        ("hold_seconds", math.inf),
        ("metrics", []),
        ("metrics", ["error_rate", "error_rate"]),
        ("metrics", ["p50_latency_ms"]),
        ("p99_latency", 500),
    ],
)
def test_bad_value_names_the_field(field: str, value: object):
    with pytest.raises(ValidationError) as caught:
        GatePolicy.model_validate({field: value})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]
