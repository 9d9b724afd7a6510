"""Free ports on loopback: for the stack's own processes, and for release processes.

Both lie below the range from which the system takes ports for outgoing connections, and apart from
each other: a release that starts must not take the port of a worker that is just being restarted.
"""

import random
import socket
from contextlib import ExitStack
from pathlib import Path

LOOPBACK = "127.0.0.1"
STACK_PORTS = range(20_000, 26_000)
_FIRST_RELEASE_PORT = STACK_PORTS.stop
_LAST_RESORT = 32_768  # where Linux begins with the ports of outgoing connections, unless told
_EPHEMERAL_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int, held: ExitStack) -> list[int]:
    """Ports for the processes of a stack, kept for them until ``held`` is closed.

    Kept means that no other call picks them; a server may listen on them all the while.

    Raises:
        OSError: there are not as many.
    """
    found: list[int] = []
    candidates = list(STACK_PORTS)
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if len(found) == count:
            break
        if _hold(port, held):
            found.append(port)
    if len(found) < count:
        raise OSError(
            f"fewer than {count} free ports between {STACK_PORTS.start} and {STACK_PORTS.stop}"
        )
    return found


def _hold(port: int, held: ExitStack) -> bool:
    holder = socket.socket()
    try:
        holder.bind((LOOPBACK, port))
    except OSError:
        holder.close()
        return False
    # Only now: one that asks for a port of its own gets none that anybody holds, while servers,
    # which all reuse addresses, may listen where nobody else listens (socket(7)).
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.enter_context(holder)
    return True


def release_ports() -> range:
    """Where release processes may listen."""
    try:
        first = int(_EPHEMERAL_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 0
    return range(_FIRST_RELEASE_PORT, first if first > _FIRST_RELEASE_PORT + 1000 else _LAST_RESORT)
