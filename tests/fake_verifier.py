"""A verifier that says what a test told it to: everything passes until then."""

from collections import defaultdict
from datetime import datetime

from activities.verification import Heartbeat, Judgement
from models.release_verdict import Check, Outcome, ReleaseVerdict, VerdictInputs, conclude
from models.verification_policy import VerificationPolicy

DIGEST = "sha256:" + "0" * 64


class FakeVerifier:
    """In place of the real one, for tests of what follows from a verdict."""

    def __init__(self) -> None:
        self.policy = VerificationPolicy()
        self.otherwise: Outcome = "pass"
        """What it says of releases that no test spoke of."""
        self.asked: list[tuple[str, str]] = []
        self._says: dict[str, dict[str, Outcome]] = defaultdict(dict)

    def reset(self) -> None:
        self.policy = VerificationPolicy()
        self.otherwise = "pass"
        self._says.clear()

    def say(self, release: str, outcome: Outcome, phase: str = "") -> None:
        """From now on, in one phase or in all."""
        self._says[release][phase] = outcome

    def phases(self, release: str) -> list[str]:
        """What a release was judged for, in order."""
        return [phase for asked, phase in self.asked if asked == release]

    def verify(self, release: str, *, phase: str, at: datetime, heartbeat: Heartbeat) -> Judgement:
        heartbeat("asked")
        self.asked.append((release, phase))
        says = self._says[release]
        outcome = says.get(phase, says.get("", self.otherwise))
        check = Check(name="sbom", outcome=outcome, why=f"the test says {outcome}")
        result, why = conclude([check])
        inputs = VerdictInputs(policy=DIGEST, trust_root=DIGEST, artifact=None, bundles=[])
        verdict = ReleaseVerdict(
            release=release,
            phase=phase,
            at=at,
            outcome=result,
            why=why,
            checks=[check],
            inputs=inputs,
        )
        return Judgement(verdict, self.policy)
