"""A tenant's inbox over HTTP: what its region has told it, also while the region's store is down.

    GET /_notices            what it has not read; ?after=<number>: all behind that one
    PUT /_notices/read/<n>   it has read everything up to that number

It lies behind Envoy as `gateway.kv_api` does, and the tenant is the one of the authority.
"""

import asyncio
import re
from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

from gateway.envoy import NOTICES_PREFIX
from stores.kv import KvError
from stores.notices import NoticeBoard, NoticeUnknown

_NUMBER = re.compile(r"[0-9]{1,15}")
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

TenantOf = Callable[[web.Request], str]


class NoticeApi:
    """The inboxes of one region.

    Args:
        directory: of the region's mode file.
        tenant_of: the tenant that a request comes from.
    """

    def __init__(self, directory: Path, region: str, tenant_of: TenantOf) -> None:
        self._directory = directory
        self._region = region
        self._tenant_of = tenant_of

    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [
            web.get(NOTICES_PREFIX, self._list),
            web.put(NOTICES_PREFIX + r"/read/{number}", self._read),
        ]

    @cached_property
    def _board(self) -> NoticeBoard:
        return NoticeBoard(self._directory, self._region)

    async def _list(self, request: web.Request) -> web.Response:
        tenant = self._tenant_of(request)
        unknown = set(request.query) - {"after"}
        if unknown:
            raise KvError(min(unknown)[:40], "is no parameter; there is after")
        given = request.query.getall("after", [])
        if len(given) > 1:
            raise KvError("after", "is given twice")
        after = _number(given[0], "after") if given else None
        found = await asyncio.to_thread(lambda: self._board.inbox(tenant, after=after))
        notices = [each.model_dump(mode="json") for each in found]
        return web.json_response({"notices": notices}, headers=_PRIVATE)

    async def _read(self, request: web.Request) -> web.Response:
        tenant = self._tenant_of(request)
        number = _number(request.match_info["number"], "number")
        try:
            await asyncio.to_thread(lambda: self._board.mark_read(tenant, number))
        except NoticeUnknown as error:
            raise KvError("number", str(error)) from None
        return web.Response(status=HTTPStatus.NO_CONTENT)


def _number(text: str, field: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise KvError(field, "must be a number")
    return int(text)
