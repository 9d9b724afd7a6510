"""Effects of telling a region's tenants: the inbox that all of them share, and the webhook."""

from collections.abc import Callable
from datetime import UTC, datetime

from temporalio import activity

from activities.errors import final_errors
from activities.heartbeats import alive
from models.notices import Notice, NoticeKind, Posted
from stores.notices import NoticeBoard
from stores.webhook import Webhook


class NoticeActivities:
    """What the recovery worker tells one region's tenants.

    Args:
        wanted: whether the configuration has tenants told.
        webhook: None: there is none.
    """

    def __init__(
        self, board: NoticeBoard, *, wanted: Callable[[], bool], webhook: Webhook | None
    ) -> None:
        self._board = board
        self._wanted = wanted
        self._webhook = webhook

    @activity.defn
    @final_errors
    @alive
    def post_notice(self, kind: NoticeKind) -> Posted:
        """Put a notice into every tenant's inbox, unless the newest one there says the same."""
        if not self._wanted():
            return Posted()
        made = self._board.post(kind, at=datetime.now(UTC))
        if made is not None:
            said = made.model_dump_json()
            activity.logger.warning("notice to all tenants: %s", said)
        notice = made or self._board.newest(kind)  # posted by a try whose answer was lost
        return Posted(notice=notice, deliver=notice is not None and self._webhook is not None)

    @activity.defn
    @final_errors
    def deliver_notice(self, notice: Notice) -> None:
        """Send a notice to the webhook."""
        if self._webhook is not None:
            self._webhook.send(notice)
