"""Effects of a build, one step each: fetch, build, test, build again, keep, attest, name.

Each may be killed anywhere and run again. A release's bytes land first and under no name; then its
evidence; its name comes last, so that whoever finds the release by name finds it whole.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError

from activities.build_evidence import evidence_statement, same_claim
from activities.errors import FINAL
from activities.heartbeats import beating
from models.build import (
    EVIDENCE,
    AttestRelease,
    BuildKey,
    BuildStep,
    Built,
    CompareBuilds,
    Fetched,
    FetchSource,
    NameRelease,
    Tested,
)
from models.build_file import BuildFileError
from models.builder import BuilderSettings
from models.canonical import canonical
from models.provenance import Material, Reproducibility
from models.strict_json import EvidenceError
from stores.build_runner import Beat, BuildCancelled, BuildFailed
from stores.building import Bench, build_once, read_build_file, run_tests
from stores.files import write_atomic
from stores.git import Git, SignaturePolicy, SourceRefused
from stores.ledger import utc_now
from stores.materials import read_materials
from stores.oci import ImageLayout, ReleaseError
from stores.release_registry import ReleaseRegistry
from stores.signing import StatementSigner
from stores.workspace import Workspace, WorkspaceLost, differences

FIRST = "first"
SECOND = "the-second-in-another-place"

_FINAL: tuple[type[Exception], ...] = (
    *FINAL,
    BuildFailed,
    BuildFileError,
    EvidenceError,
    SourceRefused,
    WorkspaceLost,
)

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


class ReleaseShelf(ReleaseRegistry, Protocol):
    """A registry that also takes releases, first without a name."""

    def put_unnamed(self, name: str, version: str, directory: Path) -> str:
        """Keep a directory as a release under no name; returns its digest."""

    def give_name(self, digest: str) -> str:
        """Give a release the name and version it says it has; returns them."""


def build_errors(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Tell Temporal which errors of a build are final, and that a cancelled one is cancelled."""

    @functools.wraps(function)
    def guarded(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except BuildCancelled as error:
            raise CancelledError("the build was cancelled") from error
        except _FINAL as error:
            raise ApplicationError(
                str(error), type=type(error).__name__, non_retryable=True
            ) from error

    return guarded


class BuildActivities:
    """What the builder does for ``BuildRelease``.

    Args:
        work: directory for builds under way, and the logs of all.
        signer: makes a signer for each piece of work, so that keys rotate.
    """

    def __init__(
        self,
        *,
        settings: BuilderSettings,
        work: Path,
        shelf: ReleaseShelf,
        signer: Callable[[], StatementSigner],
        clock: Callable[[], datetime] = utc_now,
        python: str = sys.executable,
    ) -> None:
        self._settings = settings
        self._work = work
        self._shelf = shelf
        self._signer = signer
        self._clock = clock
        self._python = python

    @activity.defn(no_thread_cancel_exception=True)
    @build_errors
    def fetch_source(self, step: FetchSource) -> Fetched:
        """Fetch the commit into a new work directory; check signature, build file, materials.

        Raises:
            SourceRefused: the commit is not what it should be, or a specification is broken.
            BuildFileError: the build file does not hold.
            SourceUnreachable: the repository does not answer (it is asked again).
        """
        request = step.request
        workspace = self._workspace(step.key)
        with _alive() as beat, workspace.held(beat):
            workspace.begin()
            settings = self._settings
            policy = SignaturePolicy(
                settings.signatures, settings.allowed_signers, settings.keyring
            )
            git = Git(
                workspace.path / "git", policy=policy, beat=beat, protocols=settings.protocols
            )
            found = git.checkout(
                request.repository, request.commit, workspace.source, ref=request.ref or ""
            )
            build = read_build_file(workspace.source, request.build_file)
            files = read_materials(workspace.source, request.build_file, beat=beat)
        suffix = f"@{request.ref}" if request.ref else ""
        commit = Material(
            uri=f"git+{request.repository}{suffix}", digest={"gitCommit": found.commit}
        )
        return Fetched(
            name=build.name,
            version=build.version,
            recipe=build.recipe,
            commit_time=found.time,
            signature=found.signature,
            materials=[commit, *files],
        )

    @activity.defn(no_thread_cancel_exception=True)
    @build_errors
    def run_build(self, step: BuildStep) -> Built:
        """Build in a clean working copy, and pack what came out."""
        with self._bench(step.key) as bench:
            build = read_build_file(bench.workspace.source, step.request.build_file)
            outcome, digest, _ = build_once(bench, build, step.fetched.commit_time, FIRST)
        return Built(started=outcome.started, ended=outcome.ended, log=outcome.log, release=digest)

    @activity.defn(no_thread_cancel_exception=True)
    @build_errors
    def run_tests(self, step: BuildStep) -> Tested:
        """Run the tests where it was built; fails unless they ran and none of them failed."""
        with self._bench(step.key) as bench:
            build = read_build_file(bench.workspace.source, step.request.build_file)
            outcome, results = run_tests(bench, build, step.fetched.commit_time, FIRST)
            data = canonical(results.model_dump(mode="json"))
            write_atomic(bench.workspace.path / "results.json", data)
        return Tested(
            started=outcome.started,
            ended=outcome.ended,
            log=outcome.log,
            result=results.result,
            words=results.words(),
            results=f"sha256:{sha256(data).hexdigest()}",
        )

    @activity.defn(no_thread_cancel_exception=True)
    @build_errors
    def compare_builds(self, step: CompareBuilds) -> Reproducibility:
        """Build again in another directory; what differs is named file by file."""
        with self._bench(step.key) as bench:
            workspace = bench.workspace
            build = read_build_file(workspace.source, step.request.build_file)
            _, digest, layout = build_once(bench, build, step.fetched.commit_time, SECOND)
            first = _unpack(workspace, f"{FIRST}-layout", step.built.release, "compare-first")
            second = _unpack(workspace, layout.name, digest, "compare-second")
            found = differences(first, second)
        return Reproducibility(
            identical=digest == step.built.release,
            first=step.built.release,
            second=digest,
            differences=found,
        )

    @activity.defn(no_thread_cancel_exception=True)
    @build_errors
    def keep_release(self, step: CompareBuilds) -> None:
        """Put the release's bytes into the registry, under no name yet.

        Raises:
            VersionTaken: another release has the name; nothing was attested.
        """
        with self._bench(step.key) as bench:
            root = _unpack(bench.workspace, f"{FIRST}-layout", step.built.release, "unpacked")
            kept = self._shelf.put_unnamed(step.fetched.name, step.fetched.version, root)
            if kept != step.built.release:
                raise ReleaseError(f"packed again it is {kept}, not {step.built.release}")

    @activity.defn(no_thread_cancel_exception=True)
    @build_errors
    def attest_release(self, step: AttestRelease) -> str:
        """Sign one claim about the release and attach it; the referrer's digest.

        The signed bundle is kept before it is attached: repeated, the step attaches the same one.
        """
        with self._bench(step.key) as bench:
            workspace = bench.workspace
            workspace.need(workspace.path / "results.json")
            workspace.evidence.mkdir(exist_ok=True)
            kept = workspace.evidence / f"{step.kind}.json"
            if not kept.exists():
                write_atomic(kept, self._bundle(step, workspace))
            predicate_type = EVIDENCE[step.kind]
            return self._shelf.attach(step.built.release, kept.read_bytes(), predicate_type)

    @activity.defn(no_thread_cancel_exception=True)
    @build_errors
    def name_release(self, step: NameRelease) -> str:
        """Let the release be found by its name, once all evidence is listed with it.

        Raises:
            ReleaseError: a piece of evidence is not there, or another release has the name.
        """
        listed = {each.digest for each in self._shelf.referrers(step.release)}
        for kind, digest in step.evidence.items():
            if digest not in listed:
                raise ReleaseError(f"release {step.release}: its {kind} is not with it")
        return self._shelf.give_name(step.release)

    @activity.defn
    def builder_id(self) -> str:
        """Who this builder says it is."""
        return self._settings.id

    @activity.defn(no_thread_cancel_exception=True)
    @build_errors
    def clear_build(self, key: BuildKey) -> None:
        """Remove a build's work directory; the logs stay."""
        workspace = self._workspace(key)
        with _alive() as beat, workspace.held(beat):
            workspace.clear()

    def _bundle(self, step: AttestRelease, workspace: Workspace) -> bytes:
        statement = evidence_statement(step, workspace, self._settings.id)
        if step.key.attempt > 1:  # an attempt whose builder was lost may have come this far
            for bundle in self._shelf.evidence(step.built.release):
                if same_claim(bundle, statement):
                    return bundle
        return self._signer().sign(statement)

    def _workspace(self, key: BuildKey) -> Workspace:
        return Workspace(self._work, key)

    @contextlib.contextmanager
    def _bench(self, key: BuildKey) -> Iterator[Bench]:
        workspace = self._workspace(key)
        workspace.need(workspace.path)
        with _alive() as beat, workspace.held(beat):
            yield Bench(workspace, self._settings, self._python, beat, self._clock)


def _unpack(workspace: Workspace, layout: str, digest: str, name: str) -> Path:
    store = ImageLayout(workspace.need(workspace.path / layout))
    return store.unpack(digest, workspace.fresh(name) / "release")


@contextlib.contextmanager
def _alive() -> Iterator[Beat]:
    """Heartbeat in the background; the `Beat` handed out raises once the activity is cancelled."""

    def check() -> None:
        if activity.in_activity() and activity.is_cancelled():
            raise BuildCancelled

    with beating():
        yield check
