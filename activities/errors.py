"""Which errors are final. A refusal is never retried; an unreachable store or gateway is."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pydantic import ValidationError
from temporalio.exceptions import ApplicationError

from activities.targets.base import TargetRefused
from models.backup_file import BackupDamaged
from models.backup_retention import RetentionRefused
from models.calendar import CalendarError
from models.changelog import ChangelogBroken
from models.config import ConfigError
from models.documents import DocumentError
from models.fleet import FleetError
from models.planning import PlanRefused
from models.upcasting import SchemaUnknown
from models.verifier import Refused
from stores.control import NotTheHolder
from stores.ledger import FencedError, IdempotencyConflict
from stores.objects import ObjectDamaged, ObjectExists
from stores.oci import ReleaseError
from stores.pointer import PointerError
from stores.primary import RegionNotNormal
from stores.region_state import StaleEpoch
from stores.restore import StoreWentOn
from stores.restore_plan import GoalUnknown, NothingToRestore
from stores.restore_proof import RestoreMismatch
from stores.scratch import ScratchError
from stores.snapshots import SnapshotMismatch
from stores.tenant_apply import StoreChanged
from stores.tenant_copy import TenantUnknown
from stores.tenant_keys import KeyDamaged
from stores.vulnerability_feeds import FeedError
from stores.webhook import WebhookRefused
from stores.witness import HeadRefused

FINAL: tuple[type[Exception], ...] = (
    BackupDamaged,
    CalendarError,
    ChangelogBroken,
    ConfigError,
    DocumentError,
    FeedError,
    FencedError,
    FleetError,
    GoalUnknown,
    HeadRefused,
    IdempotencyConflict,
    KeyDamaged,
    NotTheHolder,
    NothingToRestore,
    ObjectDamaged,
    ObjectExists,
    PlanRefused,
    PointerError,
    Refused,
    RegionNotNormal,
    ReleaseError,
    RestoreMismatch,
    RetentionRefused,
    SchemaUnknown,
    ScratchError,
    SnapshotMismatch,
    StaleEpoch,
    StoreWentOn,
    StoreChanged,
    TargetRefused,
    TenantUnknown,
    ValidationError,
    WebhookRefused,
)

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def final_errors(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Turn an error that no retry can mend into one that Temporal does not retry.

    The workflow sees the error's class name as its ``type`` and its words as the message.
    """

    @functools.wraps(function)
    def guarded(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except FINAL as error:
            raise ApplicationError(
                str(error), type=type(error).__name__, non_retryable=True
            ) from error

    return guarded
