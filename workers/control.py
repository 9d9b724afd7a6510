"""The control worker: rollouts, the lease, the plan, the judgement. `python -m workers control`."""

from activities.control import ControlActivities
from models.addresses import ControlAddresses
from models.ids import CONTROL_LEDGER
from stores.checkpoints import Notary
from stores.control import ControlStore
from stores.keys import load_key
from stores.ledger import Ledger
from stores.oci import ImageLayout
from stores.sql import create_all, open_engine
from workers.process import activities_of, connect, make_worker, serve
from workers.settings import load_control
from workflows.debt import SettleDebt
from workflows.rollout import FleetRollout

DEPLOYMENT = "chainring-control"
CONTROL_WORKFLOWS = [FleetRollout, SettleDebt]


def control_activities(addresses: ControlAddresses) -> ControlActivities:
    """The control plane's activities over its own database, keys and release store."""
    engine = open_engine(addresses.database)
    create_all(engine)
    ledger = Ledger(engine, CONTROL_LEDGER)
    return ControlActivities(
        store=ControlStore(engine, ledger),
        ledger=ledger,
        layout=ImageLayout(addresses.releases),
        config=addresses.config,
        notary=Notary(ledger, load_key(addresses.signing_key)),
    )


async def run_control() -> int:
    """Run until told to stop."""
    addresses = load_control()
    client = await connect(
        addresses.temporal,
        metrics_port=addresses.worker.metrics_port,
        otlp_endpoint=addresses.otlp_endpoint,
    )
    worker = make_worker(
        client,
        addresses.temporal,
        addresses.worker,
        deployment=DEPLOYMENT,
        workflows=CONTROL_WORKFLOWS,
        activities=activities_of(control_activities(addresses)),
    )
    return await serve("control worker", client, addresses.worker, worker, DEPLOYMENT)
