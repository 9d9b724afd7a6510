"""The fleet's configuration: one TOML text in, one immutable and fully checked `Config` out.

A workflow may import this module cheaply. Loading and asking the calendar belong in an activity:
time zones come from files, which Temporal's sandbox does not let a workflow read.

>>> load_config("[rollout]\\ncanary_percentage = 1").rollout.canary_percentage
1.0
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from models.calendar import Calendar
from models.config_recovery import Backup, FailureDetection, Restore, Sla, Testing
from models.config_rules import (
    SHARED_KEYS,
    Problem,
    calendar_fits,
    detection_fits,
    gates_agree,
    regions_fit,
    rings_fit,
    tenants_fit,
)
from models.config_sections import (
    CostControl,
    Enforcement,
    Failover,
    Fleet,
    Isolation,
    Regions,
    Rollout,
    Section,
    Tenants,
    default_regions,
)
from models.config_supply import AuditTrail, DeploymentVerification, Provenance, Sbom, Signing
from models.gate_policy import GatePolicy

OVERRIDABLE = ("rollout", "gates")
"""Sections that a single rollout may override; the others belong to the fleet."""


class ConfigError(Exception):
    """The configuration does not hold.

    Attributes:
        problems: everything that is wrong, in the order of the sections; never empty.
        key, reason: the first of them.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        self.key = self.problems[0].key
        self.reason = self.problems[0].reason
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Config(Section):
    """The whole configuration. Build it with `load_config`, which also checks combinations."""

    fleet: Fleet = Fleet()
    tenants: Tenants = Tenants()
    isolation: Isolation = Isolation()
    rollout: Rollout = Rollout()
    gates: GatePolicy = GatePolicy()
    calendar: Calendar = Calendar()
    cost_control: CostControl = CostControl()
    regions: Regions = Field(default_factory=default_regions)
    enforcement: Enforcement = Enforcement()
    failover: Failover = Failover()
    failure_detection: FailureDetection = FailureDetection()
    backup: Backup = Backup()
    restore: Restore = Restore()
    sla: Sla = Sla()
    testing: Testing = Testing()
    sbom: Sbom = Sbom()
    signing: Signing = Signing()
    provenance: Provenance = Provenance()
    deployment_verification: DeploymentVerification = DeploymentVerification()
    audit_trail: AuditTrail = AuditTrail()

    def gate_policy(self) -> GatePolicy:
        """The policy of every ring's gate: [gates], with what [rollout] says of it.

        A list of bakes is not in it, as it differs by ring: see `bake_seconds`.
        """
        rollout = self.rollout
        said = {
            "metrics": rollout.ring_gates,
            "bake_seconds": None
            if isinstance(rollout.bake_seconds, list)
            else rollout.bake_seconds,
            "hold_seconds": rollout.hold_seconds,
        }
        given = {key: value for key, value in said.items() if value is not None}
        return self.gates.model_copy(update=given)

    def bake_seconds(self) -> list[float]:
        """How long each ring bakes, in seconds: the canary first, then the rings in order."""
        if isinstance(self.rollout.bake_seconds, list):
            return self.rollout.bake_seconds
        return [self.gate_policy().bake_seconds] * (len(self.rollout.rollout_rings) + 1)

    def with_overrides(self, overrides: Mapping[str, object]) -> "Config":
        """This configuration with keys of `OVERRIDABLE` sections replaced, checked anew.

        Args:
            overrides: dotted keys, as ``rollout.canary_percentage``, with JSON values. One of the
                `SHARED_KEYS` also replaces what the other section says.

        Raises:
            ConfigError: a key is unknown or may not be overridden, or the result does not hold.
        """
        tree = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        refused = [problem for key in overrides if (problem := _refused(key))]
        if refused:
            raise ConfigError(refused)
        for section, name in _shadowed(overrides):
            tree.get(section, {}).pop(name, None)
        for key, value in overrides.items():
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
        changed = _build(tree)
        if changed.rollout.max_blast_radius_percent > self.rollout.max_blast_radius_percent:
            configured = self.rollout.max_blast_radius_percent
            reason = f"a rollout may lower it but not raise it above the fleet's {configured:g} %"
            raise ConfigError([Problem("rollout.max_blast_radius_percent", reason)])
        return changed

    def digest(self) -> str:
        """SHA-256 of the effective configuration as JSON with sorted keys, ``sha256:<hex>``."""
        effective = self.model_dump(mode="json", by_alias=True)
        canonical = json.dumps(effective, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def load_config(text: str) -> Config:
    """The configuration that a TOML text describes; absent keys take their defaults.

    Raises:
        ConfigError: the text is not TOML, or a key is unknown, of the wrong type, out of range, or
            in contradiction to another one. All such problems are listed.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem("", f"not valid TOML: {error}")]) from None
    except RecursionError:
        raise ConfigError([Problem("", "not valid TOML: nested too deeply")]) from None
    return _build(tree)


def _build(tree: Mapping[str, object]) -> Config:
    """Validate strictly, by way of JSON: there a string is a date but never a number."""
    document = json.dumps(tree, default=_plain)
    try:
        config = Config.model_validate_json(document, strict=True)
    except ValidationError as error:
        raise ConfigError([_problem(detail) for detail in error.errors()]) from None
    problems = [
        *tenants_fit(config.tenants),
        *rings_fit(config.rollout),
        *gates_agree(config.rollout, config.gates),
        *calendar_fits(config.calendar, config.regions),
        *regions_fit(config.regions),
        *detection_fits(config.failure_detection),
    ]
    if problems:
        raise ConfigError(problems)
    return config


def _plain(value: object) -> str:
    """TOML's dates and times as JSON strings, which is how the models read them."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a value of a configuration")


def _shadowed(overrides: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Keys of the configuration that say what an override now says in the other section."""
    for ours, theirs in SHARED_KEYS:
        if f"rollout.{ours}" in overrides:
            yield "gates", theirs
        if f"gates.{theirs}" in overrides:
            yield "rollout", ours


def _refused(key: str) -> Problem | None:
    section, _, name = key.partition(".")
    if section not in OVERRIDABLE:
        sections = " and ".join(f"[{section}]" for section in OVERRIDABLE)
        return Problem(key, f"may not be overridden for one rollout; only {sections} may")
    if not name:
        return Problem(key, f"name one key of the section, as {section}.<key>")
    return None


def _problem(detail: ErrorDetails) -> Problem:
    key = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    if detail["type"] == "extra_forbidden":
        return Problem(key, _unknown(detail["loc"]))
    reason = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return Problem(key, "is required")
    return Problem(key, f"{reason[0].lower()}{reason[1:]} (got {_shown(detail['input'])})")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown(loc: tuple[int | str, ...]) -> str:
    """Say that a key is unknown, and which known key looks like it."""
    kind = "section" if len(loc) == 1 else "key"
    known = _known_keys(loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
    return f"unknown {kind}; {hint}"


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    """Names that the table at ``path`` of the configuration may hold."""
    here: Any = Config
    for part in path:
        model = _model_in(here)
        if model is not None and part in model.model_fields:
            here = model.model_fields[str(part)].annotation
    model = _model_in(here)
    fields = model.model_fields.items() if model else ()
    return [field.alias or name for name, field in fields]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is, or is a list or a table of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
