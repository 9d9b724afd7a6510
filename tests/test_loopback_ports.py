"""Ports of the stack and of its releases do not get into each other's way."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from workers import loopback_ports
from workers.host_system import PortBook
from workers.loopback_ports import LOOPBACK, STACK_PORTS, free_ports, is_free, release_ports


def test_release_ports_are_free_and_distinct_and_nobody_elses():
    book = PortBook()
    ports = [book.pick() for _ in range(50)]
    outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 50
    assert all(is_free(port) and port not in STACK_PORTS and port < outgoing for port in ports)


def test_where_outgoing_connections_take_low_ports_releases_keep_their_range(tmp_path, monkeypatch):
    for text in ("1024 65000\n", "", "none"):
        (tmp_path / "range").write_text(text)
        monkeypatch.setattr(loopback_ports, "_EPHEMERAL_FILE", tmp_path / "range")
        assert release_ports() == range(STACK_PORTS.stop, 32_768)


def test_a_port_that_is_held_is_picked_by_nobody_and_served_by_its_owner(monkeypatch):
    with ExitStack() as held:
        [port] = free_ports(1, held)
        monkeypatch.setattr(loopback_ports, "STACK_PORTS", range(port, port + 1))
        with pytest.raises(OSError, match="fewer than 1 free ports"):
            free_ports(1, held)
        assert is_free(port)
        with socket.create_server((LOOPBACK, port)):
            assert not is_free(port)
            with socket.create_connection((LOOPBACK, port), timeout=1):
                pass
    with ExitStack() as later:
        assert free_ports(1, later) == [port]


def test_a_port_on_which_something_listens_is_not_picked(monkeypatch):
    with ExitStack() as held, socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(loopback_ports, "STACK_PORTS", range(port, port + 1))
        with pytest.raises(OSError, match="free ports"):
            free_ports(1, held)
