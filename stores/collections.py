"""The protected tables, and how their rows become documents and rows again."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Boolean, Column, DateTime, Integer, LargeBinary, String, Table
from sqlmodel import AutoString, SQLModel

from models import tables_buffer, tables_fleet, tables_kv, tables_receipts
from models.documents import NAMES, TENANT_OWNED, DocumentError

_MODELS: tuple[type[SQLModel], ...] = (
    tables_fleet.RegionState,
    tables_fleet.ShardRow,
    tables_fleet.TenantRow,
    tables_kv.KvSpaceRow,
    tables_kv.KvEntryRow,
    tables_receipts.LedgerHeadRow,
    tables_receipts.ReceiptRow,
    tables_receipts.CheckpointRow,
    tables_buffer.BufferMarkRow,
    tables_buffer.BufferConflictRow,
)
_PAYLOADS = {"kv_entry": "value"}
_TEXTS = {("receipt", "data")}


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}")


@dataclass(frozen=True)
class Collection:
    """One protected table: how its rows become documents, and documents rows again.

    Attributes:
        code: the number by which backups name the table; never used for another one.
        columns: all columns but the payload, in the image's order.
        keys: those of the primary key, in the key's order.
    """

    code: int
    name: str
    table: Table
    columns: tuple["Column[Any]", ...]
    keys: tuple["Column[Any]", ...]
    payload: str | None
    tenant_owned: bool
    _image: "msgspec.json.Decoder[tuple[Any, ...]]" = field(repr=False)
    _key: "msgspec.json.Decoder[tuple[Any, ...]]" = field(repr=False)
    _readers: tuple[tuple[int, Callable[[Any], Any]], ...] = field(repr=False)

    @property
    def row_columns(self) -> tuple[str, ...]:
        """The names of what `row` gives, in its order: the image's columns, then the payload."""
        names = tuple(column.name for column in self.columns)
        return names if self.payload is None else (*names, self.payload)

    def row(self, image: str, payload: bytes | None) -> list[Any]:
        """The row that a document stands for; times and booleans as the image has them.

        Raises:
            DocumentError: the image has other columns, or one of another type; the payload is
                missing.
        """
        values = _decoded(self.name, self._image, image)
        index = 0
        try:
            for index, read in self._readers:
                values[index] = read(values[index])
        except ValueError as error:
            raise DocumentError(f"{self.name}.{self.columns[index].name}: {error}") from None
        if self.payload is not None:
            if payload is None:
                raise DocumentError(f"{self.name}.{self.payload}: is missing")
            values.append(payload)
        return values

    def key_row(self, key: str) -> list[Any]:
        """The primary key's columns that a document's key stands for."""
        values = _decoded(self.name, self._key, key)
        for index, column in enumerate(self.keys):
            if (read := _reader(self.name, column)) is not None:
                values[index] = read(values[index])
        return values


def is_text(collection: str, column: str) -> bool:
    """Whether a binary column holds text that the image carries as such."""
    return (collection, column) in _TEXTS


def _decoded(
    collection: str, decoder: "msgspec.json.Decoder[tuple[Any, ...]]", text: str
) -> list[Any]:
    try:
        return list(decoder.decode(text))
    except (msgspec.DecodeError, UnicodeError) as error:
        raise DocumentError(f"{collection}: {error}") from None


def _decoder(columns: Iterable["Column[Any]"]) -> "msgspec.json.Decoder[tuple[Any, ...]]":
    types = tuple(
        _json_type(column) | None if column.nullable else _json_type(column) for column in columns
    )
    return msgspec.json.Decoder(tuple[types])  # type: ignore[valid-type]  # made from the table


def _json_type(column: "Column[Any]") -> type:
    if isinstance(column.type, Integer | Boolean):
        return int
    if isinstance(column.type, LargeBinary | DateTime | String | AutoString):
        return str
    raise TypeError(f"{column}: {column.type!r} has no image")


def _reader(collection: str, column: "Column[Any]") -> Callable[[Any], Any] | None:
    """What makes a column's value of its JSON; None: it is that already."""
    if isinstance(column.type, LargeBinary):
        if is_text(collection, column.name):
            return _text_bytes
        return _bytes if column.nullable else bytes.fromhex
    if isinstance(column.type, DateTime):
        return _time
    return _boolean if isinstance(column.type, Boolean) else None


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else bytes.fromhex(value)


def _text_bytes(value: str) -> bytes:
    return value.encode()


def _time(value: str | None) -> str | None:
    if value is not None and not _TIME.fullmatch(value):
        raise ValueError(f"{value!r:.40} is not a time")
    return value


def _boolean(value: int) -> int:
    if value not in (0, 1):
        raise ValueError(f"{value} is not 0 or 1")
    return value


def _collection(code: int, model: type[SQLModel]) -> Collection:
    name = str(model.__tablename__)
    assert NAMES[code] == name
    table = SQLModel.metadata.tables[name]
    payload = _PAYLOADS.get(name)
    columns = tuple(column for column in table.columns if column.name != payload)
    return Collection(
        code=code,
        name=name,
        table=table,
        columns=columns,
        keys=tuple(table.primary_key.columns),
        payload=payload,
        tenant_owned=name in TENANT_OWNED,
        _image=_decoder(columns),
        _key=_decoder(table.primary_key.columns),
        _readers=tuple(
            (index, read)
            for index, column in enumerate(columns)
            if (read := _reader(name, column)) is not None
        ),
    )


COLLECTIONS: tuple[Collection, ...] = tuple(
    _collection(code, model) for code, model in zip(NAMES, _MODELS, strict=True)
)
BY_CODE: Mapping[int, Collection] = {each.code: each for each in COLLECTIONS}
BY_NAME: Mapping[str, Collection] = {each.name: each for each in COLLECTIONS}
