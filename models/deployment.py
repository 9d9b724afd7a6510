"""The deploy attestation: who put which release on which shard, and on the strength of what.

It is an in-toto Statement v1 about the release's digest, kept in the ``deployment`` field of each
``shard.activated`` receipt. The receipt's hash chain and signed checkpoints are its signature; an
outsider who has the receipt has the statement with it.
"""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from models.ids import Actor, Digest
from models.statement import DEPLOYMENT, STATEMENT_TYPE

VERIFIER = "urn:chainring:verifier:v1"


class Approval(BaseModel):
    """On whose word releases may be deployed, and by which verdicts; it crosses the border."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployer: Actor = Field(description="who started the rollout")
    verifier: str = VERIFIER
    verdicts: dict[Digest, Digest] = Field(description="digest of the verdict, by release")
    override: str = Field(default="", description="workflow id of the break-glass, if one was used")

    def verdict(self, release: str) -> str | None:
        """The verdict on a release, if it was judged."""
        return self.verdicts.get(release)


def deployment_statement(
    approval: Approval,
    *,
    release: str,
    region: str,
    shard: str,
    rollout: str,
    at: datetime,
) -> dict[str, JsonValue]:
    """The statement that ``release`` was deployed to ``shard``.

    A release that was never judged, as one that a rollback goes to when verification cannot be
    reached, has a verdict of null: the statement says so and hides nothing.
    """
    verdict = approval.verdict(release)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": shard, "digest": {"sha256": release.removeprefix("sha256:")}}],
        "predicateType": DEPLOYMENT,
        "predicate": {
            "timestamp": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}",
            "deployer": approval.deployer,
            "region": region,
            "shard": shard,
            "rollout": rollout,
            "verifier": approval.verifier,
            "verdict": None
            if verdict is None
            else {"digest": {"sha256": verdict.removeprefix("sha256:")}},
            "override": approval.override or None,
        },
    }
