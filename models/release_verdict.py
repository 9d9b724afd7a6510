"""What verification says about a release: checks, one outcome over all of them, and their inputs.

Three outcomes, kept apart. ``pass`` alone lets a release run. ``fail``: the evidence speaks against
it, or is not there. ``error``: the question could not be answered - a store that does not answer, a
scanner without data - which is never a pass, but which a person may ask again.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from models.break_glass import Override
from models.canonical import canonical
from models.ids import Actor, Digest, short
from models.verification_status import VerificationStatus

Outcome = Literal["pass", "fail", "error"]

_WORST_FIRST: Final[tuple[Outcome, ...]] = ("fail", "error", "pass")
MAX_DETAILS = 50
"""Lines that a check keeps; one more says how many were left out."""

SAID = 3
"""Checks that are named in the one line that says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VerifyRequest(_Part):
    """Input of the workflow ``VerifyRelease``; only ``release`` is required."""

    release: str = Field(
        min_length=1, max_length=512, description="digest, or name:version as of now"
    )
    actor: Actor = "operator"
    reason: str = Field(default="", max_length=500)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several together; of none it is ``error``, because nothing was judged.

    What speaks against a release outranks what could not be asked.
    """
    return min(outcomes, key=_WORST_FIRST.index, default="error")


class Check(_Part):
    """One question asked of the evidence, and its answer."""

    name: str
    outcome: Outcome
    why: str
    details: list[str] = Field(default=[], max_length=MAX_DETAILS + 1)


class VerdictInputs(_Part):
    """Digests of all that was judged; each is kept in the evidence archive under its digest."""

    policy: Digest | None
    trust_root: Digest | None
    artifact: Digest | None = Field(description="what the registry's bytes were found to be")
    bundles: list[Digest] = Field(description="evidence as found, sorted")
    contents: Digest | None = Field(default=None, description="what is in the artifact")
    vulnerabilities: Digest | None = Field(
        default=None, description="what is known against the components, and as of when"
    )
    advisories: Digest | None = Field(
        default=None, description="what was read of the vulnerability database for that"
    )
    vex: dict[str, Digest] = Field(default={}, description="VEX documents, by their file names")
    exceptions: Digest | None = Field(default=None, description="the file of accepted risks")
    problems: Digest | None = Field(default=None, description="what could not be read, in words")


class ReleaseVerdict(_Part):
    """One judgement over the whole set of a release's evidence."""

    release: Digest
    phase: str = Field(description="why it was judged: verify, start, ring <name>, running, ...")
    at: AwareDatetime = Field(description="the time that ages and validities were judged by")
    outcome: Outcome
    why: str
    checks: list[Check]
    inputs: VerdictInputs
    source: str = Field(default="", description="repository@commit that all of the evidence names")
    builder: str = ""

    def digest(self) -> str:
        """SHA-256 of the verdict as canonical JSON (RFC 8785), ``sha256:<hex>``."""
        return "sha256:" + sha256(canonical(self.model_dump(mode="json"))).hexdigest()

    def failed(self) -> Iterator[Check]:
        """The checks that did not pass, those that failed first."""
        for outcome in _WORST_FIRST[:-1]:
            yield from (check for check in self.checks if check.outcome == outcome)

    def cause(self) -> str:
        """What refused the release, without what changes from one look to the next.

        The same cause found again is the same incident: names of checks and their details, no
        times and no ages.
        """
        return "; ".join(
            f"{check.name}: {', '.join(check.details) or check.why}" for check in self.failed()
        )


class Judged(_Part):
    """A verdict with its receipt, and what lets the release through in spite of it."""

    verdict: ReleaseVerdict
    seq: int = Field(ge=0, description="of the receipt ``release.judged`` in the control ledger")
    override: Override | None = Field(default=None, description="a break-glass in force")
    tolerated: str = Field(
        default="", description="why the policy lets it through although it does not pass"
    )
    roll_back: bool = Field(
        default=True, description="whether a rollout that is under way goes back when it is refused"
    )

    @property
    def may_go_on(self) -> bool:
        """Whether the release may be put where it was judged for."""
        return self.verdict.outcome == "pass" or self.override is not None or bool(self.tolerated)

    def status(self) -> VerificationStatus:
        """The judgement in short."""
        verdict = self.verdict
        return VerificationStatus(
            phase=verdict.phase,
            outcome=verdict.outcome,
            why=verdict.why,
            verdict=verdict.digest(),
            seq=self.seq,
            findings=[f"{check.name}: {check.why}" for check in verdict.failed()],
            override=self.override.words() if self.override else self.tolerated,
        )


def conclude(checks: Iterable[Check]) -> tuple[Outcome, str]:
    """The outcome over all checks, and why in one line."""
    checks = list(checks)
    outcome = worst(check.outcome for check in checks)
    if outcome == "pass":
        return outcome, f"all {len(checks)} checks passed"
    said = [f"{check.name}: {check.why}" for check in checks if check.outcome == outcome]
    more = [f"and {len(said) - SAID} more"] if len(said) > SAID else []
    return outcome, "; ".join([*said[:SAID], *more]) or "nothing was checked"


def limited(details: Iterable[str]) -> list[str]:
    """At most `MAX_DETAILS` lines, and one that says how many more there are."""
    lines = list(details)
    more = len(lines) - MAX_DETAILS
    return lines if more <= 0 else [*lines[:MAX_DETAILS], f"and {more} more"]


def render_verdict(verdict: ReleaseVerdict) -> str:
    """The verdict for a person, in Markdown: one line, a table of the checks, what did not pass."""
    lines = [
        f"**Release `{short(verdict.release)}`: {verdict.outcome.upper()}** ({verdict.phase}, "
        f"{verdict.at:%Y-%m-%d %H:%M:%SZ})",
        "",
        _cell(verdict.why),
        "",
    ]
    if verdict.source:
        lines += [f"Built from `{_cell(verdict.source)}` by `{_cell(verdict.builder)}`.", ""]
    lines += ["| check | outcome | why |", "|---|---|---|"]
    lines += [
        f"| {check.name} | {check.outcome} | {_cell(check.why)} |" for check in verdict.checks
    ]
    found = [
        f"- **{check.name}**: {_cell(detail)}"
        for check in verdict.failed()
        for detail in check.details
    ]
    inputs = verdict.inputs
    lines += ["", *found] if found else []
    lines += [
        "",
        f"Policy {_short(inputs.policy)}, trust root {_short(inputs.trust_root)}, "
        f"{len(inputs.bundles)} bundles, vulnerability data {_short(inputs.vulnerabilities)}.",
    ]
    return "\n".join(lines)


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"`{short(digest)}`"


def _cell(text: str) -> str:
    """Text from evidence, which must not be able to draw a table of its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
