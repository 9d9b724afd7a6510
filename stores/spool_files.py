"""A spool's directory: its segments in their order, checked, as one run of records."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from models.spool import (
    HEADER_SIZE,
    Header,
    OutageProof,
    Record,
    SpoolDamaged,
    outage_proof,
    read_header,
    read_mark,
    scan,
)

MARK = "acknowledged"
"""The file with the number of the last durable record."""


class Contents(NamedTuple):
    """What is in a spool: the headers of the kept segments, and all records.

    Attributes:
        end: the offset after the last whole record in the newest segment.
        acknowledged: the owner has flushed at least the records up to this one.
    """

    headers: list[Header]
    records: list[Record]
    end: int
    acknowledged: int

    @property
    def drained(self) -> int:
        """All records up to this one are in the store."""
        return self.headers[0].first - 1

    @property
    def last(self) -> int:
        """The number of the last record."""
        return self.drained + len(self.records)

    @property
    def chain(self) -> bytes:
        """The chain hash after the last record."""
        return self.records[-1].chain if self.records else self.headers[0].chain

    def proof(self) -> OutageProof:
        """The records by ranges and hashes."""
        return outage_proof(self.headers[-1], self.headers[0], self.last, self.chain)


def read_spool(directory: Path) -> Contents | None:
    """The durable records of a spool, also while its owner appends; None where there is no spool.

    Raises:
        SpoolDamaged: names the record or segment.
    """
    whole = open_spool(directory)
    if whole is None:
        return None
    durable = [each for each in whole.records if each.number <= whole.acknowledged]
    return whole._replace(records=durable)


def open_spool(directory: Path) -> Contents | None:
    """All whole records, also those that nobody has acknowledged; for the owner.

    Raises:
        SpoolDamaged: names the record or segment.
    """
    headers = _kept(directory)
    if not headers:
        return None
    mark = read_mark(_bytes(directory / MARK), headers[0].spool)  # before the data: a lower bound
    records: list[Record] = []
    for header, following in pairwise(headers):
        name = segment_name(header)
        data = (directory / name).read_bytes()
        found = scan(data, header, name=name, acknowledged=following.first - 1)
        records += found.records
        chain = found.records[-1].chain if found.records else header.chain
        if header.first + len(found.records) != following.first or found.end != len(data):
            raise SpoolDamaged(f"{name}: does not end with record {following.first - 1}")
        if chain != following.chain:
            raise SpoolDamaged(f"{segment_name(following)}: does not follow {name}")
    newest = headers[-1]
    name = segment_name(newest)
    found = scan((directory / name).read_bytes(), newest, name=name, acknowledged=mark)
    last = newest.first + len(found.records) - 1
    if last < mark:
        raise SpoolDamaged(f"{name}: record {last + 1} was acknowledged and is not there")
    flushed = max(mark, newest.first - 1)
    return Contents(headers, records + found.records, found.end, flushed)


def segment_name(header: Header) -> str:
    """Names sort in the order of the records, and then of the owners."""
    return f"{header.first:020d}-{header.epoch:010d}.spool"


def segment_names(directory: Path) -> list[str]:
    """The files that hold records, in their order."""
    return sorted(each.name for each in directory.glob("[0-9]*.spool"))


def _kept(directory: Path) -> list[Header]:
    """The headers of the segments that still count: those before hold drained records only."""
    names = segment_names(directory)
    headers = [_header(directory / name) for name in names]
    if not headers:
        return []
    drained = headers[-1].drained
    while len(headers) > 1 and headers[1].first <= drained + 1:
        headers.pop(0)
    if headers[0].first != drained + 1:
        raise SpoolDamaged(
            f"{names[0]}: records {drained + 1} to {headers[0].first - 1} are missing before it"
        )
    if len({each.spool for each in headers}) > 1:
        raise SpoolDamaged(f"{directory}: holds segments of different spools")
    return headers


def _header(path: Path) -> Header:
    with path.open("rb") as file:
        header = read_header(file.read(HEADER_SIZE), name=path.name)
    if segment_name(header) != path.name:
        raise SpoolDamaged(f"{path.name}: its header is that of {segment_name(header)}")
    return header


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
