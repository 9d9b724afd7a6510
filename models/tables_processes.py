"""Table of a region's release processes: what is wanted, and what the release host reports."""

from sqlmodel import Field, SQLModel


class ReleaseProcessRow(SQLModel, table=True):
    """One release in one region. The target writes what it wants, the host what it sees."""

    __tablename__ = "release_process"

    release: str = Field(primary_key=True, description="digest")
    desired: str = Field(description="running or stopped")
    attempt: int = Field(description="grows each time the release is wanted anew")
    state: str = Field(description="starting, healthy, unhealthy, failed or stopped")
    proven: bool = Field(default=False, description="was healthy in this attempt")
    port: int | None = None
    pid: int | None = None
    restarts: int = Field(default=0, description="starts after the first, in this attempt")
    detail: str = ""
    source: str = Field(default="", description="incarnation: changes at each process start")
