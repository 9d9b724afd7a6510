"""Private keys, one file each, readable by its owner only; those of the ledgers are Ed25519 in PEM.

A private key leaves its file only into the process that signs; no function here prints one.
"""

import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from models.checkpoint import PublicKey, parse_keys, public_key
from models.verifier import Refused
from stores.files import FileWatch, sync_directory


class KeyFileError(Exception):
    """A key file is missing, open to others, or holds no Ed25519 key; the message names it."""


@dataclass(frozen=True)
class SigningKey:
    """A ledger's private key and the file it came from.

    ``retired`` are the keys that signed before it, each with how far it counts.
    """

    path: Path
    _private: Ed25519PrivateKey = field(repr=False)
    retired: tuple[PublicKey, ...] = ()
    _file: tuple[int, int, int] | None = None

    @property
    def private(self) -> Ed25519PrivateKey:
        """To sign with.

        Raises:
            KeyFileError: another key is in its place by now: this process is to start anew.
        """
        now = FileWatch(self.path).look()
        if self._file is not None and now is not None and now != self._file:
            raise KeyFileError(f"{self.path}: was replaced; what signs with it must start anew")
        return self._private

    def trusted(self, ledger: str) -> list[PublicKey]:
        """What verifies the ledger's past: this key, then the retired ones."""
        return [self.public(ledger), *self.retired]

    def public(self, ledger: str) -> PublicKey:
        """The public half, under the ledger's name; publish its ``vkey()``."""
        return public_key(self._private, ledger)


def ensure_key(path: Path) -> SigningKey:
    """Load the key, or create it if there is none; two processes at once get the same one.

    Raises:
        KeyFileError: see `load_key`.
        OSError: the directory is not writable.
    """
    if not path.exists():
        create_private_key(path, Ed25519PrivateKey.generate())
    return load_key(path)


def load_key(path: Path) -> SigningKey:
    """Read a signing key.

    Raises:
        KeyFileError: missing, readable by others than its owner, no Ed25519 key in PEM, or retired.
    """
    file = FileWatch(path).look()
    key = read_private_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: holds no Ed25519 key")
    retired = read_retired(path)
    if any(each.raw == key.public_key().public_bytes_raw() for each in retired):
        raise KeyFileError(
            f"{path}: holds a retired key; finish with `chainring receipts retire-key`"
        )
    return SigningKey(path, key, tuple(retired), file)


def retired_file(path: Path) -> Path:
    """Where the retired public keys of a signing key are: this file goes where the key goes."""
    return path.with_name(f"{path.name}.retired")


def read_retired(path: Path) -> list[PublicKey]:
    """The keys that the one in ``path`` has followed; none where there is no such file.

    Raises:
        KeyFileError: the file is damaged, or a key in it has no end.
    """
    file = retired_file(path)
    try:
        keys = parse_keys(file.read_text())
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, Refused) as error:
        raise KeyFileError(f"{file}: {error}") from None
    if any(each.until is None for each in keys):
        raise KeyFileError(f"{file}: a key in it is not retired")
    return keys


def read_private_key(path: Path) -> PrivateKeyTypes:
    """Read a private key of any kind.

    Raises:
        KeyFileError: missing, readable by others than its owner, or no unencrypted key in PEM.
    """
    content = read_private_file(path)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path}: holds no unencrypted private key in PEM") from None
    return key


def read_private_file(path: Path) -> bytes:
    """The content of a file that only its owner may read.

    Raises:
        KeyFileError: missing, or readable by others.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise KeyFileError(f"{path}: others may read it (mode {mode:o}); chmod 600 it")
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None


def create_private_key(path: Path, key: PrivateKeyTypes) -> None:
    """Write a key beside its place and link it in: whole or not there, never overwritten.

    Raises:
        OSError: the directory is not writable.
    """
    create_private_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def create_private_file(path: Path, content: bytes) -> None:
    """Keep a secret as `create_private_key` keeps a key; one that is there already stays.

    Raises:
        OSError: the directory is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)
    except FileExistsError:
        pass  # another process was first; its key counts
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
