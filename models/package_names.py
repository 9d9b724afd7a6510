"""Package URLs that do not say what they seem to say.

A bill of materials is matched by package URL, so a name that only looks like a package's name hides
that package from every rule. Each doubt has a code and names the component:

* ``malformed``: not a package URL;
* ``not-canonical``: a package URL in another spelling than the canonical one;
* ``grammar``: a name that the ecosystem does not allow, so that no such package can exist;
* ``mixed-script``: letters of more than one script, as in a Cyrillic letter among Latin ones;
* ``look-alike``: letters that are drawn like ASCII letters but are others;
* ``twin``: two packages of one bill whose names look alike (``l`` and ``1``, ``rn`` and ``m``);
* ``disagrees``: the component's own name or version is not that of its package URL.

Sources: the package URL specification; PEP 508 (names of Python distributions); Cargo's manifest
format and npm's ``package.json`` for names; Unicode TR 39 for the idea of a skeleton. The table of
look-alikes holds what can pass for a letter of a package name, which are all ASCII.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from packageurl import PackageURL

from models.sbom import Component

DoubtCode = Literal[
    "malformed", "not-canonical", "grammar", "mixed-script", "look-alike", "twin", "disagrees"
]

_NAMES = {
    "pypi": re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII),
    "cargo": re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII),
    "npm": re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~!'()*-]{0,213}", re.ASCII),
    "deb": re.compile(r"[a-z0-9][a-z0-9+.-]+", re.ASCII),
    "oci": re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*", re.ASCII),
    "gem": re.compile(r"[A-Za-z0-9._-]+", re.ASCII),
}
_ANY_NAME = re.compile(r"[\x21-\x7e]+", re.ASCII)
_NAMESPACES = {
    "npm": re.compile(r"@[a-z0-9~-][a-z0-9._~-]{0,213}", re.ASCII),
    "pypi": re.compile(r""),
    "cargo": re.compile(r""),
}
_ANY_NAMESPACE = re.compile(r"[\x21-\x7e]*", re.ASCII)

# Letters by the ASCII letter that they are drawn like: Cyrillic, Greek, and signs like a hyphen.
_LOOK_ALIKES = {
    "a": "\u0430\u03b1\u0251",
    "c": "\u0441\u03f2",
    "d": "\u0501",
    "e": "\u0435",
    "g": "\u0261\u0581",
    "h": "\u04bb\u0570",
    "i": "\u0456\u03b9\u0131\u0269",
    "j": "\u0458\u03f3",
    "k": "\u043a\u03ba",
    "l": "\u04cf\u029f",
    "n": "\u0578",
    "o": "\u043e\u03bf\u0585",
    "p": "\u0440\u03c1",
    "q": "\u051b",
    "s": "\u0455",
    "u": "\u03c5\u057d",
    "v": "\u0475\u03bd",
    "w": "\u051d\u03c9",
    "x": "\u0445\u03c7",
    "y": "\u0443\u03b3",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2212",
}
_TABLE = str.maketrans(
    {other: letter for letter, others in _LOOK_ALIKES.items() for other in others}
)
_DRAWN_ALIKE = (("rn", "m"), ("vv", "w"), ("0", "o"), ("1", "l"), ("i", "l"))


@dataclass(frozen=True)
class Doubt:
    """One reason not to take a component's name at its word."""

    code: DoubtCode
    component: str
    detail: str


def skeleton(name: str) -> str:
    """What a name looks like: names that a reader could mistake for one another share it."""
    folded = _fold(name)
    for written, drawn in _DRAWN_ALIKE:
        folded = folded.replace(written, drawn)
    return re.sub(r"[-_.]+", "-", folded)


def purl_doubts(component: Component) -> list[Doubt]:
    """What is wrong with one component's package URL and names; none for a component without."""
    purl = None
    if component.purl is not None:
        try:
            purl = PackageURL.from_string(component.purl)
        except ValueError as error:
            return [_doubt(component, "malformed", str(error)[:200])]
    name = purl.name if purl else component.name
    found = list(_script_doubts(component, name))
    if purl is not None:
        found += _grammar_doubts(component, purl)
        found += _agreement_doubts(component, purl)
    return found


def sbom_doubts(components: Iterable[Component]) -> list[Doubt]:
    """Every doubt about the packages of one bill, and about pairs of them that look alike."""
    packages = [component for component in components if component.kind != "file"]
    found = [doubt for component in packages for doubt in purl_doubts(component)]
    return found + list(_twins(packages))


def _twins(packages: Iterable[Component]) -> Iterator[Doubt]:
    seen: dict[tuple[str, str, str], tuple[str, Component]] = {}
    for component in packages:
        try:
            purl = PackageURL.from_string(component.purl or "")
        except ValueError:
            continue
        name = re.sub(r"[-_.]+", "-", purl.name.lower())
        key = (purl.type, purl.namespace or "", skeleton(purl.name))
        first, other = seen.setdefault(key, (name, component))
        if first != name:
            yield _doubt(component, "twin", f"looks like {other.label[:200]}")


def _script_doubts(component: Component, name: str) -> Iterator[Doubt]:
    if name.isascii():
        return
    scripts = {_script(letter) for letter in name if letter.isalpha()}
    if len(scripts) > 1:
        yield _doubt(component, "mixed-script", " and ".join(sorted(scripts)))
    folded = _fold(name)
    if folded.isascii():
        yield _doubt(component, "look-alike", f"can be read as {folded[:200]!r}")


def _grammar_doubts(component: Component, purl: PackageURL) -> Iterator[Doubt]:
    if not _NAMES.get(purl.type, _ANY_NAME).fullmatch(purl.name):
        yield _doubt(component, "grammar", f"{purl.name[:100]!r} is no name in {purl.type}")
    namespace = purl.namespace or ""
    allowed = _NAMESPACES.get(purl.type, _ANY_NAMESPACE)
    if namespace and not allowed.fullmatch(namespace):
        yield _doubt(component, "grammar", f"{namespace[:100]!r} is no namespace in {purl.type}")
    if not purl.version:
        yield _doubt(component, "grammar", "the package URL has no version")
    canonical = re.sub(r"%[0-9a-f]{2}", lambda escape: escape[0].upper(), purl.to_string())
    if canonical != component.purl:
        yield _doubt(component, "not-canonical", f"the canonical form is {canonical[:300]}")


def _agreement_doubts(component: Component, purl: PackageURL) -> Iterator[Doubt]:
    """Tools write a scoped name as ``@scope/name`` or as group and name; both agree."""
    full = "/".join(part for part in (purl.namespace, purl.name) if part)
    names = {_plain(purl.name), _plain(full)}
    if _plain(component.name) not in names:
        yield _doubt(component, "disagrees", f"the component is called {component.name[:200]!r}")
    if component.version and purl.version and component.version != purl.version:
        yield _doubt(
            component, "disagrees", f"the component has version {component.version[:99]!r}"
        )


def _fold(name: str) -> str:
    """Lower case first: a capital of another script has its look-alike in the table then."""
    return unicodedata.normalize("NFKC", name).casefold().translate(_TABLE)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _script(letter: str) -> str:
    """The script of a letter, by the first word of its name; what has no name is its own script."""
    return unicodedata.name(letter, "unnamed letter").split()[0]


def _doubt(component: Component, code: DoubtCode, detail: str) -> Doubt:
    return Doubt(code, component.label[:300], detail)
