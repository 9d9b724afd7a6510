"""The tenant KV while the region's store is down: a durable buffer over a state of some age.

What a client is told of is on disk before it is told. Reads see the durable writes of the buffer
over the base, which may be missing or behind what the store held when it died. Quotas are not
enforced here: the spool's bounds are.
"""

import heapq
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from models.buffer import (
    LARGEST_EPOCH,
    UNKNOWN,
    BufferedWrite,
    buffered_version,
    pack_write,
    read_write,
)
from models.ids import is_tenant_id
from models.spool import Record
from stores.kv import (
    ABSENT,
    LARGEST_PAGE,
    LARGEST_VALUE,
    CorruptValue,
    KvError,
    KvKey,
    KvPage,
    KvValue,
    VersionConflict,
    key_bytes,
)
from stores.spool import Spool, SpoolClosed
from stores.spool_files import open_spool
from stores.sql import StoreUnavailable


class Readable(Protocol):
    """The reading half of `stores.kv.TenantKV`."""

    def get(self, key: str) -> KvValue | None:
        """The value, or None."""

    def list(self, prefix: str = "", *, after: str | None = None, limit: int = 100) -> KvPage:
        """Keys page by page."""


@dataclass(frozen=True)
class Base:
    """The state beneath the buffer: each tenant's keys as they were at ``at`` (Unix seconds)."""

    of: Callable[[str], Readable]
    at: float


class _State(NamedTuple):
    """What the buffer says of a key; ``value`` is None where it was removed."""

    version: int
    value: bytes | None


@dataclass
class _Overlay:
    """One tenant's buffered keys: what is durable, and what is on its way to be."""

    durable: dict[bytes, _State] = field(default_factory=dict)
    flying: dict[bytes, _State] = field(default_factory=dict)

    def settle(self, name: bytes, state: _State, kept: bool) -> None:
        if kept:
            self.durable[name] = state
        if self.flying.get(name) is state:
            del self.flying[name]

    def newest(self, name: bytes) -> _State | None:
        return self.flying.get(name) or self.durable.get(name)


class Buffer:
    """A region's buffer, with what its spool already holds.

    Args:
        spool: None: reads only, as while the buffer is drained; ``records`` are then what it holds.
        base: None: there is no state to read, so that only keys in the buffer can be answered for.
    """

    def __init__(
        self,
        spool: Spool | None,
        base: Base | None,
        *,
        records: list[Record] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if spool is not None:
            if not 0 <= spool.epoch <= LARGEST_EPOCH:
                raise ValueError(f"epoch: {spool.epoch}, at most {LARGEST_EPOCH} can be told apart")
            contents = open_spool(spool.directory)
            records = contents.records if contents else []
        self.spool = spool
        self.base = base
        self.clock = clock
        self.lookups = threading.Lock()
        """Held by a writer that asks the base: many at once take the interpreter from the one that
        flushes, and all are slower (measured)."""
        self._tenants: dict[str, _Overlay] = {}
        self._drained = (len(records or []), sum(len(each.payload) for each in records or []))
        for record in records or []:
            write = read_write(record.payload, number=record.number)
            self._overlay(write.tenant).durable[write.key] = _State(write.version, write.value)

    @property
    def age(self) -> int | None:
        """Seconds since the base's state; None where there is no base."""
        return None if self.base is None else max(0, int(self.clock() - self.base.at))

    @property
    def fill(self) -> float:
        """How full the spool is, from 0 to 1."""
        return 0.0 if self.spool is None else self.spool.fill

    @property
    def used(self) -> tuple[int, int]:
        """How many records it holds, and their bytes; what is being drained, without its frames."""
        return self._drained if self.spool is None else self.spool.used

    def close(self) -> None:
        """Take no more writes; what it holds can still be read."""
        if self.spool is not None:
            self.spool.close()

    def _overlay(self, tenant: str) -> _Overlay:
        return self._tenants.setdefault(tenant, _Overlay())


class BufferedKV:
    """One tenant's keys in the buffer; the methods are those of `stores.kv.TenantKV`.

    Every method raises `StoreUnavailable` where the base must be asked and does not answer.

    Raises:
        KvError: ``tenant`` is not a tenant id.
    """

    def __init__(self, buffer: Buffer, tenant: str) -> None:
        if not is_tenant_id(tenant):
            raise KvError("tenant", "not a tenant id (one DNS label, lower case)")
        self._buffer = buffer
        self._tenant = tenant
        self._overlay = buffer._overlay(tenant)

    def get(self, key: str) -> KvValue | None:
        """The buffered value, or that of the base; None when the key is in neither."""
        state = self._overlay.durable.get(key_bytes(key))
        if state is None:
            return self._base().get(key)
        return None if state.value is None else KvValue(state.value, state.version)

    def put(self, key: str, value: bytes, *, expected_version: int | None = None) -> int:
        """Buffer a value and return its version, which it will have in the store as well.

        Args:
            expected_version: as the buffer and the base have it (`ABSENT`: not there).

        Raises:
            VersionConflict: the key is at another one.
            SpoolFull, SpoolClosed, SpoolUnavailable: it is not kept.
        """
        name = key_bytes(key)
        if len(value) > LARGEST_VALUE:
            raise KvError("value", f"{len(value)} bytes, at most {LARGEST_VALUE} are kept")
        beneath = self._version_beneath(key, needed=expected_version is not None)
        version = self._write(name, value, beneath, expected_version, missing=True)
        assert version is not None
        return version

    def delete(self, key: str, *, expected_version: int | None = None) -> bool:
        """Buffer a removal; whether the key was there, as far as the buffer and the base know.

        Raises:
            VersionConflict: the key is not at ``expected_version``.
            SpoolFull, SpoolClosed, SpoolUnavailable: it is not kept.
        """
        name = key_bytes(key)
        beneath = self._version_beneath(key, needed=True)
        return self._write(name, None, beneath, expected_version, missing=False) is not None

    def list(self, prefix: str = "", *, after: str | None = None, limit: int = 100) -> KvPage:
        """Keys of the buffer and the base, in the order of their bytes."""
        if not 1 <= limit <= LARGEST_PAGE:
            raise KvError("limit", f"must be from 1 to {LARGEST_PAGE}, not {limit}")
        start = key_bytes(prefix, field="prefix") if prefix else b""
        beyond = key_bytes(after, field="after") if after is not None else b""
        buffered = {
            name: state
            for name, state in tuple(self._overlay.durable.items())
            if name.startswith(start) and name > beyond
        }
        mine = (
            KvKey(name.decode(), state.version, len(state.value))
            for name, state in sorted(buffered.items())
            if state.value is not None
        )
        beneath = (
            each for each in self._pages(prefix, after, limit) if each.key.encode() not in buffered
        )
        found = []
        for each in heapq.merge(mine, beneath, key=lambda each: each.key.encode()):
            found.append(each)
            if len(found) > limit:
                return KvPage(tuple(found[:limit]), found[limit - 1].key)
        return KvPage(tuple(found), None)

    def _write(
        self,
        name: bytes,
        value: bytes | None,
        beneath: int,
        expected: int | None,
        *,
        missing: bool,
    ) -> int | None:
        """Decide and buffer a write; None: the key is not there, and ``missing`` is not meant."""
        spool = self._buffer.spool
        if spool is None:
            raise SpoolClosed("buffer: it is being drained, and takes no writes now")
        with spool.lock:
            before = self._overlay.newest(name)
            seen = beneath
            if before is not None:
                seen = ABSENT if before.value is None else before.version
            if expected is not None and seen != expected:
                raise VersionConflict(expected, seen)
            if seen == ABSENT and not missing:
                return None
            state = _State(buffered_version(spool.epoch, spool.next_number), value)
            write = BufferedWrite(
                id=secrets.token_hex(16),
                tenant=self._tenant,
                key=name,
                value=value,
                version=state.version,
                seen=seen,
                expected=expected,
                at=int(self._buffer.clock() * 1000),
            )
            settled = partial(self._overlay.settle, name, state)
            ticket = spool.submit(pack_write(write), settled)
            self._overlay.flying[name] = state
        spool.wait(ticket)
        return state.version

    def _version_beneath(self, key: str, *, needed: bool) -> int:
        """The key's version in the base; asked for before the lock is taken, as nobody writes it.

        Where it is not needed to decide, a base that does not answer is no hindrance.
        """
        if key_bytes(key) in self._overlay.durable:
            return UNKNOWN  # is not looked at: the buffer's own version counts
        try:
            with self._buffer.lookups:
                found = self._base().get(key)
        except (StoreUnavailable, CorruptValue):
            if needed:
                raise
            return UNKNOWN
        return ABSENT if found is None else found.version

    def _base(self) -> Readable:
        base = self._buffer.base
        if base is None:
            raise StoreUnavailable("unreachable", "down, and there is no older state to read")
        return base.of(self._tenant)

    def _pages(self, prefix: str, after: str | None, limit: int) -> Iterator[KvKey]:
        base = self._base()
        while True:
            page = base.list(prefix, after=after, limit=limit)
            yield from page.keys
            if page.after is None:
                return
            after = page.after
