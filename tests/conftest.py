"""The order of the suite: what takes long begins first, or the end would wait for it."""

from pathlib import Path

import pytest

LONGEST_FIRST = (
    *("test_faults", "test_stack", "test_faults_database", "test_recovery_kills", "test_recipes"),
    "test_database_kills",
    *("test_region_down", "test_verified_rollout", "test_decisions", "test_stack_postgres"),
    *("test_keyless_stack", "test_watch_region", "test_probe", "test_prune_backup"),
    *("test_rollout_workflow", "test_simulation", "test_recovery_drill", "test_build_faults"),
    *("test_incidents", "test_rollout_lease", "test_host", "test_objects_faults", "test_buffer"),
)
_PLACE = {name: place for place, name in enumerate(LONGEST_FIRST)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _PLACE.get(Path(item.path).stem, len(_PLACE)))
