"""The signing keys of one identity, rotated: a directory with a public registry of all of them.

A key signs for a fixed time and is then replaced; its private half is removed, its public half and
its days stay in the registry for as long as anybody verifies what it signed. A revocation has a
date: what a trusted clock saw before it stands.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from models.strict_json import EvidenceError
from models.trust import TrustedKey, TrustRoot, key_id, load_p256, read_trust_root
from stores.files import file_lock, write_atomic
from stores.keys import KeyFileError, create_private_key
from stores.ledger import utc_now
from stores.signing import KeySigner, TimestampSource, file_signer

ROTATION_DAYS = 90.0
REGISTRY = "registry.json"

_MARGIN = timedelta(hours=1)  # before a key's end: a signature must get its timestamp in time
_SKEW = timedelta(minutes=5)  # before a key's birth: the timestamp's clock may be behind ours


class SigningKeys:
    """The keys in a directory: ``registry.json``, and a private PEM file (0600) of the current key.

    Processes may share the directory. Methods raise `stores.keys.KeyFileError` when the registry or
    a key cannot be read, and OSError when the directory is not writable.
    """

    def __init__(
        self,
        directory: Path,
        identity: str,
        *,
        rotation_days: float = ROTATION_DAYS,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if not 0 < rotation_days <= 3660:
            raise ValueError(f"rotation_days: {rotation_days} is not in (0, 3660]")
        self.directory = directory
        self.identity = identity
        self._rotation = timedelta(days=rotation_days)
        self._clock = clock

    def current(self) -> TrustedKey:
        """The key that signs now; a new one if there is none, or its days are over."""
        now = self._clock()
        with self._locked():
            keys = self._read()
            last = keys[-1] if keys else None
            if last is not None and self._signs(last, now):
                return last
            return self._replace(keys, now)

    def signer(self, timestamps: Sequence[TimestampSource]) -> KeySigner:
        """A signer with the current key; get one for each piece of work, so that keys rotate."""
        key = self.current()
        return file_signer(self._private(key), key.public_key, timestamps)

    def adopt(self, public_key: str) -> TrustedKey:
        """The entry of a key whose private half somebody else keeps; new ones end the old ones'
        days.

        Raises:
            ValueError: the key is not on P-256, its days here are over, or it is revoked.
        """
        now = self._clock()
        with self._locked():
            keys = self._read()
            identifier = key_id(load_p256(public_key))
            known = next((key for key in keys if key.key_id == identifier), None)
            if known is None:
                return self._add(keys, public_key, now)
            if known.revoked_at is not None:
                raise ValueError(f"key {identifier} is revoked: {known.revoked_because}")
            if not self._may_sign(known, now):
                raise ValueError(f"key {identifier}: its days are over; rotate it where it is kept")
            return known

    def rotate(self) -> TrustedKey:
        """Replace the current key now; the old one's days end."""
        now = self._clock()
        with self._locked():
            return self._replace(self._read(), now)

    def revoke(self, identifier: str, at: datetime, reason: str) -> TrustedKey:
        """Revoke a key from a time on, for a reason; its private half is removed.

        The time may lie back, where a theft is found late, and may be moved back, never forth.

        Raises:
            ValueError: no such key, a time that is to come, or later than the one there.
        """
        with self._locked():
            keys = self._read()
            place = next((n for n, key in enumerate(keys) if key.key_id == identifier), None)
            if place is None:
                raise ValueError(f"key: {identifier!r} is not in {self.directory / REGISTRY}")
            before = keys[place].revoked_at
            if at > self._clock():
                raise ValueError(f"at: {at.isoformat()} is to come")
            if before is not None and at > before:
                raise ValueError(f"at: the key is revoked from {before.isoformat()} on already")
            keys[place] = _changed(keys[place], revoked_at=at, revoked_because=reason)
            self._write(keys)
            self._private(keys[place]).unlink(missing_ok=True)
            return keys[place]

    def public(self) -> list[TrustedKey]:
        """Public halves of all keys there ever were, in order of their creation."""
        with self._locked():
            return self._read()

    def export(self, trust: TrustRoot) -> TrustRoot:
        """A trust root with these keys added, or brought up to date; no revocation is lost."""
        merged = {key.key_id: key for key in trust.signing_keys}
        for key in self.public():
            merged[key.key_id] = _earliest_revocation(key, merged.get(key.key_id, key))
        return trust.model_copy(update={"signing_keys": list(merged.values())})

    def _signs(self, key: TrustedKey, now: datetime) -> bool:
        return self._may_sign(key, now) and self._private(key).exists()

    def _may_sign(self, key: TrustedKey, now: datetime) -> bool:
        margin = min(_MARGIN, self._rotation / 10)
        usable = key.revoked_at is None and key.identity == self.identity
        # A rotation that was made shorter also ends the days of the key that signs already.
        end = min(key.valid_until, key.valid_from + _SKEW + self._rotation)
        return usable and now < end - margin

    def _replace(self, keys: list[TrustedKey], now: datetime) -> TrustedKey:
        """Retire what signs and add a new key; the private half is on disk before the registry."""
        private = ec.generate_private_key(ec.SECP256R1())
        create_private_key(self.directory / f"{key_id(private.public_key())}.pem", private)
        pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return self._add(keys, pem.decode(), now)

    def _add(self, keys: list[TrustedKey], public_key: str, now: datetime) -> TrustedKey:
        """Have a new key's days begin, and those of the others end."""
        new = TrustedKey(
            identity=self.identity,
            public_key=public_key,
            valid_from=now - _SKEW,
            valid_until=now + self._rotation,
        )
        # Work under way may still get its timestamp: the old key's days end a little later.
        end = now + min(_MARGIN, self._rotation / 10)
        retired = [_changed(key, valid_until=end) if key.valid_until > end else key for key in keys]
        self._write([*retired, new])
        for key in keys:
            self._private(key).unlink(missing_ok=True)
        return new

    def _private(self, key: TrustedKey) -> Path:
        return self.directory / f"{key.key_id}.pem"

    def _locked(self) -> AbstractContextManager[None]:
        return file_lock(self.directory / "registry.lock")

    def _read(self) -> list[TrustedKey]:
        path = self.directory / REGISTRY
        try:
            return read_trust_root(path.read_bytes()).signing_keys
        except FileNotFoundError:
            return []
        except (OSError, EvidenceError) as error:
            raise KeyFileError(f"{path}: {error}") from None

    def _write(self, keys: list[TrustedKey]) -> None:
        write_atomic(self.directory / REGISTRY, TrustRoot(signing_keys=keys).to_bytes())


def _changed(key: TrustedKey, **changes: object) -> TrustedKey:
    return TrustedKey.model_validate(key.model_dump() | changes)


def _earliest_revocation(key: TrustedKey, known: TrustedKey) -> TrustedKey:
    """``key``, revoked as early as one of the two says."""
    if known.revoked_at is None or (key.revoked_at and key.revoked_at <= known.revoked_at):
        return key
    return _changed(key, revoked_at=known.revoked_at, revoked_because=known.revoked_because)
