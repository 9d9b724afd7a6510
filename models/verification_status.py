"""What a rollout shows of the last judgement over its release's evidence."""

from pydantic import BaseModel, ConfigDict, Field

from models.ids import Digest


class VerificationStatus(BaseModel):
    """The last verdict in short; the receipt has the whole of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: str = Field(description="when it was judged: start, ring canary, rollback, ...")
    outcome: str
    why: str
    verdict: Digest = Field(description="digest of the verdict")
    seq: int = Field(ge=0, description="its receipt in the control ledger")
    findings: list[str] = Field(default=[], description="what did not pass, one line each")
    override: str = Field(default="", description="the break-glass that lets it through, in words")

    def markdown(self) -> list[str]:
        """Lines for the current details of the web UI."""
        lines = [f"- verified ({self.phase}): **{self.outcome}**, receipt {self.seq}"]
        if self.override:
            lines.append(f"- **{self.override}**")
        if self.outcome != "pass":
            lines += [f"  - {finding}" for finding in self.findings[:10]]
        return lines
