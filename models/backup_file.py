"""The one format of backup data: changelog segments and chunks of snapshots.

    8 bytes   magic
    u32, JSON header: what this is (see `models.manifest` for the fields)
    u32, zstd cores of all changes, 122 bytes each (`models.changelog.CORE`)
    u32, zstd the group of each change, u32 each
    then each group: u16, tenant (empty: the region's own); u32, sealed body

All numbers are big-endian; a length stands before what it measures. A body is zstd over MessagePack
of the group's documents in the order of their changes: ``[key, image, payload]`` of each in a
segment; in a chunk the row's columns, which go into a database as they are. It is sealed by the
tenant's key with the SHA-256 of header and cores as associated data, so that it opens in its own
place only. Cores say nothing about a tenant, hence chain and state root can be checked without any
tenant's key.

In a chunk of a snapshot the cores have seq 0 and say that each document was put where none was.
"""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import zstandard

from models.canonical import canonical
from models.changelog import CORE, Change, Entry, read_cores
from models.documents import (
    NAMES,
    TENANT_OWNED,
    document_digest,
    key_digest,
    key_prefix,
    tenant_of_key,
)

MAGIC = b"CRBACK\x00\x01"
LEVEL = 3
LARGEST_PART = 256 * 1024 * 1024
"""Unpacked bytes of one part that are admitted: a file that promises more is refused unread."""

Seal = Callable[[str, bytes, bytes], bytes]
"""Tenant (empty: the region itself), plain bytes, associated data: the sealed bytes."""

Unseal = Callable[[str, bytes, bytes], bytes | None]
"""The reverse; None when the tenant's key was destroyed."""

_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")
_NAMED = struct.Struct(">10x32s32x32s16x")
"""Key digest and digest out of a core."""
_COLLECTION_AT = 8
"""Where a core says the collection, in one byte."""
_KEY_PREFIXES = {code: key_prefix(name) for code, name in NAMES.items()}
_NO_DOCUMENT = ("", None, None)
_ENTRIES = msgspec.msgpack.Decoder(list[tuple[str, str | None, bytes | None]])
_ROWS = msgspec.msgpack.Decoder(list[tuple[Any, ...]])


class BackupDamaged(Exception):
    """A backup file is not what it should be; the message says where."""


class ChunkRow(NamedTuple):
    """A document of a snapshot: its core, whose it is, and its row (`Collection.row`)."""

    change: Change
    tenant: str
    row: Sequence[Any]


@dataclass(frozen=True)
class BackupFile:
    """A file as read: header and cores at once, the documents as they are asked for."""

    header: dict[str, Any]
    cores: bytes
    _groups: tuple[int, ...]
    _sealed: tuple[tuple[str, bytes], ...]
    _bound_to: bytes

    def cores_digest(self) -> bytes:
        """SHA-256 of the cores, which a chunk is named by."""
        return hashlib.sha256(self.cores).digest()

    @cached_property
    def changes(self) -> list[Change]:
        """All changes, by digests alone."""
        return list(read_cores(self.cores))

    def named(self) -> tuple[Sequence[int], Sequence[bytes], Sequence[bytes]]:
        """Collection, key digest and digest of each document, without an object for any.

        Raises:
            BackupDamaged: there is none.
        """
        if not self.cores:
            raise BackupDamaged("holds no documents")
        keys, digests = zip(*_NAMED.iter_unpack(self.cores), strict=True)
        return self.cores[_COLLECTION_AT :: CORE.size], keys, digests

    def entries(self, unseal: Unseal) -> list[Entry | Change]:
        """A segment's changes with their documents; a bare `Change` where the key is destroyed.

        Raises:
            BackupDamaged: a document is not the one that its core names.
        """
        bodies = [
            iter(body) if body is not None else None for body in self._bodies(unseal, _ENTRIES)
        ]
        found: list[Entry | Change] = []
        for change, group in zip(self.changes, self._groups, strict=True):
            body = bodies[group]
            if body is None:
                found.append(change)
                continue
            found.append(Entry(change, *next(body, _NO_DOCUMENT)))
        _check_all([each for each in found if isinstance(each, Entry)])
        return found

    def rows(self, unseal: Unseal) -> list[Sequence[Any] | None]:
        """A chunk's rows in the order of its cores; None where the tenant's key is destroyed.

        Whether they are what the cores name shows when they are in a database, which alone can
        make their images.
        """
        counts = Counter(self._groups)
        rows: list[Sequence[Any] | None] = []
        for number, body in enumerate(self._bodies(unseal, _ROWS)):
            if body is not None and len(body) != counts[number]:
                raise BackupDamaged(f"group {number} has {len(body)} rows, not {counts[number]}")
            rows += [None] * counts[number] if body is None else body
        if list(self._groups) != sorted(self._groups):
            raise BackupDamaged("its groups are not in order")
        return rows

    def _bodies(self, unseal: Unseal, decoder: "msgspec.msgpack.Decoder[Any]") -> list[Any]:
        bodies: list[Any] = []
        unpacker = zstandard.ZstdDecompressor()
        for tenant, sealed in self._sealed:
            packed = unseal(tenant, sealed, self._bound_to)
            try:
                body = (
                    None if packed is None else decoder.decode(_unpack(packed, "a body", unpacker))
                )
            except msgspec.DecodeError as error:
                raise BackupDamaged(f"body of {tenant or 'the region'}: {error}") from None
            bodies.append(body)
        return bodies


def encode_segment(header: dict[str, Any], entries: Sequence[Entry], seal: Seal) -> bytes:
    """A segment with these changes, in this order."""
    items = [(tenant_of(entry), (entry.key, entry.image, entry.payload)) for entry in entries]
    return _encode(header, [entry.change for entry in entries], items, seal)


def encode_chunk(header: dict[str, Any], rows: Sequence[ChunkRow], seal: Seal) -> bytes:
    """A chunk with these documents, each tenant's together."""
    return _encode(header, [row.change for row in rows], [(r.tenant, r.row) for r in rows], seal)


def tenant_of(entry: Entry) -> str:
    """Whose key seals the entry's document; empty: the region's own."""
    owned = NAMES[entry.change.collection] in TENANT_OWNED
    return tenant_of_key(entry.key) if owned else ""


def _encode(
    header: dict[str, Any],
    changes: Sequence[Change],
    items: Sequence[tuple[str, Any]],
    seal: Seal,
) -> bytes:
    cores = b"".join([change.core() for change in changes])
    numbers: dict[str, int] = {}
    bodies: list[list[Any]] = []
    groups = []
    for tenant, item in items:
        number = numbers.setdefault(tenant, len(numbers))
        if number == len(bodies):
            bodies.append([])
        groups.append(number)
        bodies[number].append(item)
    packer = zstandard.ZstdCompressor(level=LEVEL)
    head = canonical(header)
    bound_to = hashlib.sha256(head + cores).digest()
    parts = [MAGIC, _field(head), _field(packer.compress(cores))]
    parts.append(_field(packer.compress(struct.pack(f">{len(groups)}I", *groups))))
    for tenant, number in numbers.items():
        name = tenant.encode()
        body = packer.compress(msgspec.msgpack.encode(bodies[number]))
        parts += (_U16.pack(len(name)), name, _field(seal(tenant, body, bound_to)))
    return b"".join(parts)


def decode(data: bytes) -> BackupFile:
    """Read a file's frame; the documents stay sealed.

    Raises:
        BackupDamaged: it is cut off, or no such file.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise BackupDamaged("is no backup file of this version")
    cursor = _Cursor(data, len(MAGIC))
    head = cursor.field("header")
    try:
        header = json.loads(head)
    except ValueError:
        raise BackupDamaged("its header is not JSON") from None
    cores = _unpack(cursor.field("cores"), "cores")
    packed = _unpack(cursor.field("groups"), "groups")
    if len(cores) % CORE.size or len(packed) != len(cores) // CORE.size * 4:
        raise BackupDamaged("its cores and groups do not match")
    groups = struct.unpack(f">{len(packed) // 4}I", packed)
    sealed = []
    while not cursor.at_end:
        sealed.append((cursor.name(), cursor.field("body")))
    if groups and max(groups) >= len(sealed):
        raise BackupDamaged("a change is in a group that is not there")
    bound_to = hashlib.sha256(head + cores).digest()
    return BackupFile(header, cores, groups, tuple(sealed), bound_to)


def _check_all(entries: Sequence[Entry]) -> None:
    """`_check` of each, several times as fast as long as nothing is wrong."""
    sha256, named = hashlib.sha256, _KEY_PREFIXES
    try:
        right = [
            sha256((named[change.collection] + key).encode()).digest() == change.key
            and (image is None or sha256(image.encode()).digest() == change.after)
            for change, key, image, _payload in entries
        ]
    except KeyError:
        right = [False]
    if not all(right):
        for entry in entries:
            _check(entry)


def _check(entry: Entry) -> None:
    change = entry.change
    name = NAMES.get(change.collection)
    if name is None:
        raise BackupDamaged(f"change {change.seq}: there is no collection {change.collection}")
    if key_digest(name, entry.key) != change.key:
        raise BackupDamaged(f"change {change.seq}: another document than its core names")
    if entry.image is not None and document_digest(entry.image) != change.after:
        raise BackupDamaged(f"change {change.seq}: its content does not match its digest")


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def field(self, what: str) -> bytes:
        try:
            (length,) = _U32.unpack_from(self._data, self._at)
        except struct.error:
            raise BackupDamaged(f"ends at byte {len(self._data)}, before its {what}") from None
        self._at += 4
        return self._take(length)

    def name(self) -> str:
        try:
            (length,) = _U16.unpack_from(self._data, self._at)
            self._at += 2
            return self._take(length).decode()
        except (struct.error, UnicodeDecodeError):
            raise BackupDamaged("a group's tenant is not readable") from None

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise BackupDamaged(f"ends at byte {len(self._data)}, in the middle")
        taken = self._data[self._at : end]
        self._at = end
        return taken


def _field(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


def _unpack(packed: bytes, what: str, unpacker: zstandard.ZstdDecompressor | None = None) -> bytes:
    try:
        size = zstandard.frame_content_size(packed)
        if not 0 <= size <= LARGEST_PART:
            raise BackupDamaged(f"{what}: {size} bytes when unpacked are not admitted")
        return (unpacker or zstandard.ZstdDecompressor()).decompress(packed)
    except zstandard.ZstdError as error:
        raise BackupDamaged(f"{what}: {error}") from None
