"""Names of things: the grammars of tenant, shard, region and release identifiers.

A tenant id is one DNS label, because the gateway routes by host name. The strict grammar is also
what keeps one tenant from naming another's keys: no separator, no escape and no second spelling
can occur in it.
"""

import re
from typing import Annotated

from pydantic import StringConstraints

TENANT_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
REGION_PATTERN = r"^[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?$"
SHARD_PATTERN = r"^[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?-[0-9]{3,6}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
ACTOR_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+:/-]{0,127}$"

TenantId = Annotated[str, StringConstraints(pattern=TENANT_PATTERN)]
RegionCode = Annotated[str, StringConstraints(pattern=REGION_PATTERN)]
ShardId = Annotated[str, StringConstraints(pattern=SHARD_PATTERN)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
Actor = Annotated[str, StringConstraints(pattern=ACTOR_PATTERN)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]

CONTROL_LEDGER = "control"

_TENANT = re.compile(TENANT_PATTERN.removesuffix("$") + r"\Z")


def is_tenant_id(text: str) -> bool:
    """Whether ``text`` is a well-formed tenant id (``\\Z``: a trailing newline is not)."""
    return _TENANT.match(text) is not None


def short(digest: str) -> str:
    """The first 12 hex digits of a digest: enough to name a cluster or a directory to a person."""
    return digest.removeprefix("sha256:")[:12]
