"""Where a release comes from: its provenance, and the tests that it passed.

Each statement that counts must hold. Whoever can leave one out cannot add one, and a builder that
says two things about one digest has to be asked what it means.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from models.judge_signers import Accepted, missing_evidence
from models.provenance import Provenance, read_provenance
from models.release_evidence import Evidence
from models.release_verdict import Check, limited
from models.signed_statement import SignedStatement
from models.strict_json import EvidenceError
from models.test_results import Summary, TestResults, read_test_result
from models.verification_policy import ProvenancePolicy, TestPolicy, VerificationPolicy


@dataclass(frozen=True)
class Origin:
    """The check of the provenance, and what the statements that count say."""

    check: Check
    named: list[Provenance] = field(default_factory=list)

    @property
    def sources(self) -> list[str]:
        """``repository@commit`` of every statement, each once."""
        return sorted({f"{each.repository}@{each.commit}" for each in self.named})

    @property
    def builders(self) -> list[str]:
        """Builder ids of every statement, each once."""
        return sorted({each.builder_id for each in self.named})


def check_provenance(evidence: Evidence, accepted: Accepted, policy: VerificationPolicy) -> Origin:
    """Builder, build type, repository, ref and commit are those that the policy names, exactly."""
    missing = missing_evidence(evidence, accepted, "provenance")
    if missing is not None:
        return Origin(missing)
    faults: list[str] = []
    named: list[Provenance] = []
    skew = timedelta(seconds=policy.ages.clock_skew_seconds)
    for signed in accepted.by_kind["provenance"]:
        label = accepted.label(signed)
        try:
            said = read_provenance(signed.statement.predicate)
        except EvidenceError as error:
            faults.append(f"{label}: {error}")
            continue
        named.append(said)
        faults += [f"{label}: {fault}" for fault in _origin_faults(said, policy.provenance)]
        # What a builder says of time is compared with the trusted clock, and not believed.
        if said.finished_on > signed.signed_at + skew:
            faults.append(f"{label}: was signed before the build was over")
    if faults:
        check = Check(name="provenance", outcome="fail", why=faults[0], details=limited(faults))
        return Origin(check, named)
    origin = Origin(Check(name="provenance", outcome="pass", why=""), named)
    why = f"built from {', '.join(origin.sources)} by {', '.join(origin.builders)}"
    return Origin(Check(name="provenance", outcome="pass", why=why), named)


def _origin_faults(said: Provenance, policy: ProvenancePolicy) -> Iterator[str]:
    if said.builder_id not in policy.builders:
        yield f"builder {said.builder_id!a} is not one that the policy names"
    if said.build_type not in policy.build_types:
        yield f"build type {said.build_type!a} is not one that the policy names"
    known = [each for each in policy.sources if each.repository == said.repository]
    if not known:
        yield f"repository {said.repository!a} is not one that the policy names"
    elif not any(said.ref in each.refs for each in known):
        yield f"ref {said.ref!a} of {said.repository} is not one that the policy names"
    if policy.require_signed_commit and said.commit_signature is None:
        yield f"commit {said.commit} is not signed by anybody whom the builder knew"


def check_tests(evidence: Evidence, accepted: Accepted, policy: VerificationPolicy) -> Check:
    """The tests were run, enough of them passed, and none failed or was left out."""
    missing = missing_evidence(evidence, accepted, "tests")
    if missing is not None:
        return missing
    faults: list[str] = []
    passed: set[str] = set()
    for signed in accepted.by_kind["tests"]:
        try:
            summary, results = read_test_result(signed.statement.predicate)
        except EvidenceError as error:
            faults.append(f"{accepted.label(signed)}: {error}")
            continue
        passed |= set(results.passed)
        faults += _failed(summary, results, policy.tests)
    faults += _lacking(passed, policy.tests)
    if faults:
        return Check(name="tests", outcome="fail", why=faults[0], details=limited(faults))
    return Check(name="tests", outcome="pass", why=f"{len(passed)} passed")


def _failed(summary: Summary, results: TestResults, policy: TestPolicy) -> Iterator[str]:
    yield from (f"test {name!a:.200} failed" for name in results.failed)
    for name in results.skipped:
        if name not in policy.allow_skipped:
            yield f"test {name!a:.200} was skipped"
    if summary == "FAILED" and not results.failed:
        yield "the test run failed as a whole"
    if summary == "WARNED" and not results.skipped:
        yield "the test run passed with warnings"


def _lacking(passed: set[str], policy: TestPolicy) -> Iterator[str]:
    if len(passed) < policy.minimum_passed:
        yield f"{len(passed)} tests passed, at least {policy.minimum_passed} must"
    for name in policy.required:
        if name not in passed:
            yield f"test {name} is required and is not among those that passed"


def contradictions(accepted: Accepted, origin: Origin) -> Iterator[str]:
    """Where test results name a commit or a file of the source that is not the provenance's."""
    commits = {each.commit for each in origin.named}
    files = {
        material.name: material.digest["sha256"]
        for each in origin.named
        for material in each.materials
        if material.name and "sha256" in material.digest
    }
    for signed in accepted.by_kind["tests"]:
        for name, digest in _configuration(signed):
            commit, content = digest.get("gitCommit"), digest.get("sha256")
            if commit is not None and commit not in commits:
                yield f"{accepted.label(signed)} is about commit {commit!a:.80}"
            if content is not None and files.get(name, content) != content:
                yield f"{accepted.label(signed)} used another {name!a:.200} than the build"


def _configuration(signed: SignedStatement) -> Iterator[tuple[str, dict[str, object]]]:
    resources = signed.statement.predicate.get("configuration")
    for resource in resources if isinstance(resources, list) else []:
        if isinstance(resource, dict) and isinstance(resource.get("digest"), dict):
            yield str(resource.get("name", "")), dict(resource["digest"])  # type: ignore[arg-type]
