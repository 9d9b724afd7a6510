"""A builder's worker process that kills itself once, at a point such as ``attach after 2``.

It dies ``before`` or ``after`` the n-th call of a method of the registry, the signer or the ledger
does its work, the answer not yet given, and leaves the file ``killed``. The next process goes on.
"""

import asyncio
import os
import signal
from pathlib import Path

import cyclonedx.validation.json  # noqa: F401  # slow to import, and each worker needs it
from build_harness import Builder
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from workers.children import die_with_parent


def die(home):
    (home / "killed").touch()
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Counts calls of one method over all that it is put around."""

    def __init__(self, inner, method, when, number, home):
        self._inner, self._method, self._when = inner, method, when
        self._left, self._home = [number], home

    def around(self, inner):
        made = Deadly(inner, self._method, self._when, 0, self._home)
        made._left = self._left
        return made

    def __getattr__(self, name):
        found = getattr(self._inner, name)
        if name != self._method:
            return found

        def deadly(*arguments, **named):
            self._left[0] -= 1
            if self._when == "before" and self._left[0] == 0:
                die(self._home)
            result = found(*arguments, **named)
            if self._when == "after" and self._left[0] == 0:
                die(self._home)
            return result

        return deadly


async def work(home, address, queue, point):
    """Work on a queue until the end that the point sets, or for ever."""
    builder = Builder(home, home.parent / "signers")
    if not (home / "killed").exists():
        method, when, number = point.split()
        activities, make = builder.activities, builder.activities._signer
        fatal = Deadly(None, method, when, int(number), home)
        activities._shelf = fatal.around(activities._shelf)
        activities._signer = lambda: fatal.around(make())
        builder.control._ledger = fatal.around(builder.ledger)
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    async with builder.worker(client, queue):
        await asyncio.sleep(600)


def run(home, address, queue, point):
    """What a worker process does; see above."""
    die_with_parent()
    asyncio.run(work(Path(home), address, queue, point))
