"""The statements that a builder makes about a release, and when two of them say the same."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from models.build import EVIDENCE, AttestRelease
from models.bundle import read_bundle
from models.provenance import BUILD_TYPE, Material, Provenance, read_provenance, write_provenance
from models.statement import PROVENANCE, read_statement, write_statement
from models.strict_json import EvidenceError
from models.test_results import TestResults, write_test_result
from stores.building import read_build_file
from stores.sbom import LockSource, make_sbom
from stores.sbom_contents import LOCK_BYTES
from stores.workspace import Workspace

_LOCK_FILES = ("Cargo.lock", "package-lock.json", "npm-shrinkwrap.json")


def evidence_statement(step: AttestRelease, workspace: Workspace, builder: str) -> bytes:
    """The in-toto statement of one kind about the release that was built.

    All but the provenance, which has the build's times, is a function of source and result.

    Raises:
        EvidenceError: the release has no bill of materials, or what the tests left is damaged.
        WorkspaceLost: what an earlier step left is not here.
    """
    makers = {"signature": _signature, "provenance": _provenance, "sbom": _sbom, "tests": _tests}
    predicate = makers[step.kind](step, workspace, builder)
    subject = (f"{step.fetched.name}:{step.fetched.version}", step.built.release)
    return write_statement([subject], EVIDENCE[step.kind], predicate)


def same_claim(bundle: bytes, statement: bytes) -> bool:
    """Whether a bundle holds this statement already, or another provenance of the same run.

    Who signed it is not looked at: a forged one would be refused by whoever verifies the release.
    """
    try:
        payload = read_bundle(bundle).envelope.payload
        if payload == statement:
            return True
        there, ours = read_statement(payload), read_statement(statement)
        if {there.predicate_type, ours.predicate_type} != {PROVENANCE}:
            return False
        one, other = read_provenance(there.predicate), read_provenance(ours.predicate)
    except EvidenceError:
        return False
    same_run = one.invocation_id == other.invocation_id and one.builder_id == other.builder_id
    return same_run and there.subject == ours.subject


def _signature(step: AttestRelease, workspace: Workspace, builder: str) -> dict[str, object]:
    return {}  # the subject says it all; so does cosign


def _provenance(step: AttestRelease, workspace: Workspace, builder: str) -> dict[str, object]:
    request, fetched = step.request, step.fetched
    said = Provenance(
        build_type=BUILD_TYPE,
        builder_id=builder,
        repository=request.repository,
        commit=request.commit,
        ref=request.ref or "",
        recipe=fetched.recipe,
        build_file=request.build_file,
        materials=fetched.materials,
        commit_signature=fetched.signature,
        invocation_id=f"{step.key.workflow}/{step.key.run}",
        started_on=step.built.started,
        finished_on=step.built.ended,
        byproducts=[
            _byproduct("build log", step.built.log),
            _byproduct("test log", step.tested.log),
            _byproduct("test results", step.tested.results),
        ],
        reproducibility=step.reproducibility,
    )
    return dict(write_provenance(said))


def _byproduct(name: str, digest: str) -> Material:
    return Material(name=name, digest={"sha256": digest.removeprefix("sha256:")})


def _sbom(step: AttestRelease, workspace: Workspace, builder: str) -> dict[str, object]:
    fetched = step.fetched
    data = make_sbom(
        workspace.need(workspace.release),
        step.built.release,
        name=fetched.name,
        version=fetched.version,
        # The source's time and not the clock's: the bill is a function of source and result.
        now=datetime.fromtimestamp(fetched.commit_time, UTC),
        sources=_lock_sources(step, workspace),
    )
    bill: dict[str, object] = json.loads(data)
    return bill


def _lock_sources(step: AttestRelease, workspace: Workspace) -> Iterator[LockSource]:
    """Lock files of the source: those that the build file names, or else all that are known."""
    source = workspace.need(workspace.source)
    named = read_build_file(source, step.request.build_file).lock_files
    for name in named or [each.name for each in step.fetched.materials if _is_lock(each.name)]:
        path = source / name
        inside = path.resolve().is_relative_to(source.resolve())
        if not inside or not path.is_file() or path.stat().st_size > LOCK_BYTES:
            raise EvidenceError(f"lock_files: {name} is no file of the source, or too large")
        data = path.read_bytes()
        # Requirements without hashes pin nothing: such a file is no lock file.
        if named or path.name in _LOCK_FILES or b"--hash" in data:
            yield LockSource(name, data)


def _is_lock(name: str) -> bool:
    base = name.rpartition("/")[2]
    is_requirements = base.startswith("requirements") and base.endswith((".txt", ".lock"))
    return base in _LOCK_FILES or is_requirements


def _tests(step: AttestRelease, workspace: Workspace, builder: str) -> dict[str, object]:
    data = workspace.need(workspace.path / "results.json").read_bytes()
    results = TestResults.model_validate_json(data)
    materials = step.fetched.materials
    used = [
        each
        for each in materials
        if "gitCommit" in each.digest or each.name == step.request.build_file
    ]
    return dict(write_test_result(results, used))
