"""Builds the sample releases: two services, good versions and versions made bad on purpose."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from stores.oci import ImageLayout, StoredRelease

SOURCES = Path(__file__).resolve().parents[1] / "deploy" / "samples"
SERVICES = ("catalog", "render")

# What differs from the defaults in deploy/samples/serving.py (`Behaviour`), by version.
VARIANTS: dict[str, dict[str, Any]] = {
    "1.0.0": {},
    "1.1.0": {},
    "1.2.0": {},
    "1.3.0-slow-tail": {"slow_share": 0.1, "slow_factor": 10.0},
    "1.3.0-errors": {"error_share": 0.03},
    "1.3.0-leak": {"leak_kb": 32},
    "1.3.0-crash": {"crash_at_start": True},
    "1.3.0-never-healthy": {"healthy": False},
}
LATE = {"slow_share": 0.1, "slow_factor": 10.0, "error_share": 0.03}


def build_samples(layout: ImageLayout, *, late_after_s: int = 60) -> list[StoredRelease]:
    """Put every sample release into ``layout``; what is there already stays as it is.

    Args:
        late_after_s: when the release that is good at first turns bad.

    Raises:
        ReleaseError: a version is there with another content.
        FileNotFoundError: the samples' sources are not installed.
    """
    late = {f"1.3.0-late-{late_after_s}s": {**LATE, "after_s": late_after_s}}
    for service in SERVICES:
        for version, behaviour in {**VARIANTS, **late}.items():
            with tempfile.TemporaryDirectory() as scratch:
                directory = Path(scratch)
                assemble(directory, service, version, behaviour)
                layout.put_release(service, version, directory)
    return [release for release in layout.list() if release.name in SERVICES]


def assemble(directory: Path, service: str, version: str, behaviour: dict[str, Any]) -> None:
    """Write one release's files into ``directory``."""
    shutil.copyfile(SOURCES / service / "service.py", directory / "service.py")
    shutil.copyfile(SOURCES / "serving.py", directory / "serving.py")
    shutil.copyfile(SOURCES / "release.json", directory / "release.json")
    content = json.dumps({"version": version, **behaviour}, indent=2, sort_keys=True)
    (directory / "behaviour.json").write_text(content + "\n")
