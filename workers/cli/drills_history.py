"""What a region's ledger says about its drills and recovery incidents, for the report."""

from typing import Any

from workers.cli.certificate import plain
from workers.cli.ledgers import find_ledger, refusals
from workers.cli.output import emit_table

DRILLED = "recovery.drilled"
INCIDENT = "recovery.incident"


def history(region: str) -> dict[str, list[dict[str, Any]]]:
    """Drills and incidents, oldest first; ends the command where the ledger cannot be read."""
    drills: list[dict[str, Any]] = []
    incidents: dict[str, dict[str, Any]] = {}
    with refusals():
        for stored in find_ledger(region).open().read(kinds=[DRILLED, INCIDENT]):
            receipt = stored.receipt
            said = {"seq": stored.seq, "at": receipt.at, **receipt.body}
            if receipt.kind == DRILLED:
                drills.append(said)
            elif (opened := incidents.get(f"{receipt.subject} {receipt.run_id}")) is None:
                incidents[f"{receipt.subject} {receipt.run_id}"] = {
                    "incident": receipt.subject,
                    **said,
                    "now": said["what"],
                }
            else:
                opened["now"] = f"{said['what']} by {receipt.actor}"
    return {"drills": drills, "incidents": list(incidents.values())}


def print_history(found: dict[str, list[dict[str, Any]]]) -> None:
    """The same for people."""
    drills = [
        [
            each["at"][:16],
            each["kind"],
            each["verdict"],
            str(each.get("reached_seq", "-")),
            f"{each['milliseconds'] / 1000:.2f} s" if "milliseconds" in each else "-",
            plain("; ".join(each.get("misses", [])) or each["why"] or "-"),
        ]
        for each in found["drills"]
    ]
    emit_table(["drilled", "kind", "verdict", "reached", "took", "remarks"], drills, "drills")
    incidents = [
        [each["at"][:16], each["kind"], each["now"], each["incident"], plain(each["reason"])]
        for each in found["incidents"]
    ]
    emit_table(["opened", "kind", "now", "incident", "why"], incidents, "incidents")
