"""Calls across the border, with the configured answer to a region that is down."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import nexusrpc
from temporalio import workflow
from temporalio.exceptions import (
    ApplicationError,
    NexusOperationError,
    TimeoutError,
    is_cancelled_exception,
)
from temporalio.workflow import NexusOperationCancellationType

from models.contracts import Contract, Region, endpoint

_Reply = TypeVar("_Reply")

# Temporal lets a request with less than 1.5 s left time out untried, and hurries one with 2 s
# (component.nexusoperations.minRequestTimeout): asking again would never end.
SHORTEST_WAIT = timedelta(seconds=3)
# Asking costs five events of a history that holds 51,200: at this pace it lasts for a month.
LONGEST_WAIT = timedelta(minutes=5)


class RegionUnreachable(Exception):
    """A region did not take up a request in time."""

    def __init__(self, region: str) -> None:
        super().__init__(f"region {region} does not answer")
        self.region = region


class RegionCalls:
    """Asks regions for one workflow, and keeps the list of those it waits for."""

    def __init__(
        self, waiting_for: list[str], down_after: timedelta, show: Callable[[], None]
    ) -> None:
        self._waiting_for = waiting_for
        self._down_after = max(down_after, SHORTEST_WAIT)
        self._show = show

    async def ask(
        self,
        region: str,
        operation: nexusrpc.Operation[Any, _Reply],
        request: Contract,
        *,
        summary: str,
        limit: timedelta | None = None,
        wait: timedelta | None = None,
    ) -> _Reply:
        """One request.

        Args:
            wait: how long it may take to be taken up; the configured time when absent.
            limit: how long the whole answer may take; without it, only being taken up is bounded.

        Raises:
            RegionUnreachable: not taken up, or with ``limit`` not answered, in time.
            ApplicationError: the region refused; its words and error type.
        """
        client = workflow.create_nexus_client(service=Region, endpoint=endpoint(region))
        starting = asyncio.create_task(
            client.start_operation(
                operation,
                request,
                schedule_to_start_timeout=wait or self._down_after,
                schedule_to_close_timeout=limit,
                cancellation_type=NexusOperationCancellationType.TRY_CANCEL,
                summary=summary,
            )
        )
        try:
            return await (await _started(starting))
        except NexusOperationError as error:
            if is_cancelled_exception(error):
                raise
            cause = root_cause(error)
            if isinstance(cause, TimeoutError):
                raise RegionUnreachable(region) from error
            raise ApplicationError(
                f"region {region}: {plain_words(cause)}",
                type=error_type(cause) or "RegionError",
                non_retryable=True,
            ) from error

    async def insist(
        self,
        region: str,
        operation: nexusrpc.Operation[Any, _Reply],
        request: Contract,
        *,
        summary: str,
        limit: timedelta | None = None,
        patient: Callable[[], bool] = lambda: True,
    ) -> _Reply:
        """Ask again for as long as ``patient`` says so, each time waiting longer for an answer.

        Raises:
            RegionUnreachable: the region did not answer and there is no patience (any more).
            ApplicationError: the region refused.
        """
        wait = self._down_after
        while True:
            try:
                reply = await self.ask(
                    region, operation, request, summary=summary, limit=limit, wait=wait
                )
            except RegionUnreachable:
                wait = max(wait, min(2 * wait, LONGEST_WAIT))
                if not patient():
                    self._note(region, waiting=False)
                    raise
                self._note(region, waiting=True)
                continue
            self._note(region, waiting=False)
            return reply

    def _note(self, region: str, *, waiting: bool) -> None:
        if waiting == (region in self._waiting_for):
            return
        if waiting:
            self._waiting_for.append(region)
        else:
            self._waiting_for.remove(region)
        self._show()


async def _started(
    starting: "asyncio.Task[workflow.NexusOperationHandle[_Reply]]",
) -> "workflow.NexusOperationHandle[_Reply]":
    """Wait until a region has taken up a request.

    Whoever stops waiting leaves the request to itself until then: the SDK (1.35) fails every
    further workflow task when an operation starts that was cancelled before (seen with a region
    that came back).
    """
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_cancel_once_started)
        raise


def _cancel_once_started(starting: "asyncio.Task[workflow.NexusOperationHandle[Any]]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().cancel()


def root_cause(error: BaseException) -> BaseException:
    """The innermost cause: the words a person needs, without the layers that carried them."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def plain_words(error: BaseException) -> str:
    """What the innermost cause says."""
    cause = root_cause(error)
    return getattr(cause, "message", "") or str(cause)


def error_type(error: BaseException) -> str:
    """The innermost cause's error type, as the activity or region named it."""
    return getattr(root_cause(error), "type", None) or ""
