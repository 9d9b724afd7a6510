"""How bad a vulnerability is, by CVSS, in one word; a severity that nobody gave is ``unknown``.

Labels and their bounds are those of CVSS v3.1 (section 5, "Qualitative Severity Rating Scale"),
which v4.0 keeps; a v2 vector counts only where there is no newer one.
"""

from collections.abc import Iterable
from typing import Literal

from cvss import CVSS2, CVSS3, CVSS4
from cvss.exceptions import CVSSError

Severity = Literal["none", "low", "medium", "high", "critical", "unknown"]
RANK: tuple[Severity, ...] = ("unknown", "none", "low", "medium", "high", "critical")

MAX_VECTOR = 512
_WORDS: dict[str, Severity] = {
    "NONE": "none",
    "LOW": "low",
    "MINOR": "low",
    "NEGLIGIBLE": "low",
    "MODERATE": "medium",
    "MEDIUM": "medium",
    "IMPORTANT": "high",
    "HIGH": "high",
    "CRITICAL": "critical",
}


def of_score(score: float) -> Severity:
    """The label of a CVSS v3 or v4 base score."""
    if score <= 0:
        return "none"
    bounds: tuple[tuple[float, Severity], ...] = ((4, "low"), (7, "medium"), (9, "high"))
    return next((label for below, label in bounds if score < below), "critical")


def of_vector(vector: str) -> Severity:
    """The label of a CVSS vector of any version; ``unknown`` when it is none."""
    if len(vector) > MAX_VECTOR:
        return "unknown"
    try:
        if vector.startswith("CVSS:4."):
            return of_score(float(CVSS4(vector).base_score))
        if vector.startswith("CVSS:3."):
            return of_score(float(CVSS3(vector).base_score))
        return of_score(float(CVSS2(vector.strip("()")).base_score))
    except (CVSSError, ValueError, TypeError, KeyError, IndexError, ArithmeticError):
        return "unknown"


def of_word(word: object) -> Severity:
    """The label that a database wrote down in words; ``unknown`` for a word it should not use."""
    return _WORDS.get(word.strip().upper(), "unknown") if isinstance(word, str) else "unknown"


def worst(labels: Iterable[Severity]) -> Severity:
    """The highest of several; ``unknown`` only where nothing else is known."""
    return max(labels, key=RANK.index, default="unknown")
