"""The control worker: rollouts, the lease, the plan, the judgement. `python -m workers control`."""

from activities.control import ControlActivities
from activities.incidents import IncidentActivities
from activities.overrides import OverrideActivities
from activities.verification import VerificationActivities
from models.addresses import ControlAddresses
from models.ids import CONTROL_LEDGER
from stores.checkpoints import Notary
from stores.control import ControlStore
from stores.keys import load_key
from stores.ledger import Ledger
from stores.overrides import OverrideStore
from stores.sql import create_all, open_engine
from workers.builder import build_activities
from workers.process import PATIENCE, activities_of, connect, make_worker, serve
from workers.release_store import open_releases
from workers.settings import load_control
from workers.supply import evidence_activities, release_verifier, vulnerability_activities
from workflows.break_glass import BreakGlass
from workflows.build_release import BuildRelease
from workflows.check_evidence import CheckEvidence
from workflows.debt import SettleDebt
from workflows.incident import Incident
from workflows.refresh_vulnerabilities import RefreshVulnerabilities
from workflows.rejudge import RejudgeDeployments
from workflows.release_to_production import ReleaseToProduction
from workflows.rollout import FleetRollout
from workflows.verify_release import VerifyRelease

DEPLOYMENT = "chainring-control"
CONTROL_WORKFLOWS = [
    *(FleetRollout, SettleDebt, VerifyRelease),
    *(BreakGlass, RejudgeDeployments, Incident, RefreshVulnerabilities),
    *(BuildRelease, ReleaseToProduction, CheckEvidence),
]


class ControlParts:
    """The control plane's stores and activities, wired from its addresses alone."""

    def __init__(self, addresses: ControlAddresses) -> None:
        engine = open_engine(addresses.database)
        create_all(engine)
        self.ledger = Ledger(engine, CONTROL_LEDGER)
        self.overrides = OverrideStore(engine, self.ledger)
        store, layout = ControlStore(engine, self.ledger), open_releases(addresses)
        self.incidents = IncidentActivities(
            store=store, ledger=self.ledger, layout=layout, config=addresses.config
        )
        self.verification = VerificationActivities(
            verifier=release_verifier(addresses, layout),
            layout=layout,
            ledger=self.ledger,
            overrides=self.overrides,
        )
        self.activities = ControlActivities(
            store=store,
            ledger=self.ledger,
            layout=layout,
            config=addresses.config,
            notary=Notary(self.ledger, load_key(addresses.signing_key)),
        )
        self.vulnerabilities = vulnerability_activities(addresses)
        trust = addresses.verification.trust_root if addresses.verification else None
        self.evidence = evidence_activities(addresses, self.ledger)
        builder = addresses.builder
        self.builders = (
            [build_activities(builder, layout, trust, addresses.config)] if builder else []
        )

    def holders(self) -> list[object]:
        """Every object whose methods are activities of the control worker."""
        return [
            *(self.activities, self.verification, self.incidents),
            *(OverrideActivities(self.overrides), self.evidence),
            *(*self.vulnerabilities, *self.builders),
        ]


async def run_control() -> int:
    """Run until told to stop."""
    addresses = load_control()
    client = await connect(
        addresses.temporal,
        metrics_port=addresses.worker.metrics_port,
        otlp_endpoint=addresses.otlp_endpoint,
        patience=PATIENCE,
    )
    worker = make_worker(
        client,
        addresses.temporal,
        addresses.worker,
        deployment=DEPLOYMENT,
        workflows=CONTROL_WORKFLOWS,
        activities=activities_of(*ControlParts(addresses).holders()),
    )
    return await serve("control worker", client, addresses.worker, worker, DEPLOYMENT)
