"""Effects of verification: judge a release, keep what was judged, and write the receipt."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import final_errors
from activities.heartbeats import beating
from models.receipts import Draft, StoredReceipt
from models.release_verdict import Judged, ReleaseVerdict
from models.steps import JudgeRelease, ResolvedRelease, ResolveRelease
from models.verification_policy import VerificationPolicy
from stores.ledger import Ledger, utc_now
from stores.oci import ImageLayout
from stores.overrides import OverrideStore

JUDGED = "release.judged"
TRIES = 3
"""How often a question without an answer is asked before that is the verdict."""

Heartbeat = Callable[[str], None]


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the policy that it was given under where that could be read."""

    verdict: ReleaseVerdict
    policy: VerificationPolicy | None


class ReleaseVerifier(Protocol):
    """Judges releases. There is no default: whoever wires a control worker has to say which."""

    def verify(self, release: str, *, phase: str, at: datetime, heartbeat: Heartbeat) -> Judgement:
        """Gather the evidence of ``release``, keep it, and judge it as of ``at``.

        Whatever goes wrong is in the verdict: what cannot be read is never a pass.
        """


class VerificationActivities:
    """What the control worker does to answer whether a release may run."""

    def __init__(
        self,
        *,
        verifier: ReleaseVerifier,
        layout: ImageLayout,
        ledger: Ledger,
        overrides: OverrideStore,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._verifier = verifier
        self._layout = layout
        self._ledger = ledger
        self._overrides = overrides
        self._clock = clock

    @activity.defn
    @final_errors
    def resolve_release(self, step: ResolveRelease) -> ResolvedRelease:
        """The digest that a reference stands for now.

        Raises:
            ReleaseError: there is no such release.
        """
        digest = self._layout.resolve(step.reference)
        described = self._layout.describe(digest)
        return ResolvedRelease(release=digest, name=described.name, version=described.version)

    @activity.defn
    @final_errors
    def judge_release(self, step: JudgeRelease) -> Judged:
        """Judge a release now; the same judgement, asked for again, is the one that was recorded.

        Raises:
            ApplicationError: there was no answer yet; it is asked `TRIES` times in all.
        """
        key = _key(step)
        recorded = self._ledger.find(key)
        if recorded is not None:
            return _recorded(recorded)
        now = self._clock()
        with beating():
            judgement = self._verifier.verify(
                step.release, phase=step.phase, at=now, heartbeat=activity.heartbeat
            )
        verdict = judgement.verdict
        if verdict.outcome == "error" and activity.info().attempt < TRIES:
            raise ApplicationError(verdict.why, type="VerificationUnavailable")
        policy, override, tolerated = judgement.policy, None, ""
        if verdict.outcome != "pass":
            override = next(iter(self._overrides.in_force(now, step.release)), None)
            tolerated = _tolerated(step, policy)
        judged = Judged(
            verdict=verdict,
            seq=0,
            override=override,
            tolerated=tolerated,
            roll_back=policy is None or policy.rollout.refused_midway == "roll_back",
        )
        [appended] = self._ledger.append([_draft(judged, key)])
        return judged.model_copy(update={"seq": appended.seq})


def _tolerated(step: JudgeRelease, policy: VerificationPolicy | None) -> str:
    """Why a verdict that is no pass holds nothing up.

    A way back is kept open unless the policy, read and understood, closes it.
    """
    if step.phase != "rollback" or (policy and policy.rollback.target_refused == "refuse"):
        return ""
    return "a rollback goes to it all the same: the policy warns of a refused target"


def _key(step: JudgeRelease) -> str:
    info = activity.info()
    run = f"{info.workflow_id}/{info.workflow_run_id}"
    return f"{run}/judged/{step.phase}/{step.attempt}/{step.release}"


def _draft(judged: Judged, key: str) -> Draft:
    info = activity.info()
    body = judged.model_dump(mode="json", exclude={"seq"})
    return Draft(
        kind=JUDGED,
        actor="chainring",
        subject=judged.verdict.release,
        body=body | {"verdict_digest": judged.verdict.digest()},
        workflow_id=info.workflow_id or "",
        run_id=info.workflow_run_id or "",
        idempotency_key=key,
    )


def _recorded(stored: StoredReceipt) -> Judged:
    body = dict(stored.receipt.body)
    body.pop("verdict_digest")
    return Judged.model_validate({**body, "seq": stored.seq})
