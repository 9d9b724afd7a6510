"""The samples: two services, good versions and versions made bad on purpose."""

import json
import shutil
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[1] / "deploy" / "samples"
SERVICES = ("catalog", "render")

# What differs from the defaults in deploy/samples/serving.py (`Behaviour`), by version.
VARIANTS: dict[str, dict[str, Any]] = {
    "1.0.0": {},
    "1.1.0": {},
    "1.2.0": {},
    "1.3.0-slow-tail": {"slow_share": 0.1, "slow_factor": 10.0},
    "1.3.0-errors": {"error_share": 0.03},
    "1.3.0-broken": {"error_share": 0.5},
    "1.3.0-leak": {"leak_kb": 32},
    "1.3.0-crash": {"crash_at_start": True},
    "1.3.0-never-healthy": {"healthy": False},
}
# What the version that is good at first turns into.
LATE = {"slow_share": 0.1, "slow_factor": 10.0, "error_share": 0.03}


def assemble(directory: Path, service: str, version: str, behaviour: dict[str, Any]) -> None:
    """Write one release's files into ``directory``."""
    shutil.copyfile(SOURCES / service / "service.py", directory / "service.py")
    shutil.copyfile(SOURCES / "serving.py", directory / "serving.py")
    shutil.copyfile(SOURCES / "release.json", directory / "release.json")
    content = json.dumps({"version": version, **behaviour}, indent=2, sort_keys=True)
    (directory / "behaviour.json").write_text(content + "\n")
