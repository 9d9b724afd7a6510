"""Paying a region what a rollout skipped while it was down, whenever it comes back."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.workflow import ParentClosePolicy

from models.contracts import Region, RetireRequest, RingRequest, StageRequest
from models.deployment import Approval
from models.receipts import Draft
from models.rollout import Debt
from models.steps import DebtOrder, JudgeRelease
from workflows import steps
from workflows.journey import Journey
from workflows.regions import RegionCalls, error_type
from workflows.verification import approval_of


@workflow.defn(name="SettleDebt")
class SettleDebt:
    """Bring one region to the release the rest of the fleet runs.

    It keeps the rollout's epoch: when a newer rollout has touched the region, the region refuses
    and the debt is void, because that rollout covers these shards.
    """

    @workflow.run
    async def run(self, order: DebtOrder) -> str:
        self._order = order
        waiting: list[str] = []
        calls = RegionCalls(waiting, timedelta(seconds=order.ask_every_seconds), self._show)
        self._show()
        try:
            await self._pay(calls)
            end = "debt.paid"
        except ApplicationError as error:
            if error_type(error) != "StaleEpoch":
                raise
            end = "debt.void"
        await steps.record(self._draft(end))
        return end

    async def _pay(self, calls: RegionCalls) -> None:
        order, region = self._order, self._order.region
        approval = await self._verified()
        stage = StageRequest(rollout=order.rollout, epoch=order.epoch, release=order.release)
        staged = await calls.insist(region, Region.stage, stage, summary=f"stage in {region}")
        if not staged.healthy:
            raise ApplicationError(
                f"the release does not become healthy in {region}: {staged.detail}",
                non_retryable=True,
            )
        for debt in order.debts:
            ring = RingRequest(
                rollout=order.rollout,
                epoch=order.epoch,
                ring=debt.ring,
                release=order.release,
                shards=debt.shards,
                max_concurrent=len(debt.shards),
                approval=approval,
            )
            summary = f"ring {debt.ring} in {region}: {len(debt.shards)} shard(s)"
            await calls.insist(region, Region.activate, ring, summary=summary)
        retire = RetireRequest(rollout=order.rollout, epoch=order.epoch, keep=[])
        await calls.insist(region, Region.retire, retire, summary=f"tidy up {region}")

    async def _verified(self) -> Approval | None:
        """What lets the release through now: it may be long since the rollout was.

        Asked until there is an answer, as the region itself is.

        Raises:
            ApplicationError: the release is refused, and the debt stays unpaid.
        """
        order = self._order
        if order.approval is None:
            return None
        attempt = 0
        while True:
            attempt += 1
            step = JudgeRelease(
                release=order.release, phase=f"debt of {order.region}", attempt=attempt
            )
            judged = await steps.judge_release(step)
            if judged.may_go_on:
                return approval_of(judged, order.approval.deployer)
            if judged.verdict.outcome == "fail":
                why = f"{order.region} is not brought to the release: {judged.verdict.why}"
                raise ApplicationError(why, type="ReleaseRefused", non_retryable=True)
            await workflow.sleep(timedelta(seconds=max(1, order.ask_every_seconds)))

    def _show(self) -> None:
        order = self._order
        owed = sum(len(debt.shards) for debt in order.debts)
        workflow.set_current_details(
            f"{owed} shard(s) owed to **{order.region}** since `{order.rollout}`"
        )

    def _draft(self, kind: str) -> Draft:
        info, order = workflow.info(), self._order
        return Draft(
            kind=kind,
            actor="chainring",
            subject=order.rollout,
            body={"region": order.region, "rings": [debt.ring for debt in order.debts]},
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            idempotency_key=f"{info.workflow_id}/{info.run_id}/{kind}",
        )


async def settle_debts(journey: Journey) -> None:
    """Hand each region's debts to a workflow of its own, which outlives the rollout."""
    owed: dict[str, list[Debt]] = {}
    for debt in journey.status.debts:
        owed.setdefault(debt.region, []).append(debt)
    rollout = workflow.info().workflow_id

    async def hand_over(region: str) -> None:
        await workflow.start_child_workflow(
            SettleDebt.run,
            DebtOrder(
                rollout=rollout,
                epoch=journey.epoch,
                release=journey.settings.release,
                region=region,
                debts=owed[region],
                ask_every_seconds=journey.settings.rollout.region_down_after_seconds,
                approval=journey.approval,
            ),
            id=f"debt/{rollout}/{region}",
            parent_close_policy=ParentClosePolicy.ABANDON,
        )

    await asyncio.gather(*(hand_over(region) for region in sorted(owed)))
