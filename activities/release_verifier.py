"""The verifier of the control plane: evidence from the registry, judged under the policy's file.

Every part is read anew for each judgement: a policy, a trust root or a database that changed counts
from the next look on. Every part is archived before the verdict is given.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from activities.judging import (
    DAMAGED,
    Inputs,
    artifact_bytes,
    components,
    contents_bytes,
    gathered,
    judge_inputs,
    no_verdict,
    report_bytes,
    rules,
)
from activities.verification import Heartbeat, Judgement
from models.config import Config, ConfigError, load_config
from models.oci import decode
from models.release_evidence import Artifact
from models.sbom import Component
from models.strict_json import EvidenceError
from models.trust import read_trust_root
from models.verification_policy import PolicyError, VerificationPolicy, load_policy
from stores.blobs import ReleaseCorrupt, ReleaseError, ReleaseNotFound
from stores.evidence_archive import ArchiveError, EvidenceArchive
from stores.oci import ImageLayout
from stores.registry_client import RegistryRefused
from stores.release_registry import ReleaseRegistry
from stores.sbom_contents import read_contents
from stores.sql import StoreUnavailable
from stores.vulnerability_report import LookedUp, Spoken

_T = TypeVar("_T")
_UNREADABLE = (OSError, StoreUnavailable, ReleaseError, EvidenceError, PolicyError, ConfigError)
KEPT_CONTENTS = 16


class VulnerabilitySource(Protocol):
    """What is known against components."""

    def look_up(self, release: str, components: Sequence[Component], *, at: datetime) -> LookedUp:
        """Look components up.

        Args:
            release: that VEX statements and exceptions must be about.

        Raises:
            StoreUnavailable, OSError: the database does not answer.
        """


@dataclass
class _Found:
    """Inputs as they are gathered."""

    problems: dict[str, str] = field(default_factory=dict)

    def attempt(self, what: str, read: Callable[[], _T]) -> _T | None:
        """What ``read`` returns; None, with the reason noted, where it cannot."""
        try:
            return read()
        except _UNREADABLE as error:
            self.problems[what] = str(error)[:2000]
            return None


class RegistryVerifier:
    """Judges releases of one registry; see `activities.verification.ReleaseVerifier`.

    Args:
        layout: has the artifact's blobs, or pulls them from the registry.
        registry: is asked for manifest and evidence at every judgement; never a cache.
    """

    def __init__(
        self,
        *,
        layout: ImageLayout,
        registry: ReleaseRegistry,
        archive: EvidenceArchive,
        vulnerabilities: VulnerabilitySource,
        policy: Path,
        trust_root: Path,
        config: Path,
    ) -> None:
        self._layout = layout
        self._registry = registry
        self._archive = archive
        self._vulnerabilities = vulnerabilities
        self._policy = policy
        self._trust_root = trust_root
        self._config = config
        self._contents: dict[str, bytes] = {}

    def verify(self, release: str, *, phase: str, at: datetime, heartbeat: Heartbeat) -> Judgement:
        """Gather, archive, judge."""
        inputs = self._gather(release, at, heartbeat)
        try:
            inputs.keep(self._archive)
        except (OSError, ArchiveError) as error:
            why = f"the evidence archive does not take what is to be judged: {error}"
            named = inputs.digests()
            return Judgement(no_verdict(why, named, release=release, phase=phase, at=at), None)
        heartbeat("judging")
        verdict = judge_inputs(inputs, release=release, phase=phase, at=at)
        try:
            policy = rules(inputs)[0]
        except (PolicyError, EvidenceError):
            policy = None
        return Judgement(verdict, policy)

    def _gather(self, release: str, at: datetime, heartbeat: Heartbeat) -> Inputs:
        found = _Found()
        policy = found.attempt("policy", self._read_policy)
        trust = found.attempt("trust root", lambda: read_trust_root(self._trust_root.read_bytes()))
        artifact = found.attempt("artifact", lambda: self._read_artifact(release))
        heartbeat("the artifact is read")
        # A registry that did not give the artifact is not asked again: each silence takes long.
        bundles = () if artifact is None else self._read_evidence(release, found)
        if artifact is None:
            found.problems["listing"] = found.problems["artifact"]
        contents = None
        if artifact is not None and not artifact.problems:
            contents = found.attempt("contents", lambda: self._read_contents(release))
        heartbeat("the evidence is read")
        inputs = Inputs(
            policy=None if policy is None else policy.to_bytes(),
            trust_root=None if trust is None else trust.to_bytes(),
            artifact=None if artifact is None else artifact_bytes(artifact),
            bundles=bundles,
        )
        known = None
        if policy is not None and trust is not None:
            evidence = gathered(inputs, policy, trust, release=release, at=at)
            parts = components(evidence, policy)
            if parts is not None:
                look_up = partial(self._vulnerabilities.look_up, release, parts, at=at)
                known = found.attempt("vulnerabilities", look_up)
        return replace(
            inputs,
            contents=contents,
            vulnerabilities=None if known is None else report_bytes(known.report),
            advisories=None if known is None else known.advisories,
            spoken=Spoken() if known is None else known.spoken,
            problems=dict(found.problems),
        )

    def _read_policy(self) -> VerificationPolicy:
        """The policy's file, and the feeds that the configuration adds to it."""
        policy = load_policy(self._policy.read_text())
        return with_feeds(policy, load_config(self._config.read_text()))

    def _read_artifact(self, release: str) -> Artifact:
        """The manifest and every blob, against their digests."""
        problems: list[str] = []
        try:
            manifest = decode(self._registry.manifest_bytes(release))
            media_type = str(manifest.get("mediaType", ""))
        except ReleaseNotFound:
            raise
        except (ReleaseCorrupt, ValueError) as error:
            return Artifact(digest=release, media_type="", problems=[str(error)])
        name = version = ""
        try:
            self._layout.verify(release)
            spec = self._layout.describe(release)
            name, version = spec.name, spec.version
        except RegistryRefused:
            raise
        except ReleaseError as error:
            problems.append(str(error))
        return Artifact(
            digest=release, media_type=media_type, name=name, version=version, problems=problems
        )

    def _read_evidence(self, release: str, found: _Found) -> tuple[bytes, ...]:
        try:
            return tuple(self._registry.evidence(release))
        except (ReleaseNotFound, RegistryRefused) as error:
            found.problems["listing"] = str(error)
        except (ReleaseError, EvidenceError) as error:
            found.problems[DAMAGED] = str(error)
        except (OSError, StoreUnavailable) as error:
            found.problems["listing"] = f"the registry does not answer: {error}"
        return ()

    def _read_contents(self, release: str) -> bytes:
        """What is in the artifact: a function of its digest, so it is looked at once."""
        if release not in self._contents:
            with tempfile.TemporaryDirectory(prefix="chainring-verify-") as scratch:
                root = self._layout.unpack(release, Path(scratch) / "release")
                content = contents_bytes(read_contents(root))
            if len(self._contents) >= KEPT_CONTENTS:
                self._contents.pop(next(iter(self._contents)))
            self._contents[release] = content
        return self._contents[release]


def with_feeds(policy: VerificationPolicy, config: Config) -> VerificationPolicy:
    """A policy that also requires the vulnerability databases that the configuration names."""
    rules = policy.vulnerabilities
    feeds = sorted({*rules.required_sources, *config.sbom.vulnerability_databases})
    wider = rules.model_copy(update={"required_sources": feeds})
    return policy.model_copy(update={"vulnerabilities": wider})
