"""Setting up a home for the embedded stack: ports, keys, databases, addresses, process plan.

Everything that is decided here once (ports, keys) is kept, so that a home starts again as it was.
"""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel, ValidationError
from temporalio.api.enums.v1 import IndexedValueType

from gateway.envoy_process import command as envoy_command
from gateway.envoy_process import prepare as prepare_envoy
from models.addresses import (
    AuthorityAddress,
    BackupAddress,
    ControlAddresses,
    GatewayAddress,
    KmsAddress,
    RegionAddresses,
    RegistryAddress,
    TemporalAddress,
    WorkerAddress,
)
from models.config import Config, load_config
from models.ids import CONTROL_LEDGER
from models.release import first_error
from models.stack import ProcessSpec, StackPlan
from stores.changelog import protect
from stores.checkpoints import CheckpointFiles, default_directory
from stores.files import write_atomic
from stores.keys import KeyFileError, ensure_key
from stores.oci import ImageLayout
from stores.sql import create_all, open_engine
from stores.witness import Witness
from workers.builder import prepare_builder
from workers.keyless import KeylessSetupError, prepare_keyless
from workers.loopback_ports import LOOPBACK, free_ports, is_free
from workers.settings import control_file, home, primary_pointer, region_file
from workers.supervisor import PYTHON, plan_file
from workers.supply import prepare_verification
from workers.temporal_setup import CONTROL_QUEUE, REGION_QUEUE, SEARCH_ATTRIBUTES

TEMPORAL_PORT = 7233


class SetupError(Exception):
    """The home cannot be set up; nothing was started."""


class RegionPorts(BaseModel):
    """A region's ports on loopback; ``gateway`` is the one that tenants use."""

    gateway: int
    admin: int
    kv: int
    health: int
    metrics: int
    recovery: int = 0
    """A home of before there was such a port has none."""


class Ports(BaseModel):
    """The ports of one home, chosen once."""

    temporal: int
    ui: int
    control_health: int
    control_metrics: int
    regions: dict[str, RegionPorts]


class Options(BaseModel):
    """What a person may choose at the first start of a home."""

    config: Path | None = None
    temporal_port: int | None = None
    databases: dict[str, str] = {}  # region or "control" -> SQLAlchemy URL
    otlp_endpoint: str | None = None
    registry: RegistryAddress | None = None


def set_up(options: Options, held: ExitStack | None = None) -> StackPlan:
    """Create what the home lacks, check what it needs, and write the process plan.

    Ports that are chosen now are kept from others until ``held`` is closed.

    Raises:
        SetupError: a port is in use, or the configuration does not hold.
        ConfigError: a key of the configuration is wrong.
    """
    root = home()
    for folder in ("control", "stack", "logs", "releases"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    config = _config(root, options.config)
    regions = sorted(config.regions)
    with ExitStack() as unless_held:
        ports = _ports(root, regions, options.temporal_port, held or unless_held)
    ImageLayout(root / "releases")
    authority = _control(root, ports, config, options)
    _check_free(ports, authority)
    for region in regions:
        _region(root, region, ports, options)
    plan = _plan(root, regions, ports, authority)
    _write(plan_file(), plan)
    return plan


def _config(root: Path, chosen: Path | None) -> Config:
    path = root / "fleet.toml"
    if chosen is not None:
        text = chosen.read_text()
        config = load_config(text)
        path.write_text(text)
        return config
    if not path.exists():
        path.write_text(_default_config())
    return load_config(path.read_text())


def _default_config() -> str:
    # Rendered as an operator would; imported here because only a new home needs it.
    from stores.templates import render_default_config  # noqa: PLC0415

    return render_default_config()


def _ports(root: Path, regions: list[str], temporal_port: int | None, held: ExitStack) -> Ports:
    path = root / "stack" / "ports.json"
    if path.exists():
        ports = Ports.model_validate_json(path.read_bytes())
        if sorted(ports.regions) != regions:
            raise SetupError(f"{path} has other regions than the configuration; remove it")
        if temporal_port not in (None, 0, ports.temporal):
            ports = ports.model_copy(update={"temporal": temporal_port, "ui": temporal_port + 1000})
            _write(path, ports)
        return ports
    per_region = len(RegionPorts.model_fields)
    free = iter(free_ports(4 + per_region * len(regions), held))
    if temporal_port == 0:
        temporal, ui = next(free), next(free)
    else:
        temporal = temporal_port or TEMPORAL_PORT
        ui = temporal + 1000
    ports = Ports(
        temporal=temporal,
        ui=ui,
        control_health=next(free),
        control_metrics=next(free),
        regions={
            region: RegionPorts(**{name: next(free) for name in RegionPorts.model_fields})
            for region in regions
        },
    )
    _write(path, ports)
    return ports


def _kms(path: Path) -> KmsAddress:
    try:
        return KmsAddress.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise SetupError(
            f'signing.mode: kms needs {path}: {{"uri": "gcpkms:...", "public_key": "PEM file"}}'
        ) from None
    except ValidationError as error:
        raise SetupError(f"{path}: {first_error(error)}") from None


def _check_free(ports: Ports, authority: AuthorityAddress | None) -> None:
    named = {
        "Temporal (--temporal-port)": ports.temporal,
        "Temporal's web UI": ports.ui,
        "the control worker's health": ports.control_health,
    }
    if authority is not None:
        named["the authority (signing.oidc_provider)"] = authority.port
    for region, own in ports.regions.items():
        named |= {f"region {region}'s {what}": port for what, port in own}
    for what, port in named.items():
        if not is_free(port):
            raise SetupError(
                f"port {port} for {what} is in use by another program; nothing was started"
            )


def _control(root: Path, ports: Ports, config: Config, options: Options) -> AuthorityAddress | None:
    """The control worker's addresses; returns the home's own authority, if it is to have one."""
    signing, builder, authority = config.signing, prepare_builder(root), None
    issuer = signing.oidc_provider if signing.mode == "keyless" else None
    if signing.mode == "kms":
        builder = builder.model_copy(update={"kms": _kms(builder.settings.with_name("kms.json"))})
    verification = prepare_verification(root, issuer)
    if issuer is not None:
        try:
            keyless = prepare_keyless(root, issuer, builder, verification.trust_root)
        except (KeylessSetupError, KeyFileError) as error:
            raise SetupError(str(error)) from None
        builder = builder.model_copy(update={"keyless": keyless.builder})
        authority = keyless.authority
    addresses = ControlAddresses(
        temporal=_temporal(ports, "default", CONTROL_QUEUE),
        worker=_worker(ports.control_health, ports.control_metrics),
        database=options.databases.get(CONTROL_LEDGER, f"sqlite:///{root}/control/control.db"),
        signing_key=root / "control" / "signing.pem",
        config=root / "fleet.toml",
        releases=root / "releases",
        verification=verification,
        builder=builder,
        registry=options.registry,
        otlp_endpoint=options.otlp_endpoint,
    )
    _signing_key(addresses.signing_key, CONTROL_LEDGER)
    create_all(open_engine(addresses.database))
    _write(control_file(), addresses)
    return authority


def _region(root: Path, region: str, ports: Ports, options: Options) -> None:
    own, folder = ports.regions[region], root / "regions" / region
    folder.mkdir(parents=True, exist_ok=True)
    gateway = GatewayAddress(
        port=own.gateway, admin_port=own.admin, directory=folder / "envoy", kv_port=own.kv
    )
    addresses = RegionAddresses(
        region=region,
        temporal=_temporal(ports, region, REGION_QUEUE),
        worker=_worker(own.health, own.metrics),
        database=options.databases.get(region, f"sqlite:///{folder}/region.db"),
        signing_key=folder / "signing.pem",
        config=root / "fleet.toml",
        releases=root / "releases",
        registry=options.registry,
        workdir=folder / "releases",
        gateway=gateway,
        recovery=folder / "recovery",
        otlp_endpoint=options.otlp_endpoint,
        backup=BackupAddress(
            objects=str(root / "backup"),
            work=folder / "recovery",
            witness=root / "witness",
            tenant_keys=f"sqlite:///{folder}/keys/tenants.db",
            region_key=folder / "keys" / "region.key",
            metrics_port=own.recovery,
        ),
    )
    _signing_key(addresses.signing_key, region, Witness(root / "witness").knows(region))
    if primary_pointer(region).read() is None:  # else it is there, or is to be restored
        protect(open_engine(addresses.database), region)
    prepare_envoy(gateway, region)
    _write(region_file(region), addresses)


def _signing_key(path: Path, ledger: str, has_signed_heads: bool = False) -> None:
    """Make the key of a ledger that has signed nothing yet, neither its own state nor a store's.

    Raises:
        SetupError: it is lost. A new one would be trusted with what the old one has signed.
    """
    signed = has_signed_heads or any(CheckpointFiles(default_directory(path), ledger).paths())
    published = path.with_name(f"{path.name}.vkey")
    if signed and not path.exists():
        raise SetupError(
            f"ledger {ledger}: its signing key {path} is lost, and it has signed already: bring "
            "the key back from its copy; no other is made in its place. Where there is no copy: "
            f"chainring receipts retire-key {ledger} --old {published}"
        )
    keys = ensure_key(path).trusted(ledger)
    write_atomic(published, "".join(f"{key.line()}\n" for key in keys).encode())


def _temporal(ports: Ports, namespace: str, queue: str) -> TemporalAddress:
    return TemporalAddress(
        address=f"{LOOPBACK}:{ports.temporal}", namespace=namespace, task_queue=queue
    )


def _worker(health: int, metrics: int) -> WorkerAddress:
    return WorkerAddress(health_port=health, metrics_port=metrics, make_current=True)


def _plan(
    root: Path, regions: list[str], ports: Ports, authority: AuthorityAddress | None
) -> StackPlan:
    ui = f"http://{LOOPBACK}:{ports.ui}"
    processes = [_temporal_spec(root, regions, ports, ui)]
    processes += [_envoy_spec(root, region, ports.regions[region]) for region in regions]
    if authority is not None:
        processes.append(
            ProcessSpec(
                name="authority",
                command=_python("authority"),
                ready_url=f"{authority.url}/healthz",
                stage=0,
                about=f"keyless signing: {authority.url}",
            )
        )
    processes.append(
        ProcessSpec(
            name="host",
            command=_python("host", *regions),
            ready_url="",
            stage=1,
            about="release processes",
        )
    )
    processes.append(
        ProcessSpec(
            name="gateway",
            command=_python("gateway", *regions),
            ready_url=f"http://{LOOPBACK}:{ports.regions[regions[-1]].kv}/healthz",
            stage=1,
            about="tenant KV API",
        )
    )
    processes.append(
        ProcessSpec(
            name="recovery",
            command=_python("recovery", *regions),
            ready_url="",
            stage=1,
            about="backups and restores",
        )
    )
    processes.append(_worker_spec("control", ["control"], ports.control_health))
    processes += [
        _worker_spec(f"region-{region}", ["region", region], ports.regions[region].health)
        for region in regions
    ]
    return StackPlan(temporal=f"{LOOPBACK}:{ports.temporal}", ui=ui, processes=processes)


def _temporal_spec(root: Path, regions: list[str], ports: Ports, ui: str) -> ProcessSpec:
    temporal = Path(sys.executable).parent / "temporal"
    command = [str(temporal), "server", "start-dev", "--ip", LOOPBACK]
    command += ["--port", str(ports.temporal), "--ui-port", str(ports.ui), "--log-level", "error"]
    command += ["--db-filename", str(root / "stack" / "temporal.db")]
    for region in regions:
        command += ["--namespace", region]
    for name, kind in SEARCH_ATTRIBUTES.items():
        word = "Int" if kind == IndexedValueType.INDEXED_VALUE_TYPE_INT else "Keyword"
        command += ["--search-attribute", f"{name}={word}"]
    return ProcessSpec(
        name="temporal",
        command=command,
        ready_url=f"tcp://{LOOPBACK}:{ports.temporal}",
        stage=0,
        about=ui,
    )


def _envoy_spec(root: Path, region: str, own: RegionPorts) -> ProcessSpec:
    gateway = RegionAddresses.model_validate_json(region_file(region).read_bytes()).gateway
    argv = envoy_command(gateway, region)
    argv[argv.index("--service-node") + 1] = f"{region}/{{incarnation}}"
    return ProcessSpec(
        name=f"envoy-{region}",
        command=argv,
        ready_url=f"http://{LOOPBACK}:{own.admin}/ready",
        stage=0,
        about=f"tenants of {region}: http://{LOOPBACK}:{own.gateway}",
    )


def _worker_spec(name: str, arguments: list[str], health: int) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        command=_python(*arguments),
        ready_url=f"http://{LOOPBACK}:{health}/healthz",
        stage=1,
        about=f"health http://{LOOPBACK}:{health}/healthz",
    )


def _python(*arguments: str) -> list[str]:
    return [*PYTHON, *arguments]


def _write(path: Path, model: BaseModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(model.model_dump_json(indent=2) + "\n")
    os.replace(temporary, path)  # noqa: PTH105  # atomic, as the supervisor reads it
