"""Ports for the servers of tests: kept for them, from all other test processes, to the end."""

from contextlib import ExitStack

from workers.loopback_ports import free_ports

_held = ExitStack()


def free_port() -> int:
    """A loopback port that nothing else picks while this process lives, even if none listens."""
    [port] = free_ports(1, _held)
    return port
