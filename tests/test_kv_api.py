"""Tenants' state over HTTP: the API itself, then through a real Envoy to a real process."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from gateway_harness import REGION, Gateway, digest, running_gateway, table, wait_until
from sqlalchemy import Engine, text

from gateway.envoy import tenant_host
from gateway.kv_api import kv_application
from models.addresses import RegionAddresses
from stores.kv import LARGEST_KEY, LARGEST_VALUE, TenantKV
from stores.sql import StoreUnavailable, create_all, open_engine, write

HOST_A = {"Host": tenant_host("a", REGION)}
HOST_B = {"Host": tenant_host("b", REGION)}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(f"sqlite:///{tmp_path}/eu.db")
    create_all(opened)
    yield opened
    opened.dispose()


@pytest.fixture
async def api(engine: Engine) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(kv_application(lambda: engine, REGION))) as client:
        yield client


async def refused(response, status: int, field: str | None) -> dict[str, str]:
    body = await response.json()
    assert (response.status, body["field"]) == (status, field), body
    assert body["message"]
    return body


async def test_a_value_is_written_read_and_removed(api: TestClient):
    written = await api.put("/_kv/k", data=b"\x00\xff", headers=HOST_A)
    assert written.status == 200
    found = await api.get("/_kv/k", headers=HOST_A)
    assert (await found.read(), found.headers["ETag"]) == (b"\x00\xff", written.headers["ETag"])
    assert found.headers["Cache-Control"] == "no-store"
    assert (await api.delete("/_kv/k", headers=HOST_A)).status == 204
    await refused(await api.get("/_kv/k", headers=HOST_A), 404, "key")
    await refused(await api.delete("/_kv/k", headers=HOST_A), 404, "key")


async def test_tenants_have_keys_of_their_own(api: TestClient):
    await api.put("/_kv/k", data=b"of a", headers=HOST_A)
    await refused(await api.get("/_kv/k", headers=HOST_B), 404, "key")
    await api.put("/_kv/k", data=b"of b", headers=HOST_B)
    await api.delete("/_kv/k", headers=HOST_B)
    assert await (await api.get("/_kv/k", headers=HOST_A)).read() == b"of a"
    assert (await (await api.get("/_kv", headers=HOST_B)).json())["keys"] == []


@pytest.mark.parametrize(
    "path",
    ["/_kv/a/k", "/_kv/b%2Fk", "/_kv/../b/k", "/_kv/%2e%2e/b/k", "/_kv/b%00k", "/_kv/b:k"],
)
async def test_no_key_reaches_over_to_another_tenant(api: TestClient, path: str):
    for own in ("k", "a/k", "b/k"):
        await api.put(f"/_kv/{own}", data=b"of b", headers=HOST_B)
    found = await api.get(path, headers=HOST_A)
    assert found.status in (400, 404)
    await api.put(path, data=b"of a", headers=HOST_A)
    for own in ("k", "a/k", "b/k"):
        assert await (await api.get(f"/_kv/{own}", headers=HOST_B)).read() == b"of b"


@pytest.mark.parametrize(
    "extra",
    [
        {"X-Forwarded-Host": tenant_host("b", REGION)},
        {"X-Chainring-Tenant": "b"},
        {"Forwarded": f"host={tenant_host('b', REGION)}"},
    ],
)
async def test_no_header_but_the_host_names_a_tenant(api: TestClient, extra: dict[str, str]):
    await api.put("/_kv/k", data=b"of b", headers=HOST_B)
    await refused(await api.get("/_kv/k", headers={**HOST_A, **extra}), 404, "key")


@pytest.mark.parametrize(
    "host",
    ["", "a", "a.us.fleet.internal", "a.b.eu.fleet.internal", "A_.eu.fleet.internal", "x" * 7_000],
)
async def test_a_host_that_is_no_tenants_is_404(api: TestClient, host: str):
    for path in ("/_kv/k", "/_kv"):
        await refused(await api.get(path, headers={"Host": host}), 404, "host")


async def test_two_hosts_or_a_full_url_are_refused(api: TestClient):
    b = tenant_host("b", REGION)
    for head in (
        f"GET /_kv/k HTTP/1.1\r\nHost: {HOST_A['Host']}\r\nHost: {b}\r\n",
        f"GET http://{b}/_kv/k HTTP/1.1\r\nHost: {HOST_A['Host']}\r\n",
    ):
        reader, writer = await asyncio.open_connection(api.host, api.port)
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.split()[1] == b"400"


async def test_compare_and_set(api: TestClient):
    created = await api.put("/_kv/k", data=b"1", headers={**HOST_A, "If-None-Match": "*"})
    again = await api.put("/_kv/k", data=b"2", headers={**HOST_A, "If-None-Match": "*"})
    await refused(again, 412, "version")
    assert again.headers["ETag"] == created.headers["ETag"]
    at_first = {**HOST_A, "If-Match": created.headers["ETag"]}
    assert (await api.put("/_kv/k", data=b"3", headers=at_first)).status == 200
    await refused(await api.put("/_kv/k", data=b"4", headers=at_first), 412, "version")
    await refused(await api.delete("/_kv/k", headers=at_first), 412, "version")
    assert await (await api.get("/_kv/k", headers=HOST_A)).read() == b"3"
    gone = await api.put("/_kv/new", data=b"", headers={**HOST_A, "If-Match": '"1"'})
    await refused(gone, 412, "version")


async def test_of_many_that_compare_one_wins(api: TestClient):
    async def create(n: int) -> int:
        headers = {**HOST_A, "If-None-Match": "*"}
        return (await api.put("/_kv/once", data=str(n).encode(), headers=headers)).status

    statuses = await asyncio.gather(*(create(n) for n in range(12)))
    assert sorted(statuses) == [200] + [412] * 11


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("If-Match", "*"),
        ("If-Match", "7"),
        ("If-Match", 'W/"7"'),
        ("If-Match", '"7", "8"'),
        ("If-Match", '"-7"'),
        ("If-Match", '"x"'),
        ("If-Match", ""),
        ("If-Match", f'"{"9" * 40}"'),
        ("If-None-Match", '"7"'),
    ],
)
async def test_a_wrong_condition_changes_nothing(api: TestClient, header: str, value: str):
    answer = await api.put("/_kv/k", data=b"x", headers={**HOST_A, header: value})
    await refused(answer, 400, header)
    assert (await api.get("/_kv/k", headers=HOST_A)).status == 404


async def test_two_conditions_are_refused(api: TestClient):
    headers = {**HOST_A, "If-None-Match": "*", "If-Match": '"7"'}
    await refused(await api.put("/_kv/k", data=b"x", headers=headers), 400, "If-Match")


@pytest.mark.parametrize("size", [0, 1, LARGEST_VALUE])
async def test_values_of_every_allowed_size(api: TestClient, size: int):
    assert (await api.put("/_kv/k", data=b"x" * size, headers=HOST_A)).status == 200
    assert len(await (await api.get("/_kv/k", headers=HOST_A)).read()) == size


async def test_a_value_too_large_is_413_and_is_not_kept(api: TestClient):
    await refused(
        await api.put("/_kv/k", data=b"x" * (LARGEST_VALUE + 1), headers=HOST_A), 413, "value"
    )

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(LARGEST_VALUE // 1024 + 1):
            yield b"x" * 1024

    await refused(await api.put("/_kv/k", data=endless(), headers=HOST_A), 413, "value")
    assert (await api.get("/_kv/k", headers=HOST_A)).status == 404


@pytest.mark.parametrize(
    "key", ["", "k" * (LARGEST_KEY + 1), "%00", "a%0Ab", "%ff", "%c3%28", "%ed%a0%80"]
)
async def test_a_wrong_key_is_400(api: TestClient, key: str):
    await refused(await put_raw(api, f"/_kv/{key}"), 400, "key")


async def put_raw(api: TestClient, path: str):
    from yarl import URL

    return await api.put(URL(path, encoded=True), data=b"x", headers=HOST_A)


@pytest.mark.parametrize(
    ("spelled", "key"), [("a%20b", "a b"), ("%C3%A9", "é"), ("a%252Fb", "a%2Fb"), ("a+b", "a+b")]
)
async def test_a_key_is_decoded_once(api: TestClient, engine: Engine, spelled: str, key: str):
    assert (await put_raw(api, f"/_kv/{spelled}")).status == 200
    found = await asyncio.to_thread(TenantKV(engine, "a").get, key)
    assert found is not None and found.value == b"x"


async def test_listing_goes_page_by_page(api: TestClient):
    for n in range(7):
        await api.put(f"/_kv/user/{n}", data=b"xy", headers=HOST_A)
    await api.put("/_kv/other", data=b"", headers=HOST_A)
    seen, after = [], None
    while True:
        params = {"prefix": "user/", "limit": "3", **({"after": after} if after else {})}
        page = await (await api.get("/_kv", params=params, headers=HOST_A)).json()
        seen += [(each["key"], each["size"]) for each in page["keys"]]
        after = page["after"]
        if after is None:
            break
    assert seen == [(f"user/{n}", 2) for n in range(7)]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=100000", "limit"),
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("prefix=%00", "prefix"),
        ("tenant=b", "tenant"),
        ("after=", "after"),
    ],
)
async def test_a_wrong_parameter_is_named(api: TestClient, query: str, field: str):
    await refused(await api.get(f"/_kv?{query}", headers=HOST_A), 400, field)


async def test_a_full_quota_is_409(engine: Engine):
    app = kv_application(lambda: engine, REGION, quota_bytes=100)
    async with TestClient(TestServer(app)) as api:
        await refused(await api.put("/_kv/k", data=b"x" * 100, headers=HOST_A), 409, "value")
        assert (await api.put("/_kv/k", data=b"x" * 99, headers=HOST_A)).status == 200


async def test_a_value_that_rotted_is_never_handed_out(api: TestClient, engine: Engine):
    await api.put("/_kv/k", data=b"right", headers=HOST_A)
    with write(engine) as connection:
        connection.execute(text("UPDATE kv_entry SET value = x'00'"))
    body = await refused(await api.get("/_kv/k", headers=HOST_A), 500, "value")
    assert body["error"] == "corrupt"


async def test_a_store_that_cannot_serve_is_503(api: TestClient, monkeypatch: pytest.MonkeyPatch):
    def locked(*_: object, **__: object) -> None:
        raise StoreUnavailable("locked", "secret detail")

    for method in ("get", "put", "delete", "list"):
        monkeypatch.setattr(TenantKV, method, locked)
    asked = [
        await api.get("/_kv/k", headers=HOST_A),
        await api.put("/_kv/k", data=b"x", headers=HOST_A),
        await api.delete("/_kv/k", headers=HOST_A),
        await api.get("/_kv", headers=HOST_A),
    ]
    for answer in asked:
        body = await refused(answer, 503, None)
        assert "secret" not in json.dumps(body)
        assert answer.headers["Retry-After"] == "1"


async def test_other_methods_and_paths_answer_json(api: TestClient):
    await refused(await api.post("/_kv/k", data=b"x", headers=HOST_A), 405, "request")
    await refused(await api.get("/elsewhere", headers=HOST_A), 404, "request")
    assert (await api.get("/healthz")).status == 200


@contextmanager
def gateway_process(envoy: Gateway, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    addresses = RegionAddresses.model_validate(
        {
            "region": REGION,
            "temporal": {"address": "127.0.0.1:1", "namespace": REGION, "task_queue": "region"},
            "worker": {"health_port": 0, "metrics_port": 0},
            "database": f"sqlite:///{home}/eu.db",
            "signing_key": home / "key.pem",
            "config": home / "fleet.toml",
            "releases": home,
            "workdir": home,
            "gateway": envoy.address.model_dump(),
        }
    )
    (home / "fleet.toml").write_text("")
    (home / "addresses.json").write_text(addresses.model_dump_json())
    program = (
        "import sys; from models.addresses import RegionAddresses; "
        "from gateway.serve import run_gateway; "
        "region = RegionAddresses.model_validate_json(open(sys.argv[1]).read()); "
        "sys.exit(run_gateway([region]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(home / "addresses.json")], stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path / "gateway") as running:
        routes = table(1, digest(1), suspended=("s",))
        running.publisher.publish_routes(lambda: routes, 1)
        yield running


def test_through_envoy_to_the_process_and_its_graceful_end(envoy: Gateway, tmp_path: Path):
    with gateway_process(envoy, tmp_path) as process:
        wait_until(lambda: envoy.get("a", "/_kv").status == 200, 20)
        assert put(envoy, "a", "/_kv/k", b"of a") == 200
        assert put(envoy, "c", "/_kv/k", b"of c") == 200  # its shard has no release yet
        assert envoy.get("a", "/_kv/k").body == b"of a"
        assert envoy.get("b", "/_kv/k").status == 404
        assert envoy.get("s", "/_kv/k").status == 403
        assert envoy.get("nobody", "/_kv/k").status == 404
        assert envoy.get("a", "/_kv/k", x_chainring_tenant="c").body == b"of a"
        assert envoy.get(host="A.EU.FLEET.INTERNAL:80", path="/_kv/k").body == b"of a"
        with ThreadPoolExecutor(8) as pool:
            statuses = [pool.submit(put, envoy, "a", f"/_kv/{n}", b"x") for n in range(40)]
            process.send_signal(signal.SIGTERM)
            answered = [each.result() for each in statuses]
        assert process.wait(20) == 0
    assert set(answered) <= {200, 503}
    kept = {each.key for each in stored(tmp_path).list(limit=1000).keys}
    assert {str(n) for n, status in enumerate(answered) if status == 200} <= kept


def put(envoy: Gateway, tenant: str, path: str, content: bytes) -> int:
    with closing(envoy.connect()) as connection:
        connection.request("PUT", path, content, {"Host": tenant_host(tenant, REGION)})
        return connection.getresponse().status


def stored(home: Path) -> TenantKV:
    return TenantKV(open_engine(f"sqlite:///{home}/eu.db"), "a")


def test_a_port_that_is_taken_ends_the_process_with_a_message(envoy: Gateway, tmp_path: Path):
    taken = envoy.address.model_copy(update={"kv_port": envoy.address.port})
    envoy.address = taken
    with gateway_process(envoy, tmp_path) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert str(taken.kv_port).encode() in errors
