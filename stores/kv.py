"""The tenant KV: each tenant's own keys, and no way to name another's.

A `TenantKV` is bound to its tenant when it is made; no method takes a tenant. Tenant ids hold to a
strict grammar and are a column of their own in every table's key, so that nothing a caller puts in
a key can reach over. A digest of tenant, key and value is kept with every value and checked at
every read, so that a value that rotted, or lies under another's name, is never handed out.
"""

import hashlib
import hmac
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from models.ids import is_tenant_id
from models.tables_kv import KvEntryRow, KvSpaceRow
from stores.sql import read, table, write

LARGEST_KEY = 512
LARGEST_VALUE = 256 * 1024
LARGEST_PAGE = 1_000
ABSENT = 0
"""The version of a key that is not there, for compare-and-set."""

_PAGE = 200
"""Values that are fetched together; each may be `LARGEST_VALUE`."""

_ENTRY = table(KvEntryRow)
_SPACE = table(KvSpaceRow)

# Statements are made once: to make one for each request costs more than to run it.
_AT = (_ENTRY.c.tenant == bindparam("own"), _ENTRY.c.key == bindparam("at"))
_READ = select(_ENTRY.c.value, _ENTRY.c.sha256, _ENTRY.c.version).where(*_AT)
_SIZED = select(_ENTRY.c.version, func.length(_ENTRY.c.value)).where(*_AT)
_INSERT = insert(_ENTRY)
_UPDATE = (
    update(_ENTRY)
    .where(*_AT)
    .values({name: bindparam(f"new_{name}") for name in ("value", "sha256", "version")})
)
_DELETE = delete(_ENTRY).where(*_AT)
_OWN_SPACE = select(_SPACE.c.clock, _SPACE.c.used).where(_SPACE.c.tenant == bindparam("own"))
_INSERT_SPACE = insert(_SPACE)
_UPDATE_SPACE = (
    update(_SPACE)
    .where(_SPACE.c.tenant == bindparam("own"))
    .values({name: bindparam(f"new_{name}") for name in ("clock", "used")})
)


class KvError(ValueError):
    """The request is wrong; names the field. Nothing was changed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class VersionConflict(Exception):
    """The key is not at the version that the caller expects; nothing was changed."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"version: expected {expected}, found {found} (0: not there)")
        self.expected = expected
        self.found = found


class QuotaExceeded(Exception):
    """The tenant's keys and values would take more bytes than it may have; nothing was changed."""

    def __init__(self, needed: int, quota: int) -> None:
        super().__init__(f"quota: {needed} bytes needed, {quota} allowed")
        self.needed = needed
        self.quota = quota


class CorruptValue(Exception):
    """A stored value is not what was written: restore it, or write or delete the key anew."""

    def __init__(self, tenant: str, key: str) -> None:
        super().__init__(f"tenant {tenant}, key {key!r}: the value does not match its SHA-256")
        self.tenant = tenant
        self.key = key


@dataclass(frozen=True)
class KvValue:
    """A value and its version, which only ever grows within a tenant."""

    value: bytes
    version: int


@dataclass(frozen=True)
class KvKey:
    """A key in a listing; ``size`` is the value's bytes."""

    key: str
    version: int
    size: int


@dataclass(frozen=True)
class KvPage:
    """Keys in the order of their UTF-8 bytes; ``after`` continues the list, None at its end."""

    keys: tuple[KvKey, ...]
    after: str | None


class KvItem(NamedTuple):
    """A key with its value as it is stored, right or rotted; ``sha256`` as it was written."""

    key: bytes
    value: bytes
    version: int
    sha256: bytes


class Placed(NamedTuple):
    """What a key becomes: a value and its version, or nothing where ``value`` is None."""

    value: bytes | None
    version: int


class TenantKV:
    """One tenant's keys.

    Keys are 1 to 512 bytes of UTF-8 without control characters and are compared byte by byte: two
    spellings of one look are two keys. Values are up to 256 KiB of any bytes. Every method raises
    `KvError` for a wrong argument and `StoreUnavailable` when the database cannot serve.

    Args:
        quota_bytes: what the tenant's keys and values may take together; None: no limit.

    Raises:
        KvError: ``tenant`` is not a tenant id.
    """

    def __init__(self, engine: Engine, tenant: str, *, quota_bytes: int | None = None) -> None:
        if not is_tenant_id(tenant):
            raise KvError("tenant", "not a tenant id (one DNS label, lower case)")
        self._engine = engine
        self._tenant = tenant
        self._quota = quota_bytes

    def get(self, key: str) -> KvValue | None:
        """The value, or None when the key is not there.

        Raises:
            CorruptValue: it is there, but is not what was written.
        """
        name = key_bytes(key)
        with read(self._engine) as connection:
            row = connection.execute(_READ, self._at(name)).first()
        if row is None:
            return None
        if not hmac.compare_digest(value_digest(self._tenant, name, row.value), row.sha256):
            raise CorruptValue(self._tenant, key)
        return KvValue(row.value, row.version)

    def put(self, key: str, value: bytes, *, expected_version: int | None = None) -> int:
        """Write a value and return its version, higher than any before in this tenant.

        Args:
            expected_version: write only if the key is at this version (`ABSENT`: not there).

        Raises:
            VersionConflict: it is at another one.
            QuotaExceeded: there is no room.
        """
        name = key_bytes(key)
        if len(value) > LARGEST_VALUE:
            raise KvError("value", f"{len(value)} bytes, at most {LARGEST_VALUE} are kept")
        with self.transaction() as connection:
            before = self._found(connection, name, expected_version)
            space = self._space(connection)
            used = space.used - _taken(name, before) + len(name) + len(value)
            if self._quota is not None and used > max(self._quota, space.used):
                raise QuotaExceeded(used, self._quota)
            version = space.clock + 1
            columns = {
                "value": value,
                "sha256": value_digest(self._tenant, name, value),
                "version": version,
            }
            if before is None:
                whole = {"tenant": self._tenant, "key": name, **columns}
                connection.execute(_INSERT, whole)
            else:
                connection.execute(_UPDATE, self._at(name) | _new(columns))
            self._set_space(connection, clock=version, used=used)
        return version

    def delete(self, key: str, *, expected_version: int | None = None) -> bool:
        """Remove a key; whether it was there.

        Raises:
            VersionConflict: the key is not at ``expected_version``.
        """
        name = key_bytes(key)
        with self.transaction() as connection:
            before = self._found(connection, name, expected_version)
            if before is None:
                return False
            space = self._space(connection)
            connection.execute(_DELETE, self._at(name))
            self._set_space(connection, clock=space.clock, used=space.used - _taken(name, before))
        return True

    def used_bytes(self) -> int:
        """What the tenant's keys and values take now."""
        with read(self._engine) as connection:
            return self._space(connection).used

    def list(self, prefix: str = "", *, after: str | None = None, limit: int = 100) -> KvPage:
        """Keys that begin with ``prefix``, taken literally, in the order of their bytes.

        Args:
            after: `KvPage.after` of the page before.
        """
        if not 1 <= limit <= LARGEST_PAGE:
            raise KvError("limit", f"must be from 1 to {LARGEST_PAGE}, not {limit}")
        query = (
            select(_ENTRY.c.key, _ENTRY.c.version, func.length(_ENTRY.c.value).label("size"))
            .where(_ENTRY.c.tenant == self._tenant)
            .order_by(_ENTRY.c.key)
            .limit(limit + 1)
        )
        if prefix:
            start = key_bytes(prefix, field="prefix")
            query = query.where(_ENTRY.c.key >= start, _ENTRY.c.key < _beyond(start))
        if after is not None:
            query = query.where(_ENTRY.c.key > key_bytes(after, field="after"))
        with read(self._engine) as connection:
            found = [
                KvKey(row.key.decode(), row.version, row.size) for row in connection.execute(query)
            ]
        more = len(found) > limit
        return KvPage(tuple(found[:limit]), found[limit - 1].key if more else None)

    def items(self) -> Iterator[KvItem]:
        """All keys in the order of their bytes, fetched in pages, each page as it is then."""
        columns = (_ENTRY.c.key, _ENTRY.c.value, _ENTRY.c.version, _ENTRY.c.sha256)
        query = select(*columns).where(_ENTRY.c.tenant == self._tenant).order_by(_ENTRY.c.key)
        after = b""
        while True:
            with read(self._engine) as connection:
                page = connection.execute(query.where(_ENTRY.c.key > after).limit(_PAGE)).all()
            yield from (KvItem(bytes(k), bytes(v), n, bytes(h)) for k, v, n, h in page)
            if len(page) < _PAGE:
                return
            after = page[-1].key

    def transaction(self) -> AbstractContextManager[Connection]:
        """A write transaction that no other writer of the tenant's runs beside."""
        return write(self._engine, lock=f"kv/{self._tenant}")

    def versions_in(self, connection: Connection, names: Collection[bytes]) -> dict[bytes, int]:
        """The versions of those keys that are there, as the caller's transaction sees them."""
        return {name: found.version for name, found in self._all(connection, names).items()}

    def place(self, connection: Connection, placed: Mapping[bytes, Placed], *, clock: int) -> None:
        """Write what was acknowledged elsewhere, under its versions.

        No quota is asked: what was promised is kept. The tenant's clock goes to ``clock`` at least.
        """
        before = self._all(connection, placed)
        space = self._space(connection)
        used = space.used
        inserts, updates, deletes = [], [], []
        for name, each in placed.items():
            used -= _taken(name, before.get(name))
            if each.value is None:
                deletes.append(self._at(name))
                continue
            used += len(name) + len(each.value)
            digest = value_digest(self._tenant, name, each.value)
            columns = {"value": each.value, "sha256": digest, "version": each.version}
            if name in before:
                updates.append(self._at(name) | _new(columns))
            else:
                inserts.append({"tenant": self._tenant, "key": name, **columns})
        for statement, rows in ((_INSERT, inserts), (_UPDATE, updates), (_DELETE, deletes)):
            if rows:
                connection.execute(statement, rows)
        self._set_space(connection, clock=max(space.clock, clock), used=used)

    def _all(self, connection: Connection, names: Collection[bytes]) -> "dict[bytes, _Found]":
        sized = select(_ENTRY.c.key, _ENTRY.c.version, func.length(_ENTRY.c.value)).where(
            _ENTRY.c.tenant == self._tenant, _ENTRY.c.key.in_(list(names))
        )
        return {
            bytes(name): _Found(version, size) for name, version, size in connection.execute(sized)
        }

    def _at(self, name: bytes) -> dict[str, Any]:
        return {"own": self._tenant, "at": name}

    def _found(
        self, connection: Connection, name: bytes, expected_version: int | None
    ) -> "_Found | None":
        """The key's version and size, after they are compared with what the caller expects."""
        row = connection.execute(_SIZED, self._at(name)).first()
        found = None if row is None else _Found(*row)
        version = ABSENT if found is None else found.version
        if expected_version is not None and expected_version != version:
            raise VersionConflict(expected_version, version)
        return found

    def _space(self, connection: Connection) -> "_Space":
        row = connection.execute(_OWN_SPACE, {"own": self._tenant}).first()
        return _Space(0, 0) if row is None else _Space(*row)

    def _set_space(self, connection: Connection, *, clock: int, used: int) -> None:
        values = {"clock": clock, "used": used}
        if connection.execute(_UPDATE_SPACE, {"own": self._tenant, **_new(values)}).rowcount == 0:
            connection.execute(_INSERT_SPACE, {"tenant": self._tenant, **values})


class _Found(NamedTuple):
    version: int
    size: int


class _Space(NamedTuple):
    clock: int
    used: int


def value_digest(tenant: str, key: bytes, value: bytes) -> bytes:
    """SHA-256 over tenant, key and value, with a zero byte (which no key holds) between them."""
    return hashlib.sha256(b"\0".join((tenant.encode(), key, value))).digest()


def _new(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in columns.items()}


def _taken(name: bytes, found: _Found | None) -> int:
    return 0 if found is None else len(name) + found.size


def key_bytes(key: str, *, field: str = "key") -> bytes:
    """A key as it is kept; raises `KvError` for one that is not well formed."""
    try:
        name = key.encode()
    except UnicodeEncodeError:
        raise KvError(field, "is not valid Unicode") from None
    if not 1 <= len(name) <= LARGEST_KEY:
        raise KvError(field, f"{len(name)} bytes, must be from 1 to {LARGEST_KEY}")
    if any(unicodedata.category(character) == "Cc" for character in key):
        raise KvError(field, "holds a control character")
    return name


def _beyond(prefix: bytes) -> bytes:
    """The first bytes after all that begin with ``prefix``; UTF-8 never ends in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
