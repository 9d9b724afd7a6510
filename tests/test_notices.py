"""What tenants are told of an outage: once each, also while it lasts, and the webhook with them."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from recovery_harness import REGION
from restore_harness import QUEUE, recovery_worker
from rollout_harness import Plane

from gateway.envoy import tenant_host
from gateway.kv_api import kv_application
from models.notices import Notice, NoticeKind, is_news
from models.primary import Primary
from models.recovery import FailOverRequest, FailOverStatus
from stores.notices import NoticeBoard, NoticeUnknown
from stores.primary import PrimaryFile
from stores.sql import open_engine
from stores.webhook import Webhook, WebhookRefused, WebhookUnavailable

pytest_plugins = ["rollout_fixtures"]

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
NOTICE = Notice(
    id="0" * 32, region=REGION, number=1, kind="degraded", at=NOW, message="degraded mode"
)


@pytest.fixture
def board(tmp_path: Path) -> NoticeBoard:
    return NoticeBoard(tmp_path, REGION)


@given(st.lists(st.sampled_from(["degraded", "normal"]), max_size=20))
def test_an_outage_is_told_once_however_often_it_is_begun(kinds: list[NoticeKind]):
    told: list[NoticeKind] = []
    for kind in kinds:
        if is_news(kind, told[-1] if told else None):
            told.append(kind)
    wanted: list[NoticeKind] = ["degraded", "normal"]
    assert told == [wanted[index % 2] for index in range(len(told))]


def test_every_tenant_finds_each_notice_once(board: NoticeBoard, tmp_path: Path):
    assert board.post("normal", at=NOW) is None
    first = board.post("degraded", at=NOW)
    assert first is not None and board.post("degraded", at=NOW) is None
    assert board.newest("degraded") == first and board.newest("normal") is None
    assert board.inbox("acme") == board.inbox("zoe") == [first]
    board.mark_read("acme", 1)
    assert (board.inbox("acme"), board.inbox("acme", after=0)) == ([], [first])

    other = NoticeBoard(tmp_path, REGION)  # as another process
    second = other.post("normal", at=NOW)
    assert board.inbox("acme") == [second] and board.inbox("zoe") == [first, second]
    board.mark_read("acme", 2)
    board.mark_read("acme", 1)  # late: what is read stays read
    assert board.inbox("acme") == []


def test_what_is_not_there_cannot_be_read(board: NoticeBoard):
    with pytest.raises(NoticeUnknown, match="there is no notice 1; the newest is 0"):
        board.mark_read("acme", 1)


@asynccontextmanager
async def gateway(directory: Path) -> AsyncIterator[TestClient]:
    """The gateway of a region whose store is gone."""
    PrimaryFile(directory, REGION).switch(Primary(region=REGION, epoch=1, mode="buffered"))
    engine = open_engine(f"sqlite:///{directory}/gone/region.db")
    app = kv_application(lambda: engine, REGION, recovery=directory)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_inbox_answers_while_the_store_is_down(board: NoticeBoard, tmp_path: Path):
    board.post("degraded", at=NOW)
    mine, other = ({"Host": tenant_host(each, REGION)} for each in ("acme", "zoe"))
    async with gateway(tmp_path) as client:
        found = await (await client.get("/_notices", headers=mine)).json()
        (notice,) = found["notices"]
        assert notice["message"] == "degraded mode, may see stale data"
        assert (await client.put("/_notices/read/1", headers=mine)).status == 204
        assert (await (await client.get("/_notices", headers=mine)).json())["notices"] == []
        again = await (await client.get("/_notices?after=0", headers=mine)).json()
        assert again == found == await (await client.get("/_notices", headers=other)).json()


@pytest.mark.parametrize(
    ("method", "path", "host", "status", "field"),
    [
        ("GET", "/_notices?after=x", "acme.eu.fleet.internal", 400, "after"),
        ("GET", "/_notices?after=1&after=2", "acme.eu.fleet.internal", 400, "after"),
        ("GET", "/_notices?tenant=zoe", "acme.eu.fleet.internal", 400, "tenant"),
        ("PUT", "/_notices/read/x", "acme.eu.fleet.internal", 400, "number"),
        ("PUT", "/_notices/read/9", "acme.eu.fleet.internal", 400, "number"),
        ("GET", "/_notices", "acme.us-east.fleet.internal", 404, "host"),
    ],
)
async def test_a_wrong_request_names_the_field(
    tmp_path: Path, method: str, path: str, host: str, status: int, field: str
):
    async with gateway(tmp_path) as client:
        answer = await client.request(method, path, headers={"Host": host})
        assert (answer.status, (await answer.json())["field"]) == (status, field)


class Receiver:
    """A webhook that answers as it is told, the last answer for ever."""

    def __init__(self, *answers: int) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answers = list(answers)
        self.url = ""


@contextmanager
def receiving(*answers: int) -> Iterator[Receiver]:
    found = Receiver(*answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.received.append((dict(self.headers.items()), body))
            answers = found.answers
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def test_a_notice_is_signed_and_names_itself(tmp_path: Path):
    key = tmp_path / "hook.key"
    key.write_text("secret\n")
    with receiving(200) as receiver:
        Webhook(receiver.url, key).send(NOTICE)
    ((headers, body),) = receiver.received
    assert Notice.model_validate_json(body) == NOTICE
    assert headers["Idempotency-Key"] == NOTICE.id
    wanted = hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    assert headers["X-Chainring-Signature"] == f"sha256={wanted}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (503, WebhookUnavailable),
        (429, WebhookUnavailable),
        (302, WebhookUnavailable),  # nothing is sent to where somebody else points
        (404, WebhookRefused),
    ],
)
def test_what_is_not_taken_is_sent_again_unless_it_is_refused(answer: int, error: type[Exception]):
    with receiving(answer) as receiver, pytest.raises(error, match=str(answer)):
        Webhook(receiver.url).send(NOTICE)


@pytest.mark.parametrize("content", [None, "\n"])
def test_without_its_key_nothing_is_sent(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "key").write_text(content)
    with receiving(200) as receiver, pytest.raises(WebhookUnavailable, match="key"):
        Webhook(receiver.url, tmp_path / "key").send(NOTICE)
    assert receiver.received == []


@pytest.mark.asyncio(loop_scope="session")
async def test_a_failover_tells_each_tenant_once_and_a_dead_webhook_delays_nothing(
    plane: Plane, tmp_path: Path
) -> None:
    with receiving(503) as receiver:
        hook = Webhook(receiver.url)
        async with recovery_worker(tmp_path, plane.client, webhook=hook) as recovery:
            recovery.backup.work(5)
            recovery.backup.snapshot()
            status: FailOverStatus = await plane.client.execute_workflow(
                "FailOver",
                FailOverRequest(actor="ana", reason="disk lost"),
                id="failover/notices/1",
                task_queue=QUEUE,
                result_type=FailOverStatus,
            )
            assert status.state == "normal" and status.notices == [1, 2] and not status.not_told
            board = NoticeBoard(tmp_path / "path", REGION)
            told = board.inbox("any-tenant")
            assert [each.kind for each in told] == ["degraded", "normal"]
            receiver.answers = [200]
            for each in told:  # it is back: each is delivered, under its own key
                handle = plane.client.get_workflow_handle(
                    f"notice/{REGION}/{each.number}-{each.id[:6]}"
                )
                await asyncio.wait_for(handle.result(), 20)
    taken = {json.loads(body)["id"]: headers for headers, body in receiver.received}
    assert list(taken) == [each.id for each in told]
    assert all(headers["Idempotency-Key"] == id for id, headers in taken.items())
