"""What the protected tables' rows were under each schema version. History: never change a line.

A changed table is a new version: count `models.documents.SCHEMA_VERSION` up, add its shapes here
and a step to `models.upcasting`, and freeze a backup with ``scripts/freeze_backup.py``.
"""

from collections.abc import Mapping

_V1 = {
    "region_state": "region:text generation:integer epoch:integer placement:integer",
    "shard": (
        "id:text region:text zone:text release:text epoch:integer rolling:boolean activated_at:time"
    ),
    "tenant": "id:text shard:text region:text zone:text size:integer state:text created_at:time",
    "kv_space": "tenant:text clock:integer used:integer",
    "kv_entry": "tenant:text key:bytes sha256:bytes version:integer value:payload",
    "ledger_head": "ledger:text size:integer hash:bytes epoch:integer",
    "receipt": (
        "ledger:text seq:integer prev:bytes kind:text subject:text idempotency_key:text "
        "data:textbytes"
    ),
    "checkpoint": "ledger:text size:integer note:text frontier:bytes",
}

_V2 = {
    **_V1,
    "buffer_mark": "id:text spool:text number:integer applied:boolean",
    "buffer_conflict": (
        "tenant:text id:text spool:text number:integer key:bytes value:bytes version:integer "
        "expected:integer seen:integer found:integer why:text at:integer"
    ),
}

SHAPES: Mapping[int, Mapping[str, str]] = {1: _V1, 2: _V2}
