"""One region's recovery process, which kills itself: ``recovery_process.py eu "clear after 1"``.

From the moment that the file ``armed`` is in the region's directory it counts the calls of one
effect, dies ``before`` or ``after`` the n-th one does its work, and leaves the file ``killed``. The
next process goes on. ``put`` may name a folder of the backup: then only objects in it count.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from activities import recovery
from stores.ledger import Ledger
from stores.objects_local import LocalObjects
from stores.pointer import PrimaryPointer
from stores.primary import PrimaryFile
from stores.spool import Spool
from stores.witness import Witness
from workers.recovery import run_recovery
from workers.settings import region_file

EFFECTS: dict[str, tuple[Any, str]] = {
    "put": (LocalObjects, "put"),
    "witness": (Witness, "admit"),
    "target": (recovery, "create_target"),
    "settle": (recovery, "settle"),
    "receipt": (Ledger, "append"),
    "point": (PrimaryPointer, "move"),
    "switch": (PrimaryFile, "switch"),
    "clear": (Spool, "clear"),
}


def arm(place: Path, point: str) -> None:
    """Have one effect be deadly."""
    what, when, number = point.split()
    name, _, folder = what.partition(":")
    owner, attribute = EFFECTS[name]
    work, left = getattr(owner, attribute), [int(number)]

    def deadly(*arguments: Any, **named: Any) -> Any:
        counts = (place / "armed").exists() and (not folder or f"/{folder}/" in arguments[1])
        left[0] -= counts
        if counts and when == "before" and left[0] == 0:
            die(place)
        result = work(*arguments, **named)
        if counts and when == "after" and left[0] == 0:
            die(place)
        return result

    setattr(owner, attribute, deadly)


def die(place: Path) -> None:
    (place / "killed").touch()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    region, point = sys.argv[1:]
    place = region_file(region).parent
    if not (place / "killed").exists():
        arm(place, point)
    sys.exit(asyncio.run(run_recovery([region])))
