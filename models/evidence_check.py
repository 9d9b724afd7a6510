"""The regular look at whether archived evidence is still whole: input and result."""

from pydantic import BaseModel, ConfigDict, Field

from models.ids import Actor

MAX_NAMED = 50


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EvidenceRequest(_Message):
    """Input of ``CheckEvidence``; nothing is required."""

    actor: Actor = "chainring"
    reason: str = Field(default="scheduled", max_length=500)


class EvidenceReport(_Message):
    """What every verdict's receipt names, read back and hashed."""

    verdicts: int = Field(ge=0)
    digests: int = Field(ge=0, description="different pieces of evidence that they name")
    lost: int = Field(ge=0, description="times that a verdict names one that is not there whole")
    named: list[str] = Field(default=[], description=f"the first {MAX_NAMED} of these")

    def words(self) -> str:
        """One line for a person."""
        said = f"{self.verdicts} verdicts name {self.digests} pieces of evidence"
        return f"{said}; {self.lost} lost: {self.named[0]}" if self.lost else f"{said}, all there"
