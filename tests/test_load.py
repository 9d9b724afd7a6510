"""The load generator, what its record proves, and swaps of real routes under its load."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gateway_harness import REGION, digest, running_gateway, table, upstream, wait_until
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import check_load
import load
from check_load import backwards, failed
from load import Answer, LoadGenerator, Target
from load_connection import Connection, Request, Response

from gateway.bootstrap import routes_file
from gateway.envoy import render_routes, tenant_host
from models.ids import short
from models.receipts import Draft
from stores.ledger import Ledger
from stores.sql import create_all, open_engine


def answer(sent: int, received: int, release: str, *, shard: str = "eu-001", status: int = 200):
    return Answer(sent, received, REGION, shard, "a", short(release), status)


def target(port: int, tenant: str = "a", shard: str = "eu-001") -> Target:
    return Target(REGION, shard, tenant, tenant_host(tenant, REGION), "127.0.0.1", port)


class TestBackwards:
    def test_an_old_answer_after_a_new_one_is_found(self):
        record = [answer(0, 1, "old"), answer(2, 3, "new"), answer(4, 5, "old")]
        (violation,) = backwards(record, {"eu-001": ["old", "new"]})
        assert violation.answer == record[2]
        assert backwards(record) == [violation]

    def test_an_old_answer_to_an_older_question_is_right(self):
        record = [answer(2, 9, "old"), answer(3, 4, "new"), answer(4, 8, "old")]
        assert backwards(record, {"eu-001": ["old", "new"]}) == []

    def test_a_rollback_is_known_from_the_activations(self):
        record = [answer(0, 1, "old"), answer(2, 3, "new"), answer(4, 5, "old")]
        assert backwards(record, {"eu-001": ["old", "new", "old"]}) == []
        record.append(answer(6, 7, "new"))
        assert [each.answer for each in backwards(record, {"eu-001": ["old", "new", "old"]})] == [
            record[3]
        ]

    def test_shards_are_apart(self):
        record = [answer(0, 1, "new"), answer(2, 3, "old", shard="eu-002")]
        assert backwards(record, {"eu-001": ["old", "new"], "eu-002": ["old", "new"]}) == []

    def test_a_release_that_was_never_active_is_found(self):
        (violation,) = backwards([answer(0, 1, "other")], {"eu-001": ["old", "new"]})
        assert "never active" in violation.why
        assert backwards([answer(0, 1, "old")], {}) != []

    def test_the_order_of_the_record_does_not_matter(self):
        record = [answer(4, 5, "old"), answer(2, 3, "new"), answer(0, 1, "old")]
        assert [each.answer for each in backwards(record, {"eu-001": ["old", "new"]})] == [
            record[0]
        ]

    @given(
        swaps=st.lists(st.integers(1, 1000), max_size=6, unique=True).map(sorted),
        requests=st.lists(
            st.tuples(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 50)), max_size=40
        ),
    )
    def test_whatever_an_atomic_swap_answers_is_right(self, swaps, requests):
        """A request is routed at one instant between its sending and its answer."""
        order = ["ab"[n % 2] for n in range(len(swaps) + 1)]
        record = [
            answer(sent, sent + there + back, order[sum(at <= sent + there for at in swaps)])
            for sent, there, back in requests
        ]
        assert backwards(record, {"eu-001": order}) == []

    @given(st.lists(st.integers(0, 5), min_size=2, max_size=30))
    def test_one_after_another_only_a_rising_order_is_right(self, activations):
        record = [answer(2 * n, 2 * n + 1, digest(a)) for n, a in enumerate(activations)]
        found = backwards(record, {"eu-001": [digest(n) for n in range(6)]})
        newest, late = 0, 0
        for activation in activations:
            late += activation < newest
            newest = max(newest, activation)
        assert len(found) == late


class TestFailed:
    @pytest.mark.parametrize("status", [0, 301, 403, 404, 429, 500, 503])
    def test_all_but_2xx_is_a_failure(self, status: int):
        assert len(failed([answer(0, 1, "old", status=status)])) == 1

    def test_2xx_is_none(self):
        assert failed([answer(0, 1, "old"), answer(0, 1, "old", status=204)]) == []


class TestCheckCommand:
    def write(self, path: Path, answers: list[Answer]) -> str:
        with load.csv_record(path) as record:
            for each in answers:
                record(each)
        return str(path)

    def test_a_clean_record(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        record = self.write(tmp_path / "r.csv", [answer(0, 1, "old"), answer(2, 3, "new")])
        assert check_load.main([record]) == 0
        assert "failed requests: 0" in capsys.readouterr().out

    def test_violations_are_printed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        answers = [answer(0, 1, "new"), answer(2, 3, "old"), answer(4, 5, "new", status=503)]
        activations = tmp_path / "a.json"
        activations.write_text(json.dumps({"eu-001": ["old", "new"]}))
        record = self.write(tmp_path / "r.csv", answers)
        assert check_load.main([record, "--activations", str(activations)]) == 1
        out = capsys.readouterr().out
        assert "status 503" in out
        assert "release old after activation 1 (new)" in out

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "names no columns"),
            (",".join(Answer._fields) + "\n1,2,eu\n", "r.csv:2"),
            (",".join(Answer._fields) + "\nx,2,eu,s,t,r,200\n", "r.csv:2"),
            (",".join(Answer._fields) + "\n", "no answers"),
        ],
    )
    def test_a_bad_record_proves_nothing(self, tmp_path: Path, capsys, content, message):
        path = tmp_path / "r.csv"
        path.write_text(content)
        assert check_load.main([str(path)]) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("content", ["", "[]", '{"eu-001": "old"}', '{"eu-001": [1]}'])
    def test_bad_activations_are_named(self, tmp_path: Path, capsys, content):
        record = self.write(tmp_path / "r.csv", [answer(0, 1, "old")])
        (tmp_path / "a.json").write_text(content)
        assert check_load.main([record, "--activations", str(tmp_path / "a.json")]) == 2
        assert "a.json" in capsys.readouterr().err


class TestConnection:
    """Answers as they may be cut into packets."""

    WHOLE = (
        b"HTTP/1.1 200 OK\r\nX-Chainring-Shard: eu-001\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-chainring-shard: eu-001\r\n\r\n"
        b"5\r\n0\r\n\r\n\r\n1;x=y\r\n!\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nx-chainring-shard: eu-001\r\n\r\n",
    )

    @pytest.mark.parametrize("content", WHOLE)
    @pytest.mark.parametrize("piece", [1, 2, 7, 1000])
    async def test_an_answer_is_whole_at_its_last_byte(self, content: bytes, piece: int):
        answers, free = [], []
        connection = await self.connected(free.append)
        connection.send(Request(b"", answers.append))
        for start in range(0, len(content), piece):
            assert answers == []
            connection.data_received(content[start : start + piece])
        (response,) = answers
        assert (response.status, response.shard) == (int(content[9:12]), "eu-001")
        assert free == [connection]
        connection.close()

    async def test_a_connection_that_breaks_is_no_answer(self):
        answers, free = [], []
        connection = await self.connected(free.append)
        connection.send(Request(b"", answers.append))
        connection.data_received(self.WHOLE[0][:-1])
        connection.connection_lost(None)
        assert [each.status for each in answers] == [0]
        assert not connection.open

    async def test_a_connection_that_the_server_closes_is_not_used_again(self):
        answers: list[Response] = []
        connection = await self.connected(lambda _: None)
        connection.send(Request(b"", answers.append))
        connection.data_received(b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n")
        assert [each.status for each in answers] == [204]
        assert not connection.open

    async def connected(self, release) -> Connection:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(release), "127.0.0.1", port)
        server.close()
        return connection


class TestGenerator:
    async def test_every_request_is_recorded_once(self):
        with upstream("one") as one:
            record: list[Answer] = []
            generator = LoadGenerator([target(one.port)], rate=200, record=record.append)
            summary = await generator.run(0.5)
        assert len(record) == summary.requests == len(one.paths) == 100
        assert summary.failed == 0
        assert all(each.received_ns > each.sent_ns for each in record)

    async def test_slow_answers_do_not_slow_the_load(self):
        with upstream("slow") as slow:
            slow.gate.clear()
            record: list[Answer] = []
            generator = LoadGenerator([target(slow.port)], rate=100, record=record.append)
            run = asyncio.create_task(generator.run(0.3))
            await asyncio.to_thread(wait_until, lambda: len(slow.paths) == 30)
            assert record == []
            slow.gate.set()
            assert (await run).requests == 30

    async def test_no_answer_is_a_failure(self):
        with upstream("stuck") as stuck:
            stuck.gate.clear()
            generator = LoadGenerator(
                [target(stuck.port)], rate=20, record=lambda _: None, timeout=0.2
            )
            summary = await generator.run(0.1)
        assert (summary.requests, summary.failed, dict(summary.statuses)) == (2, 2, {0: 2})

    async def test_no_connection_is_a_failure(self):
        generator = LoadGenerator([target(free_port())], rate=20, record=lambda _: None)
        assert (await generator.run(0.1)).statuses == {0: 2}

    async def test_the_load_is_spread_as_asked(self):
        targets = [target(1, f"t{n}", "big") for n in range(9)] + [target(1, "x", "small")]
        for even, expected in ((False, {"big": 90, "small": 10}), (True, {"big": 50, "small": 50})):
            with upstream("any") as any_release:
                answers: list[Answer] = []
                generator = LoadGenerator(
                    [each._replace(port=any_release.port) for each in targets],
                    rate=400,
                    record=answers.append,
                    even=even,
                )
                await generator.run(0.25)
            counts = {shard: sum(each.shard == shard for each in answers) for shard in expected}
            assert counts == expected

    def test_it_runs_beside_the_caller_until_the_block_ends(self):
        with upstream("one") as one:
            generator = LoadGenerator([target(one.port)], rate=200, record=lambda _: None)
            with generator.running() as summary:
                assert one.reached.wait(10)
            assert summary.requests == len(one.paths) > 0

    @pytest.mark.parametrize(("targets", "rate", "field"), [([], 1, "targets"), ([1], 0, "rate")])
    def test_what_makes_no_load_is_refused(self, targets, rate, field):
        with pytest.raises(ValueError, match=field):
            LoadGenerator(targets, rate=rate, record=lambda _: None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CHAINRING_HOME", str(tmp_path))
    return tmp_path


def test_the_targets_of_a_home_are_the_tenants_that_its_gateways_route(home: Path):
    directory = home / "regions" / REGION
    routes_file(directory / "gateway").parent.mkdir(parents=True)
    routes_file(directory / "gateway").write_bytes(
        render_routes(table(1, digest(1), suspended=("s",)), REGION)
    )
    (directory / "addresses.json").write_text(json.dumps(region_addresses(directory)))
    found = [
        (each.shard, each.tenant, each.authority, each.port) for each in load.targets_of_home()
    ]
    assert found == [
        ("eu-001", "a", "a.eu.fleet.internal", 8080),
        ("eu-001", "b", "b.eu.fleet.internal", 8080),
        ("eu-002", "c", "c.eu.fleet.internal", 8080),
    ]


def test_the_order_of_activations_comes_from_the_receipts(home: Path, capsys):
    """A rollback is right by them, and what ran before the record is not taken for it."""
    directory = home / "regions" / REGION
    directory.mkdir(parents=True)
    (directory / "addresses.json").write_text(json.dumps(region_addresses(directory)))
    engine = open_engine(f"sqlite:///{directory}/region.db")
    create_all(engine)
    now = datetime.now(UTC)
    ages_s = iter([90, 80, 3, 2, 1])
    ledger = Ledger(engine, REGION, clock=lambda: now - timedelta(seconds=next(ages_s)))
    for n, release in enumerate((2, 1, 2, 1, 3)):
        ledger.append([activated("eu-001", digest(release), n)])
    began = time.monotonic_ns() - 4 * 10**9

    def check(*releases: int) -> int:
        with load.csv_record(home / "record.csv") as record:
            for n, release in enumerate(releases):
                record(answer(began + 2 * n, began + 2 * n + 1, digest(release)))
        return check_load.main([str(home / "record.csv"), "--home", str(home)])

    assert check(1, 2, 1, 3) == 0
    assert check(2, 1, 3) == 0
    assert check(2, 1, 2) == 1  # though 2 also ran before
    assert check(1, 3, 1) == 1
    assert check(4) == 1
    assert "never active" in capsys.readouterr().out


def activated(shard: str, release: str, n: int) -> Draft:
    return Draft(
        kind="shard.activated",
        actor="test",
        subject=shard,
        body={"release": release},
        idempotency_key=str(n),
    )


def region_addresses(directory: Path) -> dict[str, object]:
    gateway = {"port": 8080, "admin_port": 8081, "kv_port": 8082}
    return {
        "region": REGION,
        "temporal": {"address": "127.0.0.1:7233", "namespace": REGION, "task_queue": "region"},
        "worker": {"health_port": 0, "metrics_port": 0},
        "database": f"sqlite:///{directory}/region.db",
        "signing_key": "key.pem",
        "config": "fleet.toml",
        "releases": "releases",
        "workdir": "work",
        "gateway": {**gateway, "directory": str(directory / "gateway")},
    }


def test_a_hundred_swaps_under_load_lose_nothing_and_never_go_back(tmp_path: Path):
    """Each swap brings a release, and a cluster, that was not there; the old one is removed."""
    record: list[Answer] = []
    with ExitStack() as stack:
        envoy = stack.enter_context(running_gateway(tmp_path / "gateway"))
        ends = [stack.enter_context(upstream(name)) for name in ("even", "odd")]

        def roll(n: int) -> None:
            releases = [digest(n - 1), digest(n)]
            ports = [ends[(n - 1) % 2], ends[n % 2]]
            envoy.publisher.publish_clusters(
                [end.endpoint(release) for end, release in zip(ports, releases, strict=True)]
            )
            envoy.publisher.publish_routes(lambda: table(n, digest(n)), n)

        roll(1)
        targets = [target(envoy.address.port, tenant) for tenant in "ab"]
        with LoadGenerator(targets, rate=300, record=record.append).running() as summary:
            for n in range(2, 102):
                roll(n)
    assert summary.requests > 100
    assert failed(record) == []
    assert len({each.release for each in record}) > 20
    assert backwards(record, {"eu-001": [digest(n) for n in range(1, 102)]}) == []
