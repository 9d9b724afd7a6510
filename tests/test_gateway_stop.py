"""The gateway's end: whoever was let in gets an answer, also from a process that stood still."""

import asyncio
import contextlib
import socket
import time

import pytest
from aiohttp import web

from gateway.serve import stop_serving

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_S = 2.0
STANDSTILL_S = 0.1


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_was_just_let_in_is_not_left_waiting(turns: int):
    """It is told to end so many turns of its loop after a client came, and stands still then."""
    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=PATIENCE_S)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    with socket.create_connection(listener.getsockname(), timeout=PATIENCE_S / 2) as client:
        client.sendall(REQUEST)
        for _ in range(turns):
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(time.sleep, STANDSTILL_S)
        begun = time.monotonic()
        await stop_serving(runner, listener)
        assert time.monotonic() - begun < PATIENCE_S / 2
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # it was not let in: its proxy says 503
            answer = client.recv(1000)
    assert not answer or answer.startswith(b"HTTP/1.1 200 OK")
