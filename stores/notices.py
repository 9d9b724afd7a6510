"""A region's notices to its tenants, and how far each has read: a file beside the write buffer.

It is no part of the region's store, because it has to be read while that is down. A notice is one
row, however many tenants the region has; a tenant has one row once it has read something.
"""

import secrets
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, update

from models.notices import MESSAGES, Notice, NoticeKind, is_news
from stores.sql import open_engine, read, write

NOTICES = "notices.db"
"""The file's name, in the directory of the region's mode file."""
LARGEST_PAGE = 100

_metadata = MetaData()
_NOTICE = Table(
    "notice",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("at", String, nullable=False),
    Column("message", String, nullable=False),
)
_READ = Table(
    "notice_read",
    _metadata,
    Column("tenant", String, primary_key=True),
    Column("number", Integer, nullable=False),
)


class NoticeUnknown(ValueError):
    """There is no notice of this number yet."""


class NoticeBoard:
    """The notices of one region; any number of processes may post and read.

    Every method raises `StoreUnavailable` where the file cannot be read or written.
    """

    def __init__(self, directory: Path, region: str) -> None:
        self._region = region
        self._engine = open_engine(f"sqlite:///{directory / NOTICES}")
        with write(self._engine) as connection:
            _metadata.create_all(connection)

    def post(self, kind: NoticeKind, *, at: datetime) -> Notice | None:
        """Tell the tenants; None when they know already. A notice that is posted stays."""
        newest = select(_NOTICE.c.number, _NOTICE.c.kind).order_by(_NOTICE.c.number.desc()).limit(1)
        with write(self._engine) as connection:
            last = connection.execute(newest).first()
            if not is_news(kind, None if last is None else last.kind):
                return None
            notice = Notice(
                id=secrets.token_hex(16),
                region=self._region,
                number=1 if last is None else last.number + 1,
                kind=kind,
                at=at,
                message=MESSAGES[kind],
            )
            row = {**notice.model_dump(exclude={"region"}), "at": at.astimezone(UTC).isoformat()}
            connection.execute(insert(_NOTICE), row)
        return notice

    def newest(self, kind: NoticeKind) -> Notice | None:
        """The newest notice, if it is of that kind: what a post that told no news has told."""
        query = select(_NOTICE).order_by(_NOTICE.c.number.desc()).limit(1)
        with read(self._engine) as connection:
            row = connection.execute(query).first()
        if row is None or row.kind != kind:
            return None
        return Notice(**row._mapping, region=self._region)

    def inbox(self, tenant: str, *, after: int | None = None, limit: int = 100) -> list[Notice]:
        """A tenant's notices in their order: what it has not read, or all behind ``after``."""
        with read(self._engine) as connection:
            if after is None:
                own = select(_READ.c.number).where(_READ.c.tenant == tenant)
                after = connection.execute(own).scalar() or 0
            query = (
                select(_NOTICE)
                .where(_NOTICE.c.number > after)
                .order_by(_NOTICE.c.number)
                .limit(min(limit, LARGEST_PAGE))
            )
            rows = connection.execute(query).all()
        return [Notice(**row._mapping, region=self._region) for row in rows]

    def mark_read(self, tenant: str, number: int) -> None:
        """A tenant has read all up to ``number``; what it has read stays read.

        Raises:
            NoticeUnknown: there is no such notice.
        """
        with write(self._engine) as connection:
            last = connection.execute(select(func.max(_NOTICE.c.number))).scalar() or 0
            if number > last:
                raise NoticeUnknown(f"there is no notice {number}; the newest is {last}")
            own = update(_READ).where(_READ.c.tenant == tenant)
            further = own.where(_READ.c.number < number).values(number=number)
            if connection.execute(further).rowcount:
                return
            known = select(_READ.c.tenant).where(_READ.c.tenant == tenant)
            if connection.execute(known).first() is None:
                connection.execute(insert(_READ), {"tenant": tenant, "number": number})
