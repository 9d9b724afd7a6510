"""The embedded stack: which processes it has, and how each one stands."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ProcessSpec(BaseModel):
    """One process for the supervisor to keep running."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    command: list[str] = Field(
        description="argv; {incarnation} in it is replaced by a new id at each start"
    )
    ready_url: str = Field(
        description="answers 200 when it serves; tcp://host:port works; empty: being alive is all"
    )
    stage: int = Field(description="all start together; they end by stage, the highest first")
    about: str = Field(default="", description="what a person finds there")


class StackPlan(BaseModel):
    """All processes of one home."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temporal: str
    ui: str
    processes: list[ProcessSpec]


class ProcessState(BaseModel):
    """How one process stands."""

    name: str
    pid: int | None = None
    ready: bool = False
    restarts: int = 0
    detail: str = ""


class StackState(BaseModel):
    """What the supervisor says of itself."""

    pid: int
    created: float = Field(description="the supervisor's start, as the system counts it")
    phase: Literal["starting", "ready", "stopping"] = "starting"
    processes: list[ProcessState] = []
