"""The sections of the configuration about the supply chain: names and defaults as in section 4 of
the source document.

What is verified cannot be switched off here: such a key admits only the value that Chainring always
acts on. Whom to trust, and what to refuse, is in the verification policy
(`models.verification_policy`), whose digest every verdict names.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from models.config_sections import Always, Section, WholeNumber
from models.vulnerability_data import Feed

FEEDS = ("nvd", "osv")
FollowUp = Literal["incident", "stop", "propose_rollback"]


def _known_feeds(names: list[str]) -> list[str]:
    for name in names:
        if name not in FEEDS:
            raise ValueError(f"unknown database {name!r}; known: {', '.join(FEEDS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError("must name at least one database, and each one once")
    return names


class Sbom(Section):
    """The list of what a release is made of, and what is known against its parts."""

    format: Literal["cyclonedx"] = "cyclonedx"
    vulnerability_databases: Annotated[list[str], AfterValidator(_known_feeds)] = Field(
        default=list(FEEDS), description="what a verdict needs, loaded and fresh"
    )
    feeds: dict[Feed, Annotated[str, Field(min_length=1, max_length=2048)]] = Field(
        default={}, description="where each feed is loaded from: a path, or an http(s) URL"
    )
    block_critical_cves: Always = True
    archive_with_image: Always = True


class Signing(Section):
    """How releases are signed."""

    provider: Literal["cosign"] = "cosign"
    mode: Literal["key", "keyless", "kms"] = Field(
        default="key",
        description="by a key of the builder's own, by the identity that a token names, or by a "
        "key that a KMS keeps",
    )
    oidc_provider: Annotated[str, Field(pattern=r"^https?://[!-~]{1,500}$")] = (
        "https://token.actions.githubusercontent.com"
    )
    key_rotation_days: Annotated[WholeNumber, Field(ge=1, le=3650)] = 90


class Provenance(Section):
    """What a build says about itself."""

    format: Literal["in-toto"] = "in-toto"
    include_git_commit: Always = True
    include_test_results: Always = True
    include_builder_id: Always = True
    store_in_registry: Always = True


class DeploymentVerification(Section):
    """What a rollout asks of a release before it starts, and again before each ring."""

    verify_image_signature: Always = True
    validate_sbom: Always = True
    validate_provenance: Always = True
    fail_on_verification_error: Always = True
    follow_up: FollowUp = Field(
        default="incident",
        description="when a release that runs is refused: open an incident; also stop a rollout "
        "that is bringing it; also propose the release to go back to",
    )


class AuditTrail(Section):
    """What is kept of it all, and for how long."""

    store: Literal["firestore", "ledger"] = "ledger"
    immutable_receipts: Always = True
    receipt_chain_enabled: Always = True
    forensics_enabled: Always = True
    retention_years: Annotated[WholeNumber, Field(ge=1, le=100)] = 7
