#!/usr/bin/env python
"""Many rollouts with seeded faults on a real stack, and the same questions after each.

    scripts/faults.py --seeds 50 --minutes 30
    scripts/faults.py --seed 17          # that one again, on a stack of its own

A seed decides what is rolled out and how it has to end, which processes are killed (kill -9) or
put to sleep (SIGSTOP) and how far the rollout is then. Each seed is a line; a violation keeps the
stack's home for a look, goes on with a new stack, and makes the exit status 1.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from embedded import running_stack, start, status_of
from faults_harness import (
    BESIDE_THE_REQUESTS,
    BROKEN,
    QUICK,
    Fleet,
    Moment,
    ended,
    freeze,
    hurt,
    lost,
)
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError

from models.rollout import AbortDecision

VICTIMS = (
    *("control", "region-eu", "region-us-east", "temporal", "gateway"),
    *("envoy-eu", "envoy-us-east", "release", "host"),
)
SLEEPERS = ("region-eu", "region-us-east")
LONGEST = 180.0  # seconds that a rollout may take to end, whatever happens


@dataclass(frozen=True)
class Fault:
    """One process hurt: killed, or asleep for ``sleep_s`` when that is above 0."""

    victim: str
    moment: Moment
    sleep_s: float

    def __str__(self) -> str:
        how = f"sleep {self.sleep_s:g} s" if self.sleep_s else "kill"
        return f"{how} {self.victim} at {self.moment.switched}+{self.moment.delay_s:g} s"


@dataclass(frozen=True)
class Scenario:
    """What a seed stands for; ``abort``: when a person stops the rollout."""

    seed: int
    bad: bool
    abort: Moment | None
    faults: tuple[Fault, ...]

    @staticmethod
    def drawn(seed: int) -> "Scenario":
        chance = random.Random(seed)
        kind = chance.choices(("good", "abort", "bad"), (6, 2, 2))[0]
        faults = [_fault(chance, 2 if kind == "bad" else 20) for _ in range(chance.randint(1, 3))]
        return Scenario(
            seed=seed,
            bad=kind == "bad",
            abort=Moment.drawn(chance, 18) if kind == "abort" else None,
            faults=tuple(sorted(faults, key=lambda fault: fault.moment.switched)),
        )

    def __str__(self) -> str:
        kind = "bad" if self.bad else "abort" if self.abort else "good"
        return f"seed {self.seed}: {kind}; {', '.join(map(str, self.faults))}"


def _fault(chance: random.Random, most: int) -> Fault:
    moment = Moment.drawn(chance, most)
    if chance.random() < 0.2:
        return Fault(chance.choice(SLEEPERS), moment, round(chance.uniform(1, 12), 1))
    return Fault(chance.choice(VICTIMS), moment, 0.0)


async def play(fleet: Fleet, scenario: Scenario, run: int) -> tuple[str, list[str]]:
    """Run a scenario; how the rollout ended, and what is wrong."""
    before, since = fleet.present(), fleet.mark()
    release = fleet.digests[BROKEN] if scenario.bad else fleet.other()
    client = await fleet.stack.client()
    with fleet.traffic() as answers:
        handle = await start(
            client, f"faults/{scenario.seed}/{run}", release=release, **_request(scenario)
        )
        hurting = asyncio.gather(
            _abort(fleet, scenario, since, handle), _hurt(fleet, scenario, since, handle)
        )
        status = await ended(handle, LONGEST)
        await hurting
        await fleet.recovered()
    wanted, end = {
        "completed": (release, not scenario.bad),
        "aborted": (before, scenario.abort is not None),
        "rolled back": (before, scenario.bad),
    }.get(status.state, (before, False))
    assert wanted is not None
    found = [] if end else [f"ended {status.state}: {status.why}"]
    found += fleet.violations(wanted)
    found += [f"left open: {each}" for each in await fleet.left_open(40)]
    if not scenario.bad and all(each.victim in BESIDE_THE_REQUESTS for each in scenario.faults):
        found += lost(answers)
    return status.state, found


def _request(scenario: Scenario) -> dict[str, Any]:
    if scenario.bad:
        again = "the fault run tries it again"
        return {"overrides": {"gates.min_samples": 10}, "accept_known_bad": again}
    return {"skip_gates": "no gate matters here", "overrides": QUICK}


async def _hurt(
    fleet: Fleet, scenario: Scenario, since: dict[str, int], handle: WorkflowHandle[Any, Any]
) -> None:
    chance = random.Random(scenario.seed)
    for fault in scenario.faults:
        await fault.moment.come(fleet, since, handle)
        if not fault.sleep_s:
            await hurt(fleet, fault.victim, chance, LONGEST)
            continue
        await freeze(fleet, fault.victim)
        await asyncio.sleep(fault.sleep_s)
        fleet.stack.thaw(fault.victim)


async def _abort(
    fleet: Fleet, scenario: Scenario, since: dict[str, int], handle: WorkflowHandle[Any, Any]
) -> None:
    if scenario.abort is None:
        return
    await scenario.abort.come(fleet, since, handle)
    decision = AbortDecision(actor="ana", reason="the fault run says so")
    while True:
        # Refused: it has ended or is ending. Unreachable: the server or the worker was killed.
        with contextlib.suppress(WorkflowUpdateFailedError):
            try:
                update = handle.execute_update("abort", decision, id=f"abort/{scenario.seed}")
                await asyncio.wait_for(update, 30)
            except (RPCError, TimeoutError):
                if (await asyncio.wait_for(status_of(handle), 30)).ended is None:
                    continue
        return


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--minutes", type=float, default=30.0, help="start no seed after that")
    parser.add_argument("--seed", type=int, help="only this one")
    return parser.parse_args(arguments)


async def _install(fleet: Fleet) -> None:
    client = await fleet.stack.client()
    handle = await start(
        client,
        "faults/install",
        release=fleet.digests["1.0.0"],
        skip_gates="first installation",
        overrides=QUICK,
    )
    status = await ended(handle)
    assert status.state == "completed", status.why


def _batch(scenarios: list[Scenario], until: float) -> tuple[int, str]:
    """Play scenarios on one stack up to the first violation; how many, and what it was."""
    home = Path(tempfile.mkdtemp(prefix="chainring-faults-"))
    with running_stack(home) as stack:
        fleet = Fleet(stack)
        asyncio.run(_install(fleet))
        for done, scenario in enumerate(scenarios):
            if time.monotonic() > until:
                break
            began = time.monotonic()
            print(f"{scenario}: ", end="", flush=True)
            try:
                state, found = asyncio.run(play(fleet, scenario, done))
            except Exception as error:  # the seed must be named, whatever went wrong
                state, found = "", [repr(error)]
            print(f"{state} in {time.monotonic() - began:.1f} s", flush=True)
            if found:
                lines = "\n".join(f"  {each[:400]}" for each in found[:20])
                print(f"VIOLATED, see {home}; again: --seed {scenario.seed}\n{lines}", flush=True)
                return done + 1, f"seed {scenario.seed}"
        else:
            done = len(scenarios)
    shutil.rmtree(home)
    return done, ""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    seeds = range(options.first, options.first + options.seeds)
    scenarios = [Scenario.drawn(seed) for seed in ([options.seed] if options.seed else seeds)]
    until, played, violated = time.monotonic() + 60 * options.minutes, 0, []
    while scenarios and time.monotonic() < until:
        done, trouble = _batch(scenarios, until)
        played, scenarios = played + done, scenarios[done:]
        violated += [trouble] if trouble else []
    print(f"{played} rollouts, {len(violated)} with a violation {', '.join(violated)}".rstrip())
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
