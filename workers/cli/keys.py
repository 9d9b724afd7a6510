"""`chainring keys`: the keys that sign releases, their days, and their end."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from models.config import ConfigError
from models.config_supply import Signing
from models.ids import CONTROL_LEDGER
from models.receipts import Draft
from models.rollout import Decision
from models.trust import TrustedKey
from stores.keys import KeyFileError
from stores.ledger import Ledger
from stores.signing_keys import SigningKeys
from stores.sql import open_engine
from stores.timestamp_authority import LocalTimestampAuthority
from workers.builder import builder_keys, publish_trust, signing_settings
from workers.cli.output import UNREACHABLE, USAGE, console, emit_json, emit_table, fail
from workers.settings import load_control

app = typer.Typer(
    help="The keys that sign releases: their days, rotation and revocation.", no_args_is_help=True
)

ActorOpt = Annotated[str, typer.Option(help="who decides; kept in the receipt")]
ReasonOpt = Annotated[str, typer.Option(help="why; kept in the receipt")]


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """List every key there ever was, the one that signs now last."""
    found = _keys(configured=False).public()
    if as_json:
        emit_json([{"key_id": key.key_id, **key.model_dump(mode="json")} for key in found])
        return
    rows = [
        (
            key.key_id,
            f"{key.valid_from:%Y-%m-%d %H:%M}",
            f"{key.valid_until:%Y-%m-%d %H:%M}",
            f"{key.revoked_at:%Y-%m-%d %H:%M} {key.revoked_because}" if key.revoked_at else "-",
        )
        for key in found
    ]
    emit_table(["key", "from", "until", "revoked"], rows)


@app.command()
def rotate(actor: ActorOpt, reason: ReasonOpt) -> None:
    """Replace the key that signs now; what it signed stands."""
    decision = Decision(actor=actor, reason=reason)
    keys = _keys()
    if _settings().mode == "kms":
        fail("the KMS keeps the key: rotate it there, and name the new one in builder.kms", USAGE)
    key = keys.rotate()
    _publish("key.rotated", key, decision)
    console.print(f"from now on {key.key_id} signs", highlight=False)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="as `chainring keys list` shows it")],
    at: Annotated[
        datetime,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%SZ"], help="UTC; what was signed from then on falls"
        ),
    ],
    actor: ActorOpt,
    reason: ReasonOpt,
) -> None:
    """Revoke a key from a time on, which may lie back.

    Example: chainring keys revoke 3f9a... --at 2026-11-20T00:00:00Z --actor ana --reason "stolen"
    """
    decision = Decision(actor=actor, reason=reason)
    try:
        key = _keys(configured=False).revoke(key_id, at.replace(tzinfo=UTC), decision.reason)
    except ValueError as error:
        fail(str(error), USAGE)
    _publish("key.revoked", key, decision)
    console.print(f"{key.key_id} is revoked from {key.revoked_at} on", highlight=False)


def _keys(*, configured: bool = True) -> SigningKeys:
    """The builder's keys; without the configuration, which need not hold to revoke one."""
    addresses = load_control()
    if addresses.builder is None:
        fail("this home has no builder, and so no keys that sign releases", UNREACHABLE)
    return builder_keys(addresses.builder, _settings() if configured else Signing())


def _settings() -> Signing:
    config = load_control().config
    try:
        return signing_settings(config)
    except (ConfigError, OSError) as error:
        fail(f"{config}: {error}", USAGE)


def _publish(kind: str, key: TrustedKey, decision: Decision) -> None:
    """Bring the trust root up to date, then write the receipt of what was decided."""
    addresses = load_control()
    assert addresses.builder is not None
    try:
        if addresses.verification is not None:
            clock = LocalTimestampAuthority(addresses.builder.clock)
            publish_trust(addresses.verification.trust_root, _keys(configured=False), clock)
    except KeyFileError as error:
        fail(str(error), UNREACHABLE)
    body = key.model_dump(mode="json", exclude={"public_key"}) | {"reason": decision.reason}
    draft = Draft(
        kind=kind,
        actor=decision.actor,
        subject=f"key/{key.key_id}",
        body=body,
        idempotency_key=f"{kind}/{key.key_id}/{key.revoked_at or key.valid_from}",
    )
    Ledger(open_engine(addresses.database), CONTROL_LEDGER).append([draft])
