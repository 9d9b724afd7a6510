"""The sample releases, built as any release is: from signed commits, by `BuildRelease`.

What a home needs for that and would not trust by itself is said here, once and in the open: the
samples' signer, their repositories as sources, and a few advisories that are made up.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.client import Client

from models.addresses import ControlAddresses
from models.build import BuildRequest, BuildResult
from models.vulnerability_data import RefreshReport, RefreshRequest
from stores.files import write_atomic
from workers.release_store import open_releases
from workers.sample_source import SampleRepository
from workers.samples import LATE, SERVICES, SOURCES, VARIANTS

ADVISORIES = SOURCES / "advisories"
AT_ONCE = 3
BRANCH = "refs/heads/main"

# The one sample with a dependency: the made-up advisory says that it is critically vulnerable.
VULNERABLE = "1.4.0-vulnerable"
DEPENDENCIES = {VULNERABLE: ("brittle-parser", "1.3.0")}


@dataclass(frozen=True)
class Sample:
    """One release to build."""

    service: str
    version: str
    behaviour: Mapping[str, Any]

    @property
    def reference(self) -> str:
        """``name:version``."""
        return f"{self.service}:{self.version}"


def samples(*, late_after_s: int = 60) -> dict[str, Sample]:
    """Every sample by ``name:version``.

    Args:
        late_after_s: when the release that is good at first turns bad.
    """
    late = {f"1.3.0-late-{late_after_s}s": {**LATE, "after_s": late_after_s}}
    versions = {**VARIANTS, **late, VULNERABLE: {}}
    made = [Sample(name, version, how) for name in SERVICES for version, how in versions.items()]
    return {each.reference: each for each in made}


async def build_samples(
    client: Client, addresses: ControlAddresses, home: Path, wanted: Sequence[Sample]
) -> list[BuildResult]:
    """Build samples that are not there yet; several at once.

    Raises:
        WorkflowFailureError: a build failed.
        CalledProcessError: git or ssh-keygen is missing.
    """
    assert addresses.builder is not None and addresses.verification is not None
    repositories = {
        service: SampleRepository(home / "samples" / service, service)
        for service in sorted({each.service for each in wanted})
    }
    for repository in repositories.values():
        repository.allow(addresses.builder.settings.parent / "allowed_signers")
        allow_source(addresses.verification.policy, str(repository.path))
    there = {f"{each.name}:{each.version}" for each in open_releases(addresses).list()}
    missing = [each for each in wanted if each.reference not in there]
    commits = [
        (
            each,
            repositories[each.service].commit(
                each.version, each.behaviour, dependency=DEPENDENCIES.get(each.version)
            ),
        )
        for each in missing
    ]
    slots = asyncio.Semaphore(AT_ONCE)

    async def build(sample: Sample, commit: str) -> BuildResult:
        async with slots:
            result: BuildResult = await client.execute_workflow(
                "BuildRelease",
                BuildRequest(
                    repository=str(repositories[sample.service].path),
                    commit=commit,
                    ref=BRANCH,
                    reason="a sample",
                ),
                id=f"build/{sample.service}-{sample.version}/{commit[:12]}",
                task_queue=addresses.temporal.task_queue,
                result_type=BuildResult,
            )
            return result

    return list(await asyncio.gather(*(build(*each) for each in commits)))


async def load_sample_advisories(client: Client, addresses: ControlAddresses) -> RefreshReport:
    """Load advisories that are made up, so that verdicts have something to go by."""
    report: RefreshReport = await client.execute_workflow(
        "RefreshVulnerabilities",
        RefreshRequest(
            feeds={"osv": str(ADVISORIES / "osv"), "nvd": str(ADVISORIES / "nvd")},
            reason="sample advisories, made up",
        ),
        id="vulnerabilities/samples",
        task_queue=addresses.temporal.task_queue,
        result_type=RefreshReport,
    )
    return report


def allow_source(policy: Path, repository: str) -> None:
    """Add a repository to the verification policy's sources, once."""
    text = policy.read_text()
    line = f'repository = "{repository}"'
    if line not in text:
        entry = f'\n[[provenance.sources]]\n{line}\nrefs = ["{BRANCH}"]\n'
        write_atomic(policy, (text.rstrip() + "\n" + entry).encode())
