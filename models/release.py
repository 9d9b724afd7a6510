"""What a release says about itself: the program to run, its environment and its health timing.

The description travels in the image's configuration object (OCI image specification, "OCI Image
Configuration"), so that the release digest covers it.
"""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
VERSION_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
ENV_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
RESERVED_ENV = ("PORT", "PATH")
RESERVED_ENV_PREFIX = "CHAINRING_"

TITLE_LABEL = "org.opencontainers.image.title"
VERSION_LABEL = "org.opencontainers.image.version"
HEALTH_LABEL = "chainring.health"
GRACE_LABEL = "chainring.stop-grace-ms"

ReleaseName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ReleaseVersion = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
EnvName = Annotated[str, StringConstraints(pattern=ENV_PATTERN)]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
EnvValue = Annotated[str, StringConstraints(max_length=8192, pattern=r"^[^\x00]*$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HealthTiming(_Frozen):
    """How the release host judges ``GET /healthz`` (200 is healthy, anything else is not)."""

    interval_ms: int = Field(default=1000, ge=50, le=60_000)
    timeout_ms: int = Field(default=2000, ge=50, le=60_000)
    deadline_ms: int = Field(
        default=15_000, ge=200, le=600_000, description="from start to the first healthy answer"
    )
    unhealthy_after: int = Field(default=3, ge=1, le=100, description="failed checks in a row")
    restart_after: int = Field(default=10, ge=1, le=1000, description="failed checks in a row")

    @model_validator(mode="after")
    def _in_order(self) -> "HealthTiming":
        if self.restart_after < self.unhealthy_after:
            raise ValueError("restart_after must not be below unhealthy_after")
        return self


class ReleaseSpec(_Frozen):
    """One release: a named, versioned program that listens on ``$PORT``."""

    name: ReleaseName
    version: ReleaseVersion
    entrypoint: list[Argument] = Field(min_length=1, max_length=256)
    env: dict[EnvName, EnvValue] = Field(default={}, max_length=256)
    health: HealthTiming = HealthTiming()
    stop_grace_ms: int = Field(default=10_000, ge=0, le=300_000, description="SIGTERM to SIGKILL")

    @field_validator("entrypoint")
    @classmethod
    def _program_inside(cls, entrypoint: list[str]) -> list[str]:
        program = PurePosixPath(entrypoint[0])
        if program.is_absolute() or ".." in program.parts:
            raise ValueError(
                f"{entrypoint[0]!r} must be a command name or a path inside the release"
            )
        return entrypoint

    @field_validator("env")
    @classmethod
    def _not_reserved(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIX):
                raise ValueError(f"{name} is set by the release host")
        return env

    @property
    def reference(self) -> str:
        """``name:version``, the name a person uses; the digest is what counts."""
        return f"{self.name}:{self.version}"


class ReleaseFile(_Frozen):
    """``release.json`` in a release's directory: how its author wants it to be run."""

    entrypoint: list[Argument] = Field(min_length=1, max_length=256)
    env: dict[EnvName, EnvValue] = {}
    health: HealthTiming = HealthTiming()
    stop_grace_ms: int = Field(default=10_000, ge=0, le=300_000)


def image_config(spec: ReleaseSpec, diff_ids: Sequence[str]) -> dict[str, Any]:
    """The image configuration object that carries ``spec``.

    The architecture is not known to the packer, which takes any directory.
    """
    return {
        "architecture": "unknown",
        "os": "linux",
        "config": {
            "Entrypoint": spec.entrypoint,
            "Env": [f"{name}={value}" for name, value in sorted(spec.env.items())],
            "Labels": {
                TITLE_LABEL: spec.name,
                VERSION_LABEL: spec.version,
                HEALTH_LABEL: json.dumps(spec.health.model_dump(), sort_keys=True),
                GRACE_LABEL: str(spec.stop_grace_ms),
            },
            "StopSignal": "SIGTERM",
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }


def spec_of_config(config: dict[str, Any]) -> ReleaseSpec:
    """Read the description back from an image configuration object.

    Health timing and grace have defaults, so that an image from another builder can be run too.

    Raises:
        ValueError: what is there is not a release; the message names the field.
    """
    program = config.get("config")
    if not isinstance(program, dict):
        raise ValueError("config: missing from the image configuration")
    labels = program.get("Labels") or {}
    values: dict[str, Any] = {
        "name": labels.get(TITLE_LABEL),
        "version": labels.get(VERSION_LABEL),
        "entrypoint": [*(program.get("Entrypoint") or []), *(program.get("Cmd") or [])],
        "env": _own_environment(program.get("Env") or []),
    }
    if HEALTH_LABEL in labels:
        values["health"] = json.loads(labels[HEALTH_LABEL])
    if GRACE_LABEL in labels:
        values["stop_grace_ms"] = labels[GRACE_LABEL]
    try:
        return ReleaseSpec.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_error(error)) from None


def first_error(error: ValidationError) -> str:
    """The first problem of a pydantic error as ``field: message``."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "release"
    return f"{field}: {first['msg']}"


def _own_environment(entries: Sequence[str]) -> dict[str, str]:
    """``NAME=value`` entries as a mapping; ``PATH``, which builders always add, is the host's."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, _, value in pairs if name != "PATH"}
