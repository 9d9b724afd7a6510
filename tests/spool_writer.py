"""A process that appends to a spool from several threads until it is killed.

Prints one line for each acknowledged record: its number and payload.
"""

import os
import resource
import sys
import threading
from pathlib import Path

from stores.spool import Spool, SpoolError


def main(directory: str, threads: str, largest: str) -> None:
    if int(largest):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
    spool = Spool(Path(directory), epoch=1)
    os.write(1, b"ready\n")

    def write(thread: int) -> None:
        for count in range(1_000_000):
            payload = f"{os.getpid()}-{thread}-{count}".encode() + b"x" * (count % 300)
            try:
                number = spool.append(payload)
            except SpoolError as error:
                os.write(1, f"refused {type(error).__name__}\n".encode())
                return
            os.write(1, b"%d %s\n" % (number, payload))

    running = [threading.Thread(target=write, args=(each,)) for each in range(int(threads))]
    for each in running:
        each.start()
    for each in running:
        each.join()


main(*sys.argv[1:])
