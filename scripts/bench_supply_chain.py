"""What judging a release costs: its evidence, and what is known against its components.

    scripts/bench supply-chain [--advisories 200000] [--components 5000]

Prints Markdown tables. Verifying a release is held against checking its four signatures alone;
matching its components, against reading the same rows of the database alone, and then once more
with ten times the advisories. Each pair runs in turns, and the best of each counts.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from verifier_harness import NOW, Bench

from models.advisory import Advisory, Affected, Range
from models.matching import package_of
from models.sbom import Component
from models.trust import read_trust_root
from stores.bundle_verifier import verify_bundle
from stores.vulnerabilities import VulnerabilityStore
from stores.vulnerability_report import VulnerabilityReports, Words

RELEASE = f"sha256:{'a' * 64}"
PACKAGES = 60_000
"""Packages that the advisories are spread over, as in the public databases: a few for each."""


def advisories(count: int) -> Iterator[tuple[bytes, Advisory]]:
    """Records that differ, about packages drawn at random; half of them by another name too."""
    draw = random.Random(1)
    for number in range(count):
        low = draw.randrange(1, 40)
        events = (("introduced", f"{low}.0"), ("fixed", f"{low + draw.randrange(1, 3)}.0"))
        affected = Affected(
            "PyPI", f"package-{draw.randrange(PACKAGES)}", (Range("ECOSYSTEM", events),)
        )
        aliases = (f"CVE-2026-{number}",) if number % 2 else ()
        record = Advisory(
            id=f"GHSA-{number}",
            source="osv",
            modified="2026-11-01T00:00:00Z",
            aliases=aliases,
            severity="high",
            affected=(affected,),
        )
        yield record.id.encode(), record


def components(count: int) -> list[Component]:
    draw = random.Random(2)
    names = draw.sample(range(PACKAGES), count)
    purls = [
        f"pkg:pypi/package-{name}@{draw.randrange(1, 42)}.{draw.randrange(9)}" for name in names
    ]
    return [Component(kind="library", name=purl, purl=purl) for purl in purls]


def best(*works: Callable[[], object], times: int = 3) -> list[float]:
    """The best time of each, run in turns: what else the machine does then meets all of them."""
    found = [float("inf")] * len(works)
    for _ in range(times):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            found[index] = min(found[index], time.perf_counter() - start)
    return found


def verification(home: Path) -> None:
    """One release with all of its evidence, against its signatures alone."""
    bench = Bench(home)
    digest = bench.attested()
    trust = read_trust_root(bench.files["trust"].read_bytes())
    bundles = bench.layout.evidence(digest)

    def signatures() -> None:
        for bundle in bundles:
            verify_bundle(bundle, trust, now=NOW)

    assert bench.verify(digest).verdict.outcome == "pass"
    whole, alone = best(lambda: bench.verify(digest), signatures, times=20)
    print("| verify one release, all evidence | ms | floor | ms | ratio |")
    print("|---|--:|---|--:|--:|")
    print(
        f"| gather, archive, verify, judge | {whole * 1e3:.1f} | the {len(bundles)} signatures and "
        f"timestamps alone | {alone * 1e3:.1f} | {whole / alone:.2f} |"
    )


def matching(home: Path, count: int, parts: list[Component]) -> float:
    """Load, then match; prints a row and returns the time of the match."""
    store = VulnerabilityStore(home / f"known-{count}.db")
    now, began = datetime.now(UTC), time.perf_counter()
    store.load_records("osv", advisories(count), now=now)
    loaded = time.perf_counter() - began
    reports = VulnerabilityReports(store, Words(vex=home / "vex", exceptions=home / "none.toml"))
    packages = [package for each in parts if each.purl and (package := package_of(each.purl))]
    wanted = sorted({(package.ecosystem, package.name) for package in packages})

    def read() -> None:
        with store.reading() as reader:
            reader.about(wanted, lambda name, advisory: False)

    whole, alone = best(lambda: reports.look_up(RELEASE, parts, at=now), read)
    found = len(reports.look_up(RELEASE, parts, at=now).report.found)
    print(
        f"| {count:,} | {found:,} | {whole:.2f} s | {alone:.2f} s | {whole / alone:.2f} "
        f"| {loaded:.0f} s |",
        flush=True,
    )
    return whole


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--advisories", type=int, default=200_000)
    parser.add_argument("--components", type=int, default=5_000)
    given = parser.parse_args()
    parts = components(given.components)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        verification(home)
        print(
            f"\n| advisories | found | match {len(parts):,} components | floor: read the same "
            "rows | ratio | load |"
        )
        print("|--:|--:|--:|--:|--:|--:|")
        once, ten = (
            matching(home, count, parts) for count in (given.advisories, 10 * given.advisories)
        )
    print(f"\nTen times the advisories: {ten / once:.1f} times the time.")


if __name__ == "__main__":
    main()
