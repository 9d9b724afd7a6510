"""What was read of the vulnerability database for one report, so that the report can be made again.

What a report says comes from it: the advisories that a component may be affected by, those that are
called the same, and what was said of exploitation. Advisories about other versions alone are left
out: of a well-known name there are thousands. It answers as the database did, and to questions
that were never asked then it answers that nothing is known.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from models.advisory import Advisory
from models.strict_json import EvidenceError
from models.vulnerability_data import Snapshot

_Packages = Sequence[tuple[str, str]]
Relevant = Callable[[tuple[str, str], Advisory], bool]
"""Whether an advisory about a package of this ecosystem and name may concern a component."""

_ENCODE = msgspec.json.Encoder(order="deterministic").encode


class Known(Protocol):
    """What is known of vulnerabilities, in one state; see `stores.vulnerabilities`."""

    def snapshot(self) -> Snapshot:
        """What is loaded."""

    def about(
        self, packages: _Packages, relevant: Relevant
    ) -> dict[tuple[str, str], list[Advisory]]:
        """Relevant advisories by (base ecosystem, normal name)."""

    def ecosystems(self, names: Iterable[str]) -> set[str]:
        """Those about which anything is known."""

    def called(self, names: Iterable[str]) -> list[Advisory]:
        """Advisories with one of these ids or aliases."""

    def exploited(self, names: Iterable[str]) -> bool:
        """Whether one of these is known to be exploited."""

    def epss(self, names: Iterable[str]) -> float | None:
        """The highest probability of exploitation of one of these."""


class _About(msgspec.Struct, frozen=True):
    ecosystem: str
    name: str
    advisories: tuple[int, ...]


class _Called(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    advisories: tuple[int, ...]


class _Record(msgspec.Struct):
    snapshot: str
    advisories: list[Advisory] = []
    about: list[_About] = []
    called: list[_Called] = []
    ecosystems: list[str] = []
    exploited: list[str] = []
    epss: dict[str, float] = {}


class Recorder:
    """Passes questions on, and keeps the answers."""

    def __init__(self, inner: Known) -> None:
        self._inner = inner
        self._numbers: dict[Advisory, int] = {}
        self._record = _Record(snapshot=inner.snapshot().model_dump_json())

    def to_bytes(self) -> bytes:
        """The record; the same questions and answers give the same bytes."""
        return _ENCODE(self._record)

    def snapshot(self) -> Snapshot:
        return Snapshot.model_validate_json(self._record.snapshot)

    def about(
        self, packages: _Packages, relevant: Relevant
    ) -> dict[tuple[str, str], list[Advisory]]:
        found = self._inner.about(packages, relevant)
        self._record.about += [
            _About(ecosystem, name, self._kept(advisories))
            for (ecosystem, name), advisories in sorted(found.items())
        ]
        return found

    def ecosystems(self, names: Iterable[str]) -> set[str]:
        found = self._inner.ecosystems(names)
        self._record.ecosystems = sorted({*self._record.ecosystems, *found})
        return found

    def called(self, names: Iterable[str]) -> list[Advisory]:
        asked = tuple(names)
        found = self._inner.called(asked)
        self._record.called.append(_Called(asked, self._kept(found)))
        return found

    def exploited(self, names: Iterable[str]) -> bool:
        found = [name for name in names if self._inner.exploited([name])]
        self._record.exploited = sorted({*self._record.exploited, *found})
        return bool(found)

    def epss(self, names: Iterable[str]) -> float | None:
        scores = {name: self._inner.epss([name]) for name in names}
        found = {name: score for name, score in scores.items() if score is not None}
        self._record.epss |= found
        return max(found.values(), default=None)

    def _kept(self, advisories: Iterable[Advisory]) -> tuple[int, ...]:
        for each in advisories:
            if each not in self._numbers:
                self._numbers[each] = len(self._record.advisories)
                self._record.advisories.append(each)
        return tuple(self._numbers[each] for each in advisories)


class Consulted:
    """A record that answers as the database did.

    Raises:
        EvidenceError: the bytes are no record.
    """

    def __init__(self, data: bytes) -> None:
        try:
            record = msgspec.json.decode(data, type=_Record)
            self._snapshot = Snapshot.model_validate_json(record.snapshot)
            known = record.advisories
            self._about = {
                (each.ecosystem, each.name): [known[n] for n in each.advisories]
                for each in record.about
            }
            self._called = {
                each.names: [known[n] for n in each.advisories] for each in record.called
            }
        except (msgspec.MsgspecError, ValueError, IndexError) as error:
            raise EvidenceError(f"advisories: {str(error)[:300]}") from None
        self._record = record

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def about(
        self, packages: _Packages, relevant: Relevant
    ) -> dict[tuple[str, str], list[Advisory]]:
        return {
            each: [known for known in self._about[each] if relevant(each, known)]
            for each in packages
            if each in self._about
        }

    def ecosystems(self, names: Iterable[str]) -> set[str]:
        return set(names) & set(self._record.ecosystems)

    def called(self, names: Iterable[str]) -> list[Advisory]:
        return self._called.get(tuple(names), [])

    def exploited(self, names: Iterable[str]) -> bool:
        return not set(names).isdisjoint(self._record.exploited)

    def epss(self, names: Iterable[str]) -> float | None:
        scores = self._record.epss
        return max((scores[name] for name in names if name in scores), default=None)
