"""A process that drains a spool and kills itself at a step: 0 is before the first commit."""

import os
import signal
import sys
from pathlib import Path

from sqlalchemy import event

import stores.drain
from stores.drain import drain_and_clear
from stores.spool import Spool
from stores.sql import open_engine


def main(url: str, directory: str, at: str) -> None:
    steps = 0

    def step(*_: object) -> None:
        nonlocal steps
        if steps == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

    engine = open_engine(url)
    event.listen(engine, "commit", step)
    spool = Spool(Path(directory), epoch=2)
    clear, sweep = Spool.clear, Spool._sweep

    def stepwise(self: Spool, *arguments) -> None:
        step()
        clear(self, *arguments)
        step()

    def stepwise_sweep(self: Spool) -> None:
        step()
        sweep(self)

    Spool.clear, Spool._sweep = stepwise, stepwise_sweep  # type: ignore[method-assign]
    make = stores.drain._make

    def stepwise_make(*arguments, **named) -> int:
        made = make(*arguments, **named)
        step()
        return made

    stores.drain._make = stepwise_make
    print(drain_and_clear(engine, spool, rebuilt=False).model_dump_json())


main(*sys.argv[1:])
