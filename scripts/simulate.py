"""Whole histories of a region by seed: writes, crashes, outages, damage, failovers, restores.

    scripts/simulate.py [--seeds 1000] [--start 0] [--steps 60] [--jobs 2] [--postgres]

After each history every acknowledged write is in the primary, or a restore has said that it is not;
nothing else is there; the chain verifies; a store that was the primary takes no write. A seed that
breaks this is printed with its trace, and the exit code is 1.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from sim_history import Outcome, simulate


def _play(seed: int, steps: int, postgres: bool) -> Outcome:
    logging.disable(logging.CRITICAL)
    if not postgres:
        return simulate(seed, length=steps)
    from postgres import fresh_database  # noqa: PLC0415 - brings a server with it

    with ExitStack() as stack:
        return simulate(seed, lambda _name: stack.enter_context(fresh_database()), steps)


def _shortest(play: Callable[[int], Outcome], found: Outcome, steps: int) -> tuple[Outcome, int]:
    """The same violation after as few steps as it takes: a history's beginning is its own."""
    for fewer in range(min(steps, len(found.trace))):
        shorter = play(fewer)
        if shorter.violation:
            return shorter, fewer
    return found, steps


def _outcomes(seeds: Sequence[int], options: argparse.Namespace) -> Iterator[Outcome]:
    play = partial(_play, steps=options.steps, postgres=options.postgres)
    if options.jobs == 1:
        yield from map(play, seeds)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        yield from pool.map(play, seeds, chunksize=4)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--steps", type=int, default=60, help="of each history, before its end")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--postgres", action="store_true", help="stores in PostgreSQL, not SQLite")
    options = parser.parse_args(arguments)
    began, violated = time.monotonic(), []
    kind = " --postgres" if options.postgres else ""
    for found in _outcomes(range(options.start, options.start + options.seeds), options):
        if not found.violation:
            continue
        violated.append(found.seed)
        print(f"seed {found.seed}: {found.violation}", flush=True)
        again = partial(_play, found.seed, postgres=options.postgres)
        shown, steps = _shortest(lambda fewer: again(steps=fewer), found, options.steps)  # noqa: B023
        print("\n".join(f"    {each[:300]}" for each in shown.trace))
        print(f"  violated: {shown.violation}")
        print(
            f"  again: scripts/simulate.py --seeds 1 --start {found.seed} --steps {steps}{kind}",
            flush=True,
        )
    taken = time.monotonic() - began
    print(f"{options.seeds} seeds in {taken:.0f} s, {len(violated)} violated: {violated}")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
