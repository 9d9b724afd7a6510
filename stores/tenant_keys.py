"""A key for each tenant's backups, wrapped under the key of its region.

Destroying a tenant's key makes the tenant unreadable in every backup at once, also in those that
nobody may delete yet. So a destroyed key must not come back by any way: its row stays as a
tombstone, under which no key is made or imported, and a backup of the keys carries the tombstones,
which win over keys on both sides. Whoever keeps such backups keeps only the newest, under one name
that is replaced, never retained: an older one is a copy of the keys destroyed since.
"""

import base64
import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine, func, insert, select, update

from models.canonical import CanonicalError, canonical, parse
from models.ids import is_tenant_id
from models.tables_tenant_keys import TenantKeyRow
from stores.keys import KeyFileError, create_private_file, read_private_file
from stores.ledger import utc_now
from stores.region_state import as_utc
from stores.sql import read, scrub, table, write

KEY_BYTES = 32
NONCE_BYTES = 12

_LOCK = "tenant-keys"
_KEYS = table(TenantKeyRow)
_PER_STATEMENT = 500


class TenantKeyError(Exception):
    """A tenant's key cannot be used; the message names the tenant."""


class KeyDestroyed(TenantKeyError):
    """The tenant's key was destroyed: what was sealed under it is unreadable for ever."""


class KeyMissing(TenantKeyError):
    """The tenant has no key here, and none was destroyed."""


class KeyDamaged(TenantKeyError):
    """A wrapped key, or a backup of keys, is not what was written under this region's key."""


@dataclass(frozen=True)
class RegionKey:
    """The key under which a region's tenant keys are wrapped.

    Attributes:
        id: names the key without telling it.
    """

    id: str
    _cipher: AESGCM = field(repr=False)

    def wrap(self, secret: bytes, purpose: bytes) -> bytes:
        """Encrypt something small; only `unwrap` with the same purpose opens it."""
        nonce = os.urandom(NONCE_BYTES)  # far from 2^32 wraps: a few for each tenant
        return nonce + self._cipher.encrypt(nonce, secret, purpose)

    def unwrap(self, wrapped: bytes, purpose: bytes) -> bytes:
        """Decrypt.

        Raises:
            KeyDamaged: other bytes, another purpose or another key.
        """
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], purpose)
        except (InvalidTag, ValueError):
            raise KeyDamaged(
                f"{purpose.decode(errors='replace')}: not wrapped under region key {self.id}"
            ) from None


def ensure_region_key(path: Path) -> RegionKey:
    """Load the region's key, or create it if there is none; two processes get the same one.

    Raises:
        KeyFileError: see `load_region_key`.
        OSError: the directory is not writable.
    """
    if not path.exists():
        create_private_file(path, os.urandom(KEY_BYTES).hex().encode() + b"\n")
    return load_region_key(path)


def load_region_key(path: Path) -> RegionKey:
    """Read a region's key: 64 hex digits.

    Raises:
        KeyFileError: missing, readable by others than its owner, or no such key.
    """
    try:
        secret = bytes.fromhex(read_private_file(path).decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise KeyFileError(f"{path}: holds no key of {KEY_BYTES * 2} hex digits")
    name = hashlib.sha256(b"chainring/region-key/1\0" + secret).hexdigest()[:16]
    return RegionKey(name, AESGCM(secret))


class TenantKeys:
    """The tenant keys of one region; processes may share the database.

    Every method raises ValueError for what is no tenant id and `StoreUnavailable` when the database
    cannot serve.
    """

    def __init__(
        self, engine: Engine, region_key: RegionKey, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._engine = engine
        self._region_key = region_key
        self._clock = clock

    def key(self, tenant_id: str) -> bytes:
        """The tenant's key of `KEY_BYTES`; made and durable at its first use.

        Raises:
            KeyDestroyed: it was destroyed; no other is made.
            KeyDamaged: it cannot be unwrapped.
        """
        try:
            return self.find(tenant_id)
        except KeyMissing:
            pass
        with write(self._engine, lock=_LOCK) as connection:
            row = self._row(connection, tenant_id)
            if row is None:
                secret = os.urandom(KEY_BYTES)
                connection.execute(insert(_KEYS), self._new(tenant_id, secret, self._clock()))
                return secret
        return self._unwrapped(row)  # another process was first

    def find(self, tenant_id: str) -> bytes:
        """The tenant's key, never making one.

        Raises:
            KeyMissing: there is none.
            KeyDestroyed: it was destroyed.
            KeyDamaged: it cannot be unwrapped.
        """
        with read(self._engine) as connection:
            row = self._row(connection, _checked(tenant_id))
        if row is None:
            raise KeyMissing(f"tenant {tenant_id}: has no key in this region")
        return self._unwrapped(row)

    def load(self, tenant_ids: Collection[str], *, make: bool) -> dict[str, bytes]:
        """The keys of many tenants at once; those that are missing or destroyed are left out.

        Args:
            make: make what is missing, in one transaction.

        Raises:
            KeyDamaged: one cannot be unwrapped.
        """
        names = sorted({_checked(each) for each in tenant_ids})
        with read(self._engine) as connection:
            rows = self._rows(connection, names)
        if make and len(rows) < len(names):
            with write(self._engine, lock=_LOCK) as connection:
                rows = self._rows(connection, names)
                now = self._clock()
                new = [
                    self._new(each, os.urandom(KEY_BYTES), now)
                    for each in names
                    if each not in rows
                ]
                if new:
                    connection.execute(insert(_KEYS), new)
                rows = self._rows(connection, names)
        return {name: self._unwrapped(row) for name, row in rows.items() if row.wrapped is not None}

    def destroy(self, tenant_id: str) -> datetime:
        """Destroy the tenant's key for ever, or forbid that there ever is one.

        Other processes may use a key that they know for some seconds more (see `Envelopes`).

        Returns:
            When it was destroyed; repeating changes nothing.
        """
        tombstone = {"tenant": _checked(tenant_id), "at": self._clock()}
        with write(self._engine, lock=_LOCK) as connection:
            self._bury(connection, [tombstone])
            row = self._row(connection, tenant_id)
        scrub(self._engine, TenantKeyRow)
        return as_utc(row.destroyed_at)

    def count(self) -> tuple[int, int]:
        """How many keys and tombstones there are, and how many of them are tombstones.

        Both only ever grow: what is the same is unchanged.
        """
        counted = select(func.count(), func.count(_KEYS.c.destroyed_at)).select_from(_KEYS)
        with read(self._engine) as connection:
            all_of_them, destroyed = connection.execute(counted).one()
        return int(all_of_them), int(destroyed)

    def export(self) -> bytes:
        """All keys and tombstones, sealed under the region's key, for a backup."""
        with read(self._engine) as connection:
            rows = connection.execute(select(_KEYS).order_by(_KEYS.c.tenant)).all()
        keys, destroyed = [], []
        for row in rows:
            if row.wrapped is None:
                destroyed.append({"tenant": row.tenant, "at": as_utc(row.destroyed_at).isoformat()})
            else:
                secret = base64.b64encode(self._unwrapped(row)).decode()
                made = as_utc(row.created_at).isoformat()
                keys.append({"tenant": row.tenant, "key": secret, "at": made})
        document = canonical({"keys": keys, "destroyed": destroyed})  # type: ignore[dict-item]
        return self._region_key.wrap(document, b"key backup")

    def restore(self, backup: bytes) -> int:
        """Take over what a backup has and this database has not; tombstones win on both sides.

        Returns:
            How many keys were added.

        Raises:
            KeyDamaged: it is no backup under this region's key, or has another key for a tenant
                than this database, under which documents may be sealed; nothing was changed.
        """
        document = _parsed(self._region_key.unwrap(backup, b"key backup"))
        with write(self._engine, lock=_LOCK) as connection:
            self._bury(connection, document["destroyed"])
            rows = connection.execute(select(_KEYS)).all()
            here = {row.tenant: row for row in rows}
            added = []
            for entry in document["keys"]:
                row = here.get(entry["tenant"])
                if row is None:
                    added.append(self._new(entry["tenant"], entry["key"], entry["at"]))
                elif row.wrapped is not None and self._unwrapped(row) != entry["key"]:
                    raise KeyDamaged(f"tenant {row.tenant}: the backup has another key than here")
            if added:
                connection.execute(insert(_KEYS), added)
        if document["destroyed"]:
            scrub(self._engine, TenantKeyRow)
        return len(added)

    def _bury(self, connection: Connection, tombstones: list[dict[str, Any]]) -> None:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA secure_delete = ON")  # zero what the row held
        there = self._rows(connection, [each["tenant"] for each in tombstones])
        for each in tombstones:
            tenant, at = each["tenant"], each["at"]
            if tenant not in there:
                dead = {"wrapped": None, "created_at": at, "destroyed_at": at}
                row = {"tenant": tenant, "region_key": self._region_key.id, **dead}
                connection.execute(insert(_KEYS), row)
            elif there[tenant].wrapped is not None:
                at_tenant = update(_KEYS).where(_KEYS.c.tenant == tenant)
                connection.execute(at_tenant.values(wrapped=None, destroyed_at=at))

    def _rows(self, connection: Connection, tenant_ids: list[str]) -> dict[str, Any]:
        found = {}
        for start in range(0, len(tenant_ids), _PER_STATEMENT):
            some = tenant_ids[start : start + _PER_STATEMENT]
            query = select(_KEYS).where(_KEYS.c.tenant.in_(some))
            found.update({row.tenant: row for row in connection.execute(query)})
        return found

    def _row(self, connection: Connection, tenant_id: str) -> Any:
        return connection.execute(select(_KEYS).where(_KEYS.c.tenant == tenant_id)).first()

    def _new(self, tenant_id: str, secret: bytes, at: datetime) -> dict[str, Any]:
        return {
            "tenant": tenant_id,
            "wrapped": self._region_key.wrap(secret, _purpose(tenant_id)),
            "region_key": self._region_key.id,
            "created_at": at,
            "destroyed_at": None,
        }

    def _unwrapped(self, row: Any) -> bytes:
        if row.wrapped is None:
            raise KeyDestroyed(
                f"tenant {row.tenant}: key destroyed at {as_utc(row.destroyed_at).isoformat()}"
            )
        if row.region_key != self._region_key.id:
            raise KeyDamaged(
                f"tenant {row.tenant}: wrapped under region key {row.region_key}, "
                f"this process has {self._region_key.id}"
            )
        return self._region_key.unwrap(row.wrapped, _purpose(row.tenant))


def _purpose(tenant_id: str) -> bytes:
    return f"tenant {tenant_id}".encode()  # so a wrapped key in another's row does not open


def _checked(tenant_id: str) -> str:
    if not is_tenant_id(tenant_id):
        raise ValueError(f"tenant {tenant_id!r}: not a tenant id (one DNS label, lower case)")
    return tenant_id


def _parsed(document: bytes) -> dict[str, list[dict[str, Any]]]:
    """A backup's lists with times and keys as such; it was authenticated, so it is well formed."""
    try:
        found: Any = parse(document)
        for entry in [*found["keys"], *found["destroyed"]]:
            entry["at"] = datetime.fromisoformat(entry["at"]).astimezone(UTC)
            _checked(entry["tenant"])
        for entry in found["keys"]:
            entry["key"] = base64.b64decode(entry["key"], validate=True)
        return {"keys": found["keys"], "destroyed": found["destroyed"]}
    except (CanonicalError, KeyError, TypeError, ValueError) as error:
        raise KeyDamaged(f"key backup: {error}") from None
