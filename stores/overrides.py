"""Overrides by break-glass: granted and ended in one transaction with their receipts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from models.break_glass import Override
from models.receipts import Draft
from models.tables_overrides import OverrideRow
from stores.ledger import Ledger
from stores.region_state import as_utc
from stores.sql import read, table, write

_OVERRIDES = table(OverrideRow)
_FIELDS = [_OVERRIDES.c[name] for name in Override.model_fields]


class OverrideStore:
    """The overrides of one control plane; each writing method may be repeated."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self._engine = engine
        self._ledger = ledger

    def grant(self, override: Override, draft: Draft) -> Override:
        """Put an override in force; the one that is there already under its id stays as it is."""
        with write(self._engine) as connection:
            known = self._find(connection, override.id)
            if known is not None:
                return known
            self._ledger.append([draft], connection=connection)
            connection.execute(insert(_OVERRIDES), {**dict(override), "ended": False})
        return override

    def end(self, override_id: str, draft: Draft) -> None:
        """Let an override count no more, whatever its time."""
        with write(self._engine) as connection:
            self._ledger.append([draft], connection=connection)
            ended = update(_OVERRIDES).where(_OVERRIDES.c.id == override_id).values(ended=True)
            connection.execute(ended)

    def in_force(self, now: datetime, release: str | None = None) -> list[Override]:
        """Overrides that count at ``now``, the one that ends last first.

        Their time is judged here and not by the workflow that ends them: one that is late, or
        down, lengthens nothing.
        """
        query = select(*_FIELDS).where(~_OVERRIDES.c.ended, _OVERRIDES.c.expires > now)
        if release is not None:
            query = query.where(_OVERRIDES.c.release == release)
        with read(self._engine) as connection:
            rows = connection.execute(query.order_by(_OVERRIDES.c.expires.desc())).mappings()
            return [_override(row) for row in rows]

    def _find(self, connection: Connection, override_id: str) -> Override | None:
        found = select(*_FIELDS).where(_OVERRIDES.c.id == override_id)
        row = connection.execute(found).mappings().first()
        return None if row is None else _override(row)


def _override(row: Mapping[Any, Any]) -> Override:
    return Override(**{**row, "expires": as_utc(row["expires"])})
