"""Runs before a release's program, in its process: ties its life to the host's, then becomes it.

Started as ``python -S -E host_launch.py HOST_PID PROGRAM ARGUMENT...`` and imports nothing of
Chainring, since it is on the path of every start.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
NOT_STARTED = 127  # what a shell answers for a command that is not there


def main() -> None:
    """Become the program; exits instead when the host ended before its death could be watched."""
    host = int(sys.argv[1])
    command = sys.argv[2:]
    if sys.platform == "linux":
        _die_with_parent()
    if os.getppid() != host:  # it ended before the line above took effect
        sys.exit(NOT_STARTED)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump holds tenants' data
    try:
        os.execvp(command[0], command)  # noqa: S606 - the program is the release itself
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that forked this process ends.

    The host forks from its main thread only, so that is when the host ends, however it ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
