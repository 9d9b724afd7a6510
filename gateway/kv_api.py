"""A tenant's state over HTTP: ``/_kv/<key>``, behind the region's Envoy.

    GET    /_kv/<key>                   the value; its version is the ETag
    PUT    /_kv/<key>                   write; after If-Match: "<version>" or If-None-Match: *
    DELETE /_kv/<key>                   remove; after If-Match: "<version>"
    GET    /_kv?prefix=&after=&limit=   keys in the order of their bytes, page by page

The tenant is the one that the authority names, which Envoy has routed by; nothing else in a request
can name one. An error is a JSON object with ``error``, ``field`` and ``message``. This API must be
reachable for Envoy only: who can connect to it can put any tenant into the authority.

While the region's primary is down, every answer says ``X-Chainring-Mode: degraded``, and by ``Age``
how many seconds ago the state was read that lies beneath the buffered writes.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import singledispatch
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from aiohttp import hdrs, web
from sqlalchemy import Engine, text

from gateway.envoy import KV_PREFIX, tenant_of
from gateway.kv_mode import ModeUnavailable, RegionMode, Serving, TenantKeys
from gateway.metrics import RegionMetrics
from gateway.notice_api import NoticeApi
from stores.kv import (
    ABSENT,
    LARGEST_VALUE,
    CorruptValue,
    KvError,
    QuotaExceeded,
    VersionConflict,
)
from stores.spool import SpoolClosed, SpoolError, SpoolFull, SpoolLimits
from stores.sql import StoreUnavailable, read

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MODE = web.AppKey("mode", RegionMode)
_METRICS = web.AppKey("metrics", RegionMetrics)
_REGION = web.AppKey("region", str)
_QUOTA = web.AppKey("quota", int)
_SERVING = web.RequestKey("serving", Serving)

_VERSION_TAG = re.compile(r'"([0-9]{1,18})"')
_KEY_PATH = KV_PREFIX + r"/{key:[\s\S]*}"  # a line break too: it is refused as a key, not as a path
_PAGE_PARAMETERS = {"prefix", "after", "limit"}
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def kv_application(
    engine: Callable[[], Engine],
    region: str,
    *,
    quota_bytes: int | None = None,
    recovery: Path | None = None,
    limits: SpoolLimits | None = None,
) -> web.Application:
    """The API of one region's tenants.

    Args:
        engine: of the region's primary, whichever that is when it is asked for.
        quota_bytes: limits each tenant's keys and values.
        recovery: directory that says whether the primary serves (`stores.primary`), and where
            writes are buffered while it does not; None: it always serves.
        limits: of the buffer.
    """
    app = web.Application(client_max_size=LARGEST_VALUE, middlewares=[_errors_as_json])
    app[_MODE] = mode = RegionMode(engine, region, recovery, limits or SpoolLimits())
    app[_METRICS] = RegionMetrics(mode)
    app[_REGION] = region
    if quota_bytes is not None:
        app[_QUOTA] = quota_bytes
    app.cleanup_ctx.append(_following)
    app.router.add_get("/healthz", _health)
    app.router.add_get("/metrics", app[_METRICS].answer)
    app.router.add_get(KV_PREFIX, _list)
    app.router.add_get(_KEY_PATH, _get)
    app.router.add_put(_KEY_PATH, _put)
    app.router.add_delete(_KEY_PATH, _delete)
    if recovery is not None:
        app.router.add_routes(NoticeApi(recovery, region, _tenant).routes())
    return app


async def _following(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[_MODE].follow())
    yield
    task.cancel()
    await app[_MODE].close()


async def _get(request: web.Request) -> web.Response:
    tenant, key = _tenant(request), _key(request)
    kv = await _keys(request, tenant)
    found = await _call(request, lambda: kv.get(key))
    if found is None:
        return _error(HTTPStatus.NOT_FOUND, "not_found", "key", "there is no such key")
    headers = {"ETag": _tag(found.version), **_PRIVATE}
    return web.Response(body=found.value, headers=headers, content_type="application/octet-stream")


async def _put(request: web.Request) -> web.Response:
    tenant, key, expected = _tenant(request), _key(request), _expected_version(request)
    value = await request.read()
    kv = await _keys(request, tenant)  # last: what is in force may change while the body comes in
    version = await _call(request, lambda: kv.put(key, value, expected_version=expected))
    return web.json_response({"version": version}, headers={"ETag": _tag(version)})


async def _delete(request: web.Request) -> web.Response:
    tenant, key, expected = _tenant(request), _key(request), _expected_version(request)
    kv = await _keys(request, tenant)
    if not await _call(request, lambda: kv.delete(key, expected_version=expected)):
        return _error(HTTPStatus.NOT_FOUND, "not_found", "key", "there is no such key")
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def _list(request: web.Request) -> web.Response:
    tenant, asked = _tenant(request), _page_parameters(request)
    prefix, after, limit = asked.get("prefix", ""), asked.get("after"), _limit(asked)
    kv = await _keys(request, tenant)
    page = await _call(request, lambda: kv.list(prefix, after=after, limit=limit))
    keys = [{"key": each.key, "version": each.version, "size": each.size} for each in page.keys]
    return web.json_response({"keys": keys, "after": page.after}, headers=_PRIVATE)


async def _health(request: web.Request) -> web.Response:
    """Whether the region's state can be asked for. Envoy routes no tenant here.

    In normal mode its database must answer; while that is down, ``fill`` is the buffer's.
    """
    region = request.app[_REGION]
    serving = await request.app[_MODE].serving()
    if serving.buffer is not None:
        mode = {"mode": serving.primary.mode, "fill": round(serving.buffer.fill, 6)}
        return web.json_response({"status": "degraded", "region": region, **mode})

    def ask() -> None:
        with read(serving.engine) as connection:
            connection.execute(text("SELECT 1"))

    await request.app[_MODE].call(serving, ask)
    return web.json_response({"status": "ok", "region": region})


def _tenant(request: web.Request) -> str:
    """The tenant in the authority, which there must be one of, read in one way."""
    hosts = request.headers.getall(hdrs.HOST, [])
    if len(hosts) != 1 or not request.raw_path.startswith("/"):
        raise KvError("host", "a request names its host once, in the Host header")
    tenant = tenant_of(hosts[0], request.app[_REGION])
    if tenant is None:
        raise _UnknownTenant
    return tenant


async def _keys(request: web.Request, tenant: str) -> TenantKeys:
    """The tenant's keys in what is in force now, which serves the whole request."""
    serving = await request.app[_MODE].serving()
    request[_SERVING] = serving
    return serving.keys(tenant, request.app.get(_QUOTA))


async def _call(request: web.Request, work: Callable[[], _T]) -> _T:
    return await request.app[_MODE].call(request[_SERVING], work)


def _key(request: web.Request) -> str:
    """The rest of the path, decoded once and strictly: no second spelling of broken bytes."""
    encoded = request.rel_url.raw_path.removeprefix(f"{KV_PREFIX}/")
    try:
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise KvError("key", "is not valid UTF-8") from None


def _expected_version(request: web.Request) -> int | None:
    """What If-Match or If-None-Match ask for, as a version; None when neither is there."""
    match = request.headers.getall(hdrs.IF_MATCH, [])
    none_match = request.headers.getall(hdrs.IF_NONE_MATCH, [])
    if match and none_match:
        raise KvError("If-Match", "cannot go with If-None-Match")
    if none_match:
        if none_match != ["*"]:
            raise KvError("If-None-Match", "must be *")
        return ABSENT
    if not match:
        return None
    tag = _VERSION_TAG.fullmatch(match[0])
    if tag is None or len(match) > 1:
        raise KvError("If-Match", 'must be one version in quotes, like "7"')
    return int(tag[1])


def _page_parameters(request: web.Request) -> dict[str, str]:
    asked: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in _PAGE_PARAMETERS:
            raise KvError(name[:40], "is no parameter; there are prefix, after and limit")
        if name in asked:
            raise KvError(name, "is given twice")
        asked[name] = value
    return asked


def _limit(asked: dict[str, str]) -> int:
    given = asked.get("limit", "100")
    if not re.fullmatch(r"[0-9]{1,6}", given):
        raise KvError("limit", "must be a number")
    return int(given)


def _tag(version: int) -> str:
    return f'"{version}"'


class _UnknownTenant(Exception):
    """The authority is not the host name of a tenant of this region."""


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        answer = await handler(request)
    except Exception as error:
        if isinstance(error, SpoolFull):
            request.app[_METRICS].refused()
        answer = _refusal(error)
    if _SERVING in request:
        answer.headers.update(request[_SERVING].headers())
    return answer


@singledispatch
def _refusal(error: Exception) -> web.Response:
    """The answer to an error of a handler; one that is not foreseen stays an error."""
    raise error


@_refusal.register
def _(error: KvError) -> web.Response:
    too_large = error.field == "value"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
    return _error(status, "refused", error.field, error.message)


@_refusal.register
def _(_error_of_tenant: _UnknownTenant) -> web.Response:
    return _error(HTTPStatus.NOT_FOUND, "unknown_tenant", "host", "no tenant has this host name")


@_refusal.register
def _(error: VersionConflict) -> web.Response:
    answer = _error(HTTPStatus.PRECONDITION_FAILED, "conflict", "version", str(error))
    if error.found != ABSENT:
        answer.headers["ETag"] = _tag(error.found)
    return answer


@_refusal.register
def _(error: QuotaExceeded) -> web.Response:
    return _error(HTTPStatus.CONFLICT, "quota", "value", str(error))


@_refusal.register
def _(error: CorruptValue) -> web.Response:
    _log.error("kv: %s", error)
    message = "the stored value is damaged; write it anew or have it restored"
    return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "corrupt", "value", message)


@_refusal.register
def _(error: StoreUnavailable) -> web.Response:
    _log.warning("kv: %s", error)
    return _come_back(1, "store", f"the store is {error.kind}")


@_refusal.register
def _(error: SpoolFull) -> web.Response:
    return _come_back(5, "buffer_full", str(error))


@_refusal.register
def _(error: SpoolClosed) -> web.Response:
    return _come_back(1, "draining", str(error))


@_refusal.register
def _(error: SpoolError) -> web.Response:
    _log.warning("kv: %s", error)
    return _come_back(1, "buffer", str(error))


@_refusal.register
def _(_error_of_mode: ModeUnavailable) -> web.Response:
    return _come_back(1, "mode", "the region cannot serve now")  # the log says more


@_refusal.register
def _(error: web.HTTPException) -> web.Response:
    """Of aiohttp itself: the body is too large, there is no such path or method."""
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        message = f"at most {LARGEST_VALUE} bytes are kept"
        return _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "refused", "value", message)
    return _error(HTTPStatus(error.status), "refused", "request", error.reason)


def _come_back(seconds: int, error: str, message: str) -> web.Response:
    """Nothing was done, and it may be in ``seconds``."""
    answer = _error(HTTPStatus.SERVICE_UNAVAILABLE, error, None, message)
    answer.headers["Retry-After"] = str(seconds)
    return answer


def _error(status: HTTPStatus, error: str, field: str | None, message: str) -> web.Response:
    body = {"error": error, "field": field, "message": message}
    return web.json_response(body, status=status)
