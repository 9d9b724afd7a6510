"""The regular look at archived evidence: complete, or a failed run and a receipt."""

from pathlib import Path

import pytest
from build_harness import server
from rollout_harness import UNVERSIONED, address
from temporalio.client import WorkflowFailureError

from activities.control import ControlActivities
from activities.evidence import EvidenceActivities
from models.evidence_check import EvidenceReport, EvidenceRequest
from models.ids import CONTROL_LEDGER
from models.receipts import Draft
from stores.blobs import BlobStore
from stores.checkpoints import Notary
from stores.control import ControlStore
from stores.evidence_archive import EvidenceArchive
from stores.keys import ensure_key
from stores.ledger import Ledger
from stores.oci import ImageLayout
from stores.sql import create_all, open_engine
from workers.process import activities_of, make_worker
from workers.temporal_setup import CONTROL_QUEUE
from workflows.check_evidence import CheckEvidence
from workflows.regions import plain_words


async def test_it_is_complete_until_a_byte_is_lost(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/control.db")
    create_all(engine)
    ledger, archive = Ledger(engine, CONTROL_LEDGER), EvidenceArchive(tmp_path / "evidence")
    kept = archive.put(b"a policy")
    vex = archive.put(b"a statement")
    body = {"verdict": {"inputs": {"policy": kept, "vex": {"v.json": vex}, "contents": None}}}
    ledger.append(
        [Draft(kind="release.judged", actor="x", subject="y", body=body, idempotency_key="1")]
    )
    control = ControlActivities(
        store=ControlStore(engine, ledger),
        ledger=ledger,
        layout=ImageLayout(tmp_path / "releases"),
        config=tmp_path / "fleet.toml",
        notary=Notary(ledger, ensure_key(tmp_path / "key.pem")),
    )

    async def check(number: int, archive: EvidenceArchive | None = archive) -> EvidenceReport:
        worker = make_worker(
            client,
            address("default", CONTROL_QUEUE),
            UNVERSIONED,
            deployment="control",
            workflows=[CheckEvidence],
            activities=activities_of(control, EvidenceActivities(ledger, archive)),
        )
        async with worker:
            return await client.execute_workflow(
                CheckEvidence.run,
                EvidenceRequest(),
                id=f"evidence/{number}",
                task_queue=CONTROL_QUEUE,
            )

    async with server() as client:
        assert await check(1) == EvidenceReport(verdicts=1, digests=2, lost=0)
        BlobStore(tmp_path / "evidence").path(vex).write_bytes(b"another one")
        with pytest.raises(WorkflowFailureError) as lost:
            await check(2)
        with pytest.raises(WorkflowFailureError) as none:
            await check(3, None)
    assert "1 verdicts name 2 pieces of evidence; 1 lost: control/0: vex" in plain_words(lost.value)
    assert "no evidence archive" in plain_words(none.value)
    [receipt] = ledger.read(kinds=["evidence.lost"])
    assert receipt.receipt.body["lost"] == 1 and receipt.receipt.workflow_id == "evidence/2"
