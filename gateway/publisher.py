"""Putting clusters and routes in force in a region's Envoy.

A publication is a file renamed into the directory that Envoy watches, and is complete when Envoy
says that it uses it. Files outlive processes: an Envoy that starts again reads the newest ones.

Generations only go up. A publisher never puts an older route table over a newer one, in whichever
process it runs; a fleet store that was restored must therefore go on from a higher generation.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gateway.admin import EnvoyAdmin
from gateway.bootstrap import clusters_file, routes_file
from gateway.envoy import (
    UNREADY,
    ReleaseEndpoint,
    cluster_name,
    file_clusters,
    file_generation,
    file_routes,
    render_clusters,
    render_routes,
)
from gateway.envoy_process import LOG_FLUSH_SECONDS, log_file
from gateway.errors import GatewayError, GatewayUnavailable
from models.addresses import GatewayAddress
from models.fleet import RouteTable
from stores.files import file_lock, write_atomic

__all__ = ["GatewayError", "GatewayUnavailable", "ReleaseEndpoint", "RoutePublisher"]

_FIRST_PAUSE = 0.002
_PAUSE_OF_DOUBT = 0.01
_LONGEST_PAUSE = 0.25


class RoutePublisher:
    """Publishes to one region's Envoy; safe to share between threads and to have in processes.

    ``deadline`` is the time in seconds that each publication may take.
    """

    def __init__(self, address: GatewayAddress, region: str, *, deadline: float = 10.0) -> None:
        self._directory = address.directory
        self._region = region
        self._deadline = deadline
        self._admin = EnvoyAdmin(address)
        self._turn = threading.Condition()
        self._leading = False
        self._applied = UNREADY

    def clusters(self) -> list[ReleaseEndpoint]:
        """The endpoints published last."""
        return file_clusters(_read(clusters_file(self._directory)))

    def generation(self) -> int:
        """The generation of the routes published last, by whichever process."""
        return file_generation(_read(routes_file(self._directory)))

    def publish_clusters(
        self, endpoints: Sequence[ReleaseEndpoint] | Callable[[], Sequence[ReleaseEndpoint]]
    ) -> None:
        """Make ``endpoints`` the clusters of the gateway; returns when they can take requests.

        A cluster that the published routes still use stays until they do not. Where several
        threads or processes publish, pass a function: it is called when it is this caller's turn,
        so that an older list cannot follow a newer one.

        Raises:
            ValueError: two releases cannot be told apart by name.
            GatewayUnavailable: Envoy did not take them within the deadline.
            GatewayError: Envoy refused them.
        """
        until = time.monotonic() + self._deadline
        path = clusters_file(self._directory)
        refusals = _Refusals(self._admin.rejected_clusters)
        with _exclusive(self._directory, until):
            wanted = endpoints() if callable(endpoints) else endpoints
            previous = _read(path)
            content = render_clusters([*wanted, *self._still_used(wanted, previous)])
            if content != previous:
                _write(path, content)
        addresses = {cluster_name(each.release): (each.host, each.port) for each in wanted}
        try:
            self._wait(
                lambda: addresses.items() <= self._admin.cluster_addresses().items(),
                until=until,
                what=f"clusters {sorted(addresses)}",
                refusals=refusals,
            )
        except _Refused as error:
            self._withdraw(path, content, previous)
            raise GatewayError(str(error)) from None

    def publish_routes(self, load: Callable[[], RouteTable], at_least: int) -> int:
        """Put the newest route table in force; returns the generation that Envoy applied.

        Callers that come while another one publishes wait, and one of them then publishes for all
        (group commit): ``load`` is called after the call began, so a generation that was committed
        before the call is in the table.

        Raises:
            ValueError: a tenant is routed twice.
            GatewayUnavailable: Envoy did not apply it within the deadline.
            GatewayError: Envoy refused it, or ``load`` gave a table older than ``at_least``.
        """
        until = time.monotonic() + self._deadline
        done = self._await_turn(at_least, until)
        if done is not None:
            return done
        reached = UNREADY
        try:
            reached = self._publish_table(load(), at_least, until)
            return reached
        finally:
            self._pass_turn(reached)

    def _await_turn(self, at_least: int, until: float) -> int | None:
        """None when this thread is to publish; else the generation that others have published."""
        with self._turn:
            while self._applied < at_least:
                if not self._leading:
                    self._leading = True
                    return None
                if not self._turn.wait(max(0.0, until - time.monotonic())):
                    raise GatewayUnavailable(
                        f"routes of generation {at_least}: another publication takes too long"
                    )
            return self._applied

    def _pass_turn(self, reached: int) -> None:
        with self._turn:
            self._leading = False
            self._applied = max(self._applied, reached)
            self._turn.notify_all()

    def _publish_table(self, table: RouteTable, at_least: int, until: float) -> int:
        if table.generation < at_least:
            raise GatewayError(
                f"routes: the table has generation {table.generation}, older than {at_least}"
            )
        content = render_routes(table, self._region)
        refusals = _Refusals(self._admin.rejected_routes)
        previous = self._install(content, until)
        try:
            self._wait(
                lambda: self._admin.applied_generation(self._region) >= table.generation,
                until=until,
                what=f"routes of generation {table.generation}",
                refusals=refusals,
            )
        except _Refused as error:
            self._withdraw(routes_file(self._directory), content, previous)
            raise GatewayError(str(error)) from None
        return table.generation

    def _install(self, content: bytes, until: float) -> bytes:
        """Put the route file in place unless a newer one is there; returns what was there."""
        path = routes_file(self._directory)
        with _exclusive(self._directory, until):
            previous = _read(path)
            ours, newest = file_generation(content), file_generation(previous)
            if ours > newest or (ours == newest and content != previous):
                _write(path, content)
        return previous

    def _withdraw(self, path: Path, refused: bytes, previous: bytes) -> None:
        """Put back what Envoy still uses, so that an Envoy that starts again has it too."""
        with _exclusive(self._directory, time.monotonic() + self._deadline):
            if _read(path) == refused:
                _write(path, previous)

    def _still_used(
        self, wanted: Sequence[ReleaseEndpoint], clusters: bytes
    ) -> list[ReleaseEndpoint]:
        """Published clusters that are no longer wanted, but that a published route leads to."""
        names = {cluster_name(each.release) for each in wanted}
        dropped = [e for e in file_clusters(clusters) if cluster_name(e.release) not in names]
        if not dropped:
            return []
        routes = file_routes(_read(routes_file(self._directory)))
        used = {cluster for cluster, _ in routes.values()}
        return [each for each in dropped if cluster_name(each.release) in used]

    def _wait(
        self, done: Callable[[], bool], *, until: float, what: str, refusals: "_Refusals"
    ) -> None:
        """Poll Envoy until ``done``, at first often: an update takes a few milliseconds."""
        pause, trouble = _FIRST_PAUSE, "envoy has not read them"
        while True:
            try:
                if done():
                    return
                if pause > _PAUSE_OF_DOUBT and refusals.grown():
                    raise _Refused(f"{what}: refused by envoy: {self._reason()}")
            except GatewayUnavailable as error:
                trouble = str(error)
            if time.monotonic() + pause > until:
                raise GatewayUnavailable(f"{what}: not in force in time: {trouble}")
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _reason(self) -> str:
        """Envoy's last complaint about a file, which it tells to nothing but its log."""
        time.sleep(2 * LOG_FLUSH_SECONDS)
        try:
            lines = log_file(self._directory).read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        complaints = [line for line in lines if "rejected" in line.lower()]
        return complaints[-1] if complaints else "see its log"


class _Refused(Exception):
    """Envoy counted one more update that it did not take."""


class _Refusals:
    """A counter of refused updates, and whether it has grown since.

    While Envoy is down there is nothing to compare with, and nothing counts as grown.
    """

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._before: int | None = None
        with suppress(GatewayUnavailable):
            self._before = read()

    def grown(self) -> bool:
        return self._before is not None and self._read() > self._before


@contextmanager
def _exclusive(directory: Path, until: float) -> Iterator[None]:
    """Be the only publisher to this gateway, of all threads and processes."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(file_lock(directory / "publisher.lock", wait=False))
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise GatewayUnavailable(f"{directory}: another process publishes") from None
                time.sleep(_FIRST_PAUSE)
        yield


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise GatewayUnavailable(f"{path}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GatewayUnavailable(f"{path}: {error.strerror}: is the gateway prepared?") from error
