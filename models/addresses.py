"""Where things are: one file per process, holding only what that process may reach.

The control plane's file names no region's database or keys; a region's file names no other region.
The embedded stack writes these files for itself; in production they come with the deployment.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.ids import RegionCode


class _Addresses(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TemporalAddress(_Addresses):
    """A Temporal frontend and the namespace and task queue to use there."""

    address: str = Field(description="host:port of the frontend")
    namespace: str
    task_queue: str
    tls: bool = False
    api_key_file: Path | None = None


class WorkerAddress(_Addresses):
    """Ports and build identity of one worker process."""

    health_port: int = Field(ge=0, le=65535, description="0 picks a free port")
    metrics_port: int = Field(ge=0, le=65535)
    versioning: Literal["auto_upgrade", "pinned", "off"] = "auto_upgrade"
    make_current: bool = Field(
        default=False, description="route new work to this build as soon as it polls"
    )


class GatewayAddress(_Addresses):
    """A region's Envoy: where it listens, and the directory its route files are renamed into."""

    host: str = "127.0.0.1"
    port: int = Field(ge=1, le=65535)
    admin_port: int = Field(ge=1, le=65535)
    directory: Path
    kv_port: int = Field(ge=1, le=65535, description="the tenant KV API behind the gateway")


class BackupAddress(_Addresses):
    """Where a region's backup is, and what is needed to read it when the region's store is gone."""

    objects: str = Field(description="a directory, or gs://bucket")
    objects_endpoint: str | None = Field(
        default=None, description="address of an emulator of Google Cloud Storage"
    )
    work: Path = Field(description="directory of the state tree, and of stores being restored")
    witness: Path = Field(description="directory of signed heads; not on the store's machine")
    tenant_keys: str = Field(description="SQLAlchemy URL of the keys that seal tenants' documents")
    region_key: Path = Field(description="the key that wraps these, 64 hex digits")
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="on loopback: Prometheus metrics of the recovery process; 0: none",
    )


class WebhookAddress(_Addresses):
    """Who is told what the region's tenants are told."""

    url: str = Field(pattern=r"^https?://[^\s@]+$", description="takes notices by POST")
    key_file: Path | None = Field(
        default=None, description="HMAC key of the signature; without it nothing is signed"
    )


class VerificationAddress(_Addresses):
    """What the control worker judges releases by, and where it keeps what it judged."""

    policy: Path = Field(description="the verification policy, TOML")
    trust_root: Path = Field(description="whose signatures and clocks are believed, JSON")
    vulnerabilities: Path = Field(description="the vulnerability database, a SQLite file")
    vex: Path | None = Field(
        default=None, description="directory of VEX documents; `vex` beside the policy when absent"
    )
    exceptions: Path | None = Field(
        default=None, description="accepted risks; `exceptions.toml` beside the policy when absent"
    )
    archive: Path = Field(description="directory of archived evidence; nothing in it is removed")


class FileToken(_Addresses):
    """An OIDC id token in a file that somebody else keeps fresh."""

    source: Literal["file"] = "file"
    file: Path


class ClientToken(_Addresses):
    """A client of the OIDC issuer, which gives it a token for its secret."""

    source: Literal["client"] = "client"
    client: str = Field(min_length=1, max_length=512)
    secret_file: Path


class AmbientToken(_Addresses):
    """What the machine offers, as in GitHub Actions or GitLab."""

    source: Literal["ambient"] = "ambient"


TokenAddress = Annotated[FileToken | ClientToken | AmbientToken, Field(discriminator="source")]


class KeylessAddress(_Addresses):
    """What a builder needs where ``signing.mode`` is ``keyless``."""

    services: Path = Field(description="Sigstore's ClientTrustConfig: where to sign, whom to trust")
    token: TokenAddress


class KmsAddress(_Addresses):
    """What a builder needs where ``signing.mode`` is ``kms``."""

    uri: str = Field(
        pattern=r"^[a-z0-9]+:\S+$",
        max_length=1000,
        description="which key, as securesystemslib writes it: gcpkms:projects/.../versions/1",
    )
    public_key: Path = Field(description="its public half, PEM")


class AuthorityAddress(_Addresses):
    """The embedded authority, which gives tokens, certificates, timestamps and log entries."""

    directory: Path = Field(description="its keys and logs; for its process alone")
    url: str = Field(pattern=r"^http://127\.0\.0\.1:[0-9]{1,5}$", description="on loopback")

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


class RegistryAddress(_Addresses):
    """The OCI registry that releases and their evidence come from and go to."""

    url: str = Field(
        pattern=r"^https?://[^/\s?#@]+(/[a-z0-9._/-]+)?/?$",
        description="http(s)://host[:port][/prefix]; each release name is a repository below it",
    )
    credentials: Path | None = Field(
        default=None, description="file with user:password, readable by its owner alone"
    )


class BuilderAddress(_Addresses):
    """Where the builder's settings, keys and work are."""

    settings: Path = Field(description="whose commits it builds, and with what; TOML")
    work: Path = Field(description="builds under way, and the logs of all")
    keys: Path = Field(description="directory of the keys that sign releases")
    clock: Path = Field(description="directory of the local timestamp authority")
    keyless: KeylessAddress | None = Field(
        default=None, description="without it this builder does not sign keyless"
    )
    kms: KmsAddress | None = Field(
        default=None, description="without it this builder does not sign by a KMS"
    )


class ControlAddresses(_Addresses):
    """All that the control worker may reach."""

    temporal: TemporalAddress
    worker: WorkerAddress
    database: str = Field(description="SQLAlchemy URL")
    signing_key: Path = Field(description="Ed25519 private key of the ledger's checkpoints, PEM")
    config: Path = Field(description="the fleet's configuration, TOML")
    releases: Path = Field(description="OCI image layout; a cache where there is a registry")
    registry: RegistryAddress | None = Field(
        default=None, description="where releases are; without it, in the image layout alone"
    )
    verification: VerificationAddress | None = Field(
        default=None, description="without it every verdict is an error, and no release is let in"
    )
    builder: BuilderAddress | None = Field(
        default=None, description="without it this worker builds no releases"
    )
    otlp_endpoint: str | None = Field(default=None, description="OpenTelemetry collector, if any")


class RegionAddresses(_Addresses):
    """All that one region's processes may reach."""

    region: RegionCode
    temporal: TemporalAddress
    worker: WorkerAddress
    database: str
    signing_key: Path
    config: Path
    releases: Path
    registry: RegistryAddress | None = None
    workdir: Path = Field(description="where releases are unpacked and their logs are kept")
    gateway: GatewayAddress
    recovery: Path | None = Field(
        default=None,
        description="directory of the primary's file and the write buffer; without it the region "
        "has no degraded mode",
    )
    webhook: WebhookAddress | None = Field(
        default=None, description="told of each notice to the tenants; it delays nothing"
    )
    prometheus: str | None = Field(default=None, description="base URL; Envoy's own when absent")
    backup: BackupAddress | None = Field(
        default=None, description="without it nothing of this region is backed up"
    )
    otlp_endpoint: str | None = None
