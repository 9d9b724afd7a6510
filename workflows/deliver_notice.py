"""`DeliverNotice`: bring one notice to the webhook, however long that is down."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from models.notices import Notice
from workflows.journey import STATE

PATIENCE = timedelta(days=1)
RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=5))


@workflow.defn(name="DeliverNotice")
class DeliverNotice:
    """One a notice, by its id; nothing waits for it. It fails when the webhook never takes it."""

    @workflow.init
    def __init__(self, notice: Notice) -> None:
        self._delivered = False

    @workflow.run
    async def run(self, notice: Notice) -> None:
        workflow.upsert_search_attributes([STATE.value_set("delivering")])
        workflow.set_current_details(f"**delivering** {notice.number}: {notice.message}")
        await workflow.execute_activity(
            "deliver_notice",
            notice,
            summary=f"send notice {notice.number} to the webhook",
            start_to_close_timeout=timedelta(minutes=1),
            schedule_to_close_timeout=PATIENCE,
            retry_policy=RETRIES,
        )
        self._delivered = True
        workflow.upsert_search_attributes([STATE.value_set("delivered")])
        workflow.set_current_details(f"**delivered** {notice.number}: {notice.message}")

    @workflow.query
    def status(self) -> bool:
        """Whether the webhook has it."""
        return self._delivered
