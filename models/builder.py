"""The builder: who it says it is, whose commits it builds, and what it lets a build have."""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.release import EnvName, first_error

BUILDER_ID = "urn:chainring:builder:embedded"


class BuilderError(ValueError):
    """The builder's settings do not hold; the message names the field."""


class BuilderSettings(BaseModel):
    """What whoever runs the builder decides, and no source tree can."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(
        default=BUILDER_ID,
        min_length=1,
        max_length=500,
        description="in provenance; the verification policy names it exactly",
    )
    signatures: Literal["required", "not required"] = Field(
        default="required", description="whether a commit that is not signed is refused"
    )
    allowed_signers: Path | None = Field(
        default=None, description="ssh's list of principals and keys, see ssh-keygen(1)"
    )
    keyring: Path | None = Field(default=None, description="GPG public keys")
    protocols: list[Literal["file", "ssh", "https"]] = ["file", "ssh", "https"]
    path: str = Field(default="/usr/local/bin:/usr/bin:/bin", description="PATH of a build")
    environment: list[EnvName] = Field(
        default=[], max_length=100, description="of the builder's own, what a build file may take"
    )


def load_builder(text: str) -> BuilderSettings:
    """The settings in a TOML text; absent keys take their defaults, by which nobody may sign.

    Raises:
        BuilderError: not TOML, or a key is unknown or wrong.
    """
    try:
        return BuilderSettings.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BuilderError(f"builder: not valid TOML: {error}") from None
    except ValidationError as error:
        raise BuilderError(f"builder: {first_error(error)}") from None
