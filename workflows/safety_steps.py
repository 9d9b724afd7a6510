"""Steps of what keeps the fleet safe beside rollouts: break-glass, judging again, incidents."""

from models.break_glass import EndOverride, Override
from models.ids import short
from workflows.steps import run_step


async def grant_override(override: Override) -> Override:
    """Put an override in force; the one that is there under its id is returned as it was."""
    summary = f"let {short(override.release)} through until {override.expires:%H:%M:%SZ}"
    return await run_step("grant_override", override, Override, summary)


async def end_override(step: EndOverride) -> None:
    """From now on the override counts no more."""
    await run_step("end_override", step, type(None), f"break-glass {step.state}")
