"""Reading all documents back by as many processes as there are processors.

A span of documents is read by whoever is free: this process, or one of those that it starts. These
are programs of their own, not forks, so they may be started from a process that has threads; they
end with it. Where one does not answer, this process reads its span.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from threading import Lock

from sqlalchemy import Connection

from models.documents import key_prefix
from stores import leaf_reader
from stores.collections import Collection
from stores.document_scan import Span, scan_span, spans
from stores.leaf_spool import LeafSpool
from stores.read_back import proved_leaves, read_back

SPAN = 2_000
"""Documents that are read at once."""

PARALLEL_FROM = 10
"""Spans from which on another process is worth its start."""

MOST_HELPERS = 3
_LEAF_BYTES = 64
_AHEAD = 2
"""Spans that a helper is asked for before it has answered, so that it need not wait for us."""

_PIPE_BYTES = 2 * SPAN * _LEAF_BYTES
"""So that it need not wait for its answer to be read, either."""

Count = Callable[[int], None]


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class HelperLost(Exception):
    """A helping process does not answer."""


class Helper:
    """A process that reads spans of one database.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, database: str) -> None:
        program = [sys.executable, "-I", "-S", leaf_reader.__file__, database]
        self.process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pipesize=_PIPE_BYTES,
        )

    def ask(self, span: Span) -> None:
        """Ask for the leaves of a span's documents.

        Raises:
            HelperLost: it is not there any more.
        """
        question = {
            "query": span.query,
            "bounds": [leaf_reader.spelled(each) for each in span.bounds],
            "prefix": key_prefix(span.collection.name),
            "payload": span.collection.payload is not None,
        }
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise HelperLost(str(error)) from None

    def answer(self) -> bytes:
        """The leaves that were asked for first.

        Raises:
            HelperLost: there is no answer.
        """
        return self._exactly(int.from_bytes(self._exactly(leaf_reader.SIZE_BYTES), "big"))

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Let go of it, when nobody waits for its answer any more."""
        self.end()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with suppress(OSError):  # what was not yet written is for nobody
                pipe.close()

    def _exactly(self, size: int) -> bytes:
        assert self.process.stdout
        data = self.process.stdout.read(size)
        if len(data) < size:
            raise HelperLost(f"{len(data)} bytes of {size}")
        return data


class ReadBack:
    """A reading of all documents of some collections into ``found``.

    Args:
        count: called by the thread that made this, with the number of documents so far.

    Attributes:
        documents: how many were found so far.
    """

    def __init__(
        self,
        connection: Connection,
        collections: Sequence[Collection],
        found: LeafSpool,
        count: Count,
    ) -> None:
        self._connection = connection
        self.found = found
        self._count = count
        self._guard = Lock()
        self.documents = 0
        self._whole: Sequence[Collection] = collections
        self._spans: deque[Span] = deque()
        self._helping: list[Future[None]] = []
        if connection.dialect.name == "sqlite":  # PostgreSQL does the work in a process of its own
            self._whole = ()
            self._spans.extend(chain.from_iterable(spans(connection, c, SPAN) for c in collections))

    @contextmanager
    def helped(self) -> Iterator[None]:
        """Let other processes begin; what the block does meanwhile costs no time."""
        wanted = min(MOST_HELPERS, processors() - 1) if len(self._spans) >= PARALLEL_FROM else 0
        with ExitStack() as ends:  # the last one first
            helpers = list(self._helpers(wanted, ends))
            pool = ends.enter_context(ThreadPoolExecutor(MOST_HELPERS, "read-back"))
            for helper in helpers:
                ends.callback(helper.end)
            ends.callback(self._spans.clear)
            self._helping = [pool.submit(self._help, helper) for helper in helpers]
            yield

    def _helpers(self, wanted: int, ends: ExitStack) -> Iterator[Helper]:
        file = self._connection.engine.url.database
        with suppress(OSError):  # then there are fewer
            for _ in range(wanted):
                helper = Helper(str(file))
                ends.callback(helper.close)
                yield helper

    def finish(self) -> int:
        """Read what is left; how many documents there are.

        Raises:
            RestoreMismatch: a value is not the one that its document names.
        """
        for collection in self._whole:
            self.documents += read_back(self._connection, [collection], self.found)
            self._count(self.documents)
        self._read_spans()
        for each in self._helping:
            each.result()
        self._read_spans()  # what a helper that was lost has left
        self._count(self.documents)
        return self.documents

    def _read_spans(self) -> None:
        while (span := self._next()) is not None:
            for rows in scan_span(self._connection, span):
                self._take(proved_leaves(span.collection, rows))
            self._count(self.documents)

    def _help(self, helper: Helper) -> None:
        asked: deque[Span] = deque()
        try:
            while self._ask(helper, asked):
                leaves = helper.answer()
                asked.popleft()
                self._take(leaves)
        except HelperLost:
            self._spans.extend(asked)

    def _ask(self, helper: Helper, asked: deque[Span]) -> bool:
        """Have a helper something to do; whether it has."""
        while len(asked) < _AHEAD and (span := self._next()) is not None:
            asked.append(span)
            helper.ask(span)
        return bool(asked)

    def _next(self) -> Span | None:
        with suppress(IndexError):
            return self._spans.popleft()
        return None

    def _take(self, leaves: bytes) -> None:
        with self._guard:
            self.found.take(leaves)
            self.documents += len(leaves) // _LEAF_BYTES
