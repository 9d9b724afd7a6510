"""What forensics costs over seven years of receipts, against reading the same rows alone.

    python scripts/bench_forensics.py [--receipts 1000000] [--shards 100] [--releases 200]

Prints one Markdown table. The floor of each question reads the very receipts that the answer cites,
by their keys, from the same databases, and does nothing with them; the best of five counts.
Building the index once is measured against reading and hashing every receipt.
"""

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from models.forensics import Answer
from models.receipts import GENESIS, Draft, receipt_hash, seal, timestamp
from models.statement import SBOM, write_statement
from stores.checkpoints import Notary
from stores.forensics import Forensics, Source
from stores.forensics_index import ForensicsIndex
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.sql import create_all, open_engine
from stores.tile_proofs import TileProver

START = datetime(2019, 1, 1, tzinfo=UTC)
YEARS = timedelta(days=7 * 365)
ROUNDS = 5
INSERT = (
    "INSERT INTO receipt (ledger, seq, prev, kind, subject, idempotency_key, data) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def digest(number: int) -> str:
    return f"sha256:{sha256(b'release %d' % number).hexdigest()}"


def draft(number: int, options: argparse.Namespace) -> Draft:
    """Activation ``number``: the shards in turn, the releases one after the other."""
    shard = f"eu-{number % options.shards:04d}"
    release = digest(number * options.releases // options.receipts)
    body = {"shard": shard, "release": release, "rollout": f"rollout/{number // options.shards}"}
    body["deployment"] = {"predicate": {"verdict": {"digest": {"sha256": release[7:]}}}}
    return Draft(
        kind="shard.activated", actor="region/eu", subject=shard, body=body,
        workflow_id="rollout", run_id="run", idempotency_key=f"activate/{number}",
    )  # fmt: skip


def verdict(number: int) -> Draft:
    release = digest(number)
    said = {"release": release, "outcome": "pass", "source": f"repository@{number:040x}"}
    return Draft(
        kind="release.judged", actor="chainring", subject=release,
        body={"verdict": said, "verdict_digest": release}, idempotency_key=f"judged/{number}",
    )  # fmt: skip


def fill(ledger: Ledger, drafts: list[Callable[[], Draft]]) -> None:
    """Write a ledger as appends would have left it, over seven years, without flushing each."""
    path = ledger.engine.url.database
    assert path is not None
    prev, rows = GENESIS, []
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for seq, make in enumerate(drafts):
            each = make()
            at = timestamp(START + YEARS * (seq / len(drafts)))
            data = seal(each, ledger=ledger.name, seq=seq, prev=prev, at=at)
            rows.append(
                (ledger.name, seq, bytes.fromhex(prev), each.kind, each.subject,
                 each.idempotency_key, data)
            )  # fmt: skip
            prev = receipt_hash(data)
            if len(rows) == 10_000 or seq == len(drafts) - 1:
                connection.executemany(INSERT, rows)
                rows.clear()
        connection.execute(
            "INSERT INTO ledger_head (ledger, size, hash, epoch) VALUES (?, ?, ?, 0)",
            (ledger.name, len(drafts), bytes.fromhex(prev)),
        )


def bills(release: str) -> list[bytes]:
    """A bundle with a bill of 50 packages; every 20th release has the one that is asked for."""
    rare = int(release[7:9], 16) % 20 == 0
    names = [f"pkg:pypi/part{number}@1.0" for number in range(50)] + ["pkg:pypi/rare@1.0"] * rare
    components = [{"type": "library", "name": n[9:-4], "purl": n} for n in names]
    predicate = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
    payload = b64encode(write_statement([("web", release)], SBOM, predicate)).decode()
    envelope = {
        "payload": payload, "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": "bm9uZQ==", "keyid": "k"}],
    }  # fmt: skip
    material = {"publicKey": {"hint": "k"}, "tlogEntries": []}
    media_type = "application/vnd.dev.sigstore.bundle.v0.3+json"
    return [
        json.dumps(
            {"mediaType": media_type, "verificationMaterial": material, "dsseEnvelope": envelope}
        ).encode()
    ]


def best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def floor(answer: Answer, ledgers: dict[str, Ledger]) -> None:
    """Read the receipts that an answer cites, alone."""
    for name, ledger in ledgers.items():
        keys = [(name, cited.seq) for cited in answer.receipts if cited.ledger == name]
        path = ledger.engine.url.database
        assert path is not None
        with sqlite3.connect(path) as connection:
            for key in keys:
                connection.execute(
                    "SELECT data FROM receipt WHERE ledger = ? AND seq = ?", key
                ).fetchone()


def read_all(ledger: Ledger) -> None:
    path = ledger.engine.url.database
    assert path is not None
    with sqlite3.connect(path) as connection:
        for (data,) in connection.execute("SELECT data FROM receipt ORDER BY ledger, seq"):
            sha256(data).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--receipts", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--releases", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), options)


def measure(root: Path, options: argparse.Namespace) -> None:
    ledgers, notaries = {}, {}
    for name in ("control", "eu"):
        engine = open_engine(f"sqlite:///{root}/{name}/store.db")
        create_all(engine)
        ledgers[name] = Ledger(engine, name)
        notaries[name] = Notary(ledgers[name], ensure_key(root / name / "key.pem"))
    fill(ledgers["control"], [lambda n=n: verdict(n) for n in range(options.releases)])
    fill(ledgers["eu"], [lambda n=n: draft(n, options) for n in range(options.receipts)])
    for notary in notaries.values():
        notary.checkpoint()

    index = ForensicsIndex(root / "index.db")
    print("| question | answer | floor | ratio | stays | receipts proved | index |")
    print("|---|---|---|---|---|---|---|")
    start = time.perf_counter()
    for ledger in ledgers.values():
        index.update(ledger)
    built = time.perf_counter() - start
    start = time.perf_counter()
    read_all(ledgers["eu"])
    alone = time.perf_counter() - start
    size = (root / "index.db").stat().st_size / 1e6
    print(
        f"| build the index once | {built:.2f} s | {alone:.2f} s (read and hash) "
        f"| {built / alone:.1f}x | | | {size:.0f} MB |"
    )

    def ask() -> Forensics:
        """As a command does: look for what is new, open the newest checkpoint, answer."""
        sources = {}
        for name, ledger in ledgers.items():
            reached = index.update(ledger).size
            key = notaries[name]._key.public(name)
            prover = TileProver(name, index.tiles(name), reached, notaries[name].files, [key])
            sources[name] = Source(ledger, prover)
        return Forensics(index, sources, bills)

    ask().where(["pkg:pypi/none"], question="")  # reads each release's bill, once
    middle = START + YEARS / 2
    shard = f"eu-{options.shards // 2:04d}"
    questions: dict[str, Callable[[], Answer]] = {
        f"at, all {options.shards} shards": lambda: ask().at(middle),
        "at, one shard": lambda: ask().at(middle, shard=shard),
        "where, a rare package": lambda: ask().where(["pkg:pypi/rare@1.0"], question=""),
        "where, a package of every release": lambda: ask().where(["pkg:pypi/part7"], question=""),
        "trace": lambda: ask().trace(digest(options.releases // 2)),
    }
    for name, question in questions.items():
        answer = question()
        proved = sum(cited.proof is not None for cited in answer.receipts)
        assert proved == len(answer.receipts) > 0
        ours, theirs = best(question), best(lambda answer=answer: floor(answer, ledgers))
        print(
            f"| {name} | {ours * 1000:.0f} ms | {theirs * 1000:.1f} ms | {ours / theirs:.0f}x "
            f"| {len(answer.stays)} of {answer.total:,} | {proved} | |"
        )


if __name__ == "__main__":
    main()
