"""One HTTP/1.1 connection of the load generator: one request at a time, little work per answer.

A general client spends several times the processor time on an answer, which the generator would
take from the fleet that it measures on the same machine.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_SHARD = re.compile(rb"\r\nx-chainring-shard: *([^\r]*)", re.IGNORECASE)
_RELEASE = re.compile(rb"\r\nx-chainring-release: *([^\r]*)", re.IGNORECASE)
_BODILESS = {204, 304}


class Response(NamedTuple):
    """What came back; status 0 when nothing whole did."""

    sent_ns: int
    received_ns: int
    status: int
    shard: str
    release: str

    @classmethod
    def none(cls, sent_ns: int) -> Self:
        return cls(sent_ns, time.monotonic_ns(), 0, "", "")


@dataclass(frozen=True)
class Request:
    """The bytes to send, and who wants the answer."""

    content: bytes
    answered: Callable[[Response], None]


class Connection(asyncio.Protocol):
    """Calls ``release`` with itself after each answer, and when it was closed while it waited."""

    def __init__(self, release: Callable[["Connection"], None]) -> None:
        self.open = False
        self.sent_ns = 0
        self._release = release
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._received = bytearray()

    def send(self, request: Request) -> None:
        assert self._transport is not None and self._request is None
        self._request = request
        self.sent_ns = time.monotonic_ns()
        self._transport.write(request.content)

    def close(self) -> None:
        """Give up; a request that still waits is answered with status 0."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0:
            return
        head = bytes(self._received[: end + 2])
        status = int(head[9:12])
        if not _whole(head, status, self._received, end + len(_HEAD_END)):
            return
        received_ns = time.monotonic_ns()
        self._received.clear()
        if _CLOSES.search(head):
            self.open = False
        self._answer(
            Response(self.sent_ns, received_ns, status, _text(_SHARD, head), _text(_RELEASE, head))
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._answer(Response.none(self.sent_ns))

    def _answer(self, response: Response) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.answered(response)
            self._release(self)


def _text(pattern: re.Pattern[bytes], head: bytes) -> str:
    found = pattern.search(head)
    return found[1].decode("latin-1") if found else ""


def _whole(head: bytes, status: int, received: bytearray, start: int) -> bool:
    """Whether the answer whose body begins at ``start`` is there to its end."""
    if status in _BODILESS:
        return True
    if _CHUNKED.search(head):
        return _last_chunk_is_there(received, start)
    length = _LENGTH.search(head)
    return length is not None and len(received) >= start + int(length[1])


def _last_chunk_is_there(received: bytearray, start: int) -> bool:
    while True:
        line_end = received.find(b"\r\n", start)
        if line_end < 0:
            return False
        size = int(received[start:line_end].partition(b";")[0], 16)
        if size == 0:
            return len(received) >= line_end + 4
        start = line_end + 2 + size + 2
