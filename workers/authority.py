"""The embedded authority's process, on loopback alone. `python -m workers authority`."""

import asyncio
import json
import logging
import signal
from collections.abc import Awaitable, Callable

from aiohttp import BasicAuth, web

from models.addresses import AuthorityAddress
from stores.authority import BadRequest, LocalAuthority
from stores.authority_keys import AuthorityKeys
from stores.authority_tokens import TokenRefused, read_clients
from stores.timestamp_authority import BadTimestampRequest
from workers.settings import load_authority

log = logging.getLogger("chainring")

CLIENTS = "clients.json"
_MAX_REQUEST = 64 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def open_authority(address: AuthorityAddress) -> LocalAuthority:
    """The authority at an address, its keys made if there are none."""
    keys = AuthorityKeys(address.directory, address.url)
    return LocalAuthority(keys, read_clients(address.directory / CLIENTS))


def authority_app(authority: LocalAuthority) -> web.Application:
    """Its HTTP interfaces: OpenID Connect, Fulcio v2, Rekor v2, RFC 3161.

    Signing takes less than a millisecond and a log entry one write to disk, so requests are
    answered one after the other.
    """
    tokens = authority.tokens

    async def token(request: web.Request) -> web.Response:
        try:
            who = BasicAuth.decode(request.headers.get("Authorization", ""))
        except ValueError:
            raise TokenRefused("client: no client and secret (HTTP Basic)") from None
        form = await request.post()
        if form.get("grant_type") != "client_credentials":
            raise BadRequest("grant_type: only client_credentials is served")
        made = tokens.issue(who.login, who.password)
        return web.json_response(
            {"access_token": made, "id_token": made, "token_type": "Bearer"},
            headers={"Cache-Control": "no-store"},
        )

    async def certificate(request: web.Request) -> web.Response:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        asked = _object(await request.read())
        if scheme.lower() != "bearer":
            found = asked.get("credentials")  # where Fulcio's own clients put it
            bearer = str(found.get("oidcIdentityToken", "")) if isinstance(found, dict) else ""
        return web.json_response(authority.certificate(bearer, asked))

    async def entry(request: web.Request) -> web.Response:
        return web.json_response(authority.log_entry(await request.read()), status=201)

    async def timestamp(request: web.Request) -> web.Response:
        answer = authority.keys.timestamps.answer(await request.read())
        return web.Response(body=answer, status=201, content_type="application/timestamp-reply")

    async def healthy(_: web.Request) -> web.Response:
        return web.json_response({"ready": True, "entries": authority.log.size})

    async def checkpoint(_: web.Request) -> web.Response:
        return web.Response(text=authority.log.checkpoint())

    def said(value: object) -> Handler:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response(value)

        return answer

    app = web.Application(client_max_size=_MAX_REQUEST, middlewares=[_refusals])
    app.router.add_get("/healthz", healthy)
    app.router.add_get("/.well-known/openid-configuration", said(tokens.configuration()))
    app.router.add_get("/keys", said(tokens.keys()))
    app.router.add_post("/token", token)
    app.router.add_post("/api/v2/signingCert", certificate)
    app.router.add_get("/api/v2/trustBundle", said(authority.trust_bundle()))
    app.router.add_post("/api/v2/log/entries", entry)
    app.router.add_get("/api/v2/checkpoint", checkpoint)
    app.router.add_post("/api/v1/timestamp", timestamp)
    return app


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is refused is said, in the form that Fulcio's clients read."""
    try:
        return await handler(request)
    except TokenRefused as error:
        return web.json_response({"code": 16, "message": str(error)}, status=401)
    except (BadRequest, BadTimestampRequest) as error:
        return web.json_response({"code": 3, "message": str(error)}, status=400)


def _object(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise BadRequest(f"request: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("request: not a JSON object")
    return value


async def run_authority() -> int:
    """Serve until told to stop.

    Raises:
        KeyFileError, LogInUse, LogDamaged: see `stores.authority`.
    """
    address = load_authority()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with open_authority(address) as authority:
        runner = web.AppRunner(authority_app(authority), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", address.port).start()
            log.info("authority is ready at %s", address.url)
            await stop.wait()
        finally:
            await runner.cleanup()
    return 0
