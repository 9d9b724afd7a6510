"""Effects of break-glass: put an override in force, and end it."""

from collections.abc import Mapping

from temporalio import activity

from activities.errors import final_errors
from models.break_glass import EndOverride, Override, short_state
from models.receipts import Draft
from stores.overrides import OverrideStore


class OverrideActivities:
    """What the control worker does for the workflow ``BreakGlass``."""

    def __init__(self, store: OverrideStore) -> None:
        self._store = store

    @activity.defn
    @final_errors
    def grant_override(self, override: Override) -> Override:
        """Put an override in force, once; its receipt is in the same transaction."""
        body = override.model_dump(mode="json", exclude={"id"})
        draft = _draft("breakglass.approved", override.id, override.approved_by, body, "approved")
        return self._store.grant(override, draft)

    @activity.defn
    @final_errors
    def end_override(self, step: EndOverride) -> None:
        """Let an override count no more."""
        what = short_state(step.state)
        body = {"release": step.release, "reason": step.reason}
        self._store.end(step.id, _draft(f"breakglass.{what}", step.id, step.actor, body, what))


def _draft(kind: str, subject: str, actor: str, body: Mapping[str, object], step: str) -> Draft:
    info = activity.info()
    return Draft.model_validate(
        {
            "kind": kind,
            "actor": actor,
            "subject": subject,
            "body": dict(body),
            "workflow_id": info.workflow_id or "",
            "run_id": info.workflow_run_id or "",
            "idempotency_key": f"{subject}/{info.workflow_run_id}/{step}",
        }
    )
