"""Tenants' documents sealed for a backup: AES-256-GCM under the tenant's own key.

A sealed document is ``version (1) | salt (16) | nonce (12) | ciphertext | tag (16)``. It opens only
for its tenant and its associated data (say, which document of which segment it is), so one that
was moved, swapped or changed is found.

Nonces are random. A counter would have to survive crashes, forks and restores of its own store
without ever going back, and one repetition gives a document away; random ones need no memory. Their
limit is 2^32 documents under one key (NIST SP 800-38D, 8.3), which a tenant that is snapshotted
hourly could reach in a few years. So a document is sealed not under the tenant's key itself but
under one derived from it and a random salt, and the salt changes every `FRESH_S` seconds.
"""

import hashlib
import hmac
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stores.tenant_keys import NONCE_BYTES, TenantKeyError, TenantKeys

FRESH_S = 5.0
"""How long a key is used without asking the database whether it was destroyed."""
OVERHEAD = 1 + 16 + NONCE_BYTES + 16
"""Bytes that sealing adds."""

BATCH = 10_000
"""Tenants whose keys are kept ready, a few KB each; with one more, all are forgotten."""

_VERSION = b"\x01"
_SALT = slice(1, 17)
_NONCE = slice(17, 17 + NONCE_BYTES)
_BODY = slice(17 + NONCE_BYTES, None)
_CONTEXT = b"chainring/envelope/1\0"
_MOST_SALTS = 1_000


class EnvelopeDamaged(Exception):
    """Not sealed for this tenant and associated data, or changed since."""


@dataclass(slots=True)
class _Sealer:
    cipher: AESGCM
    header: bytes
    bound: bytes
    until: float


@dataclass(slots=True)
class _Opener:
    key: bytes = field(repr=False)
    bound: bytes
    until: float
    ciphers: dict[bytes, AESGCM] = field(default_factory=dict)


class Envelopes:
    """Seals and opens; safe to share between threads. Keys stay in memory while they are fresh."""

    def __init__(self, keys: TenantKeys) -> None:
        self._keys = keys
        self._sealers: dict[str, _Sealer] = {}
        self._openers: dict[str, _Opener] = {}

    def seal(self, tenant_id: str, plaintext: bytes, associated_data: bytes) -> bytes:
        """Encrypt for a tenant, making its key if it has none.

        Raises:
            KeyDestroyed: the tenant's key was destroyed.
            KeyDamaged: it cannot be unwrapped.
        """
        sealer = self._sealers.get(tenant_id)
        if sealer is None or sealer.until < time.monotonic():
            sealer = self._sealer(tenant_id)
        nonce = os.urandom(NONCE_BYTES)
        bound = sealer.bound + associated_data
        return sealer.header + nonce + sealer.cipher.encrypt(nonce, plaintext, bound)

    def open(self, tenant_id: str, sealed: bytes, associated_data: bytes) -> bytes:
        """Decrypt; no key is made.

        Raises:
            EnvelopeDamaged: it was not sealed for this tenant and associated data, or was changed.
            KeyDestroyed: the tenant's key was destroyed.
            KeyMissing: there is no key: it was never made, or is not restored yet.
            KeyDamaged: it cannot be unwrapped.
        """
        opener = self._openers.get(tenant_id)
        if opener is None or opener.until < time.monotonic():
            opener = self._opener(tenant_id)
        if len(sealed) < OVERHEAD or sealed[:1] != _VERSION:
            raise EnvelopeDamaged(f"tenant {tenant_id}: {len(sealed)} bytes are no sealed document")
        salt = sealed[_SALT]
        cipher = opener.ciphers.get(salt) or _derived(opener, salt)
        try:
            return cipher.decrypt(sealed[_NONCE], sealed[_BODY], opener.bound + associated_data)
        except InvalidTag:
            raise EnvelopeDamaged(
                f"tenant {tenant_id}: sealed for another tenant or place, or changed since"
            ) from None

    def forget(self, tenant_id: str) -> None:
        """Drop what is kept of a tenant's key, as after destroying it."""
        self._sealers.pop(tenant_id, None)
        self._openers.pop(tenant_id, None)

    def prepare(self, tenant_ids: Collection[str], *, sealing: bool) -> None:
        """Have the keys of a batch of at most `BATCH` tenants ready, by a few statements.

        It is for speed only; what is missing or destroyed is told by `seal` and `open`.

        Args:
            sealing: make the keys that are missing.

        Raises:
            KeyDamaged: one cannot be unwrapped.
        """
        until = time.monotonic() + FRESH_S  # from before the keys are read
        if max(len(self._sealers), len(self._openers)) + len(tenant_ids) > BATCH:
            self._sealers.clear()  # at once, or it would happen in the middle of this batch
            self._openers.clear()
        for tenant_id, key in self._keys.load(tenant_ids, make=sealing).items():
            if sealing:
                self._keep_sealer(tenant_id, key, until)
            else:
                self._keep_opener(tenant_id, key, until)

    def _sealer(self, tenant_id: str) -> _Sealer:
        self._sealers.pop(tenant_id, None)  # gone also if the key is
        until = time.monotonic() + FRESH_S
        return self._keep_sealer(tenant_id, self._keys.key(tenant_id), until)

    def _keep_sealer(self, tenant_id: str, key: bytes, until: float) -> _Sealer:
        if len(self._sealers) >= BATCH:
            self._sealers.clear()
        salt = os.urandom(16)
        sealer = _Sealer(_cipher(key, salt), _VERSION + salt, _bound(tenant_id), until)
        self._sealers[tenant_id] = sealer
        return sealer

    def _opener(self, tenant_id: str) -> _Opener:
        until = time.monotonic() + FRESH_S
        try:
            key = self._keys.find(tenant_id)
        except TenantKeyError:
            self._openers.pop(tenant_id, None)
            raise
        return self._keep_opener(tenant_id, key, until)

    def _keep_opener(self, tenant_id: str, key: bytes, until: float) -> _Opener:
        known = self._openers.pop(tenant_id, None)
        if len(self._openers) >= BATCH:
            self._openers.clear()
        ciphers = known.ciphers if known is not None and known.key == key else {}
        opener = self._openers[tenant_id] = _Opener(key, _bound(tenant_id), until, ciphers)
        return opener


def _derived(opener: _Opener, salt: bytes) -> AESGCM:
    if len(opener.ciphers) >= _MOST_SALTS:
        opener.ciphers.clear()
    cipher = opener.ciphers[salt] = _cipher(opener.key, salt)
    return cipher


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    """One round of HKDF-Expand (RFC 5869): the tenant's key is random already."""
    return AESGCM(hmac.digest(key, _CONTEXT + salt + b"\x01", hashlib.sha256))


def _bound(tenant_id: str) -> bytes:
    """What every document of a tenant is bound to; no tenant id holds a zero byte."""
    return _CONTEXT + tenant_id.encode() + b"\0"
