"""`chainring releases`: the release store."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from models.bundle import bundle_digest, read_bundle
from models.statement import read_statement
from models.strict_json import EvidenceError
from stores.http_registry import HttpRepository
from stores.oci import ImageLayout, ReleaseCorrupt, ReleaseError, StoredRelease
from stores.registry_client import RegistryClient, RegistryUnavailable
from stores.registry_source import RegistrySource
from stores.release_copy import pull_release, push_release
from workers.cli.output import NEGATIVE, UNREACHABLE, USAGE, console, emit_json, emit_table, fail
from workers.cli.temporal import control_client, run
from workers.release_store import open_releases
from workers.sample_builds import Sample, build_samples, load_sample_advisories, samples
from workers.settings import control_file, home, load_control

app = typer.Typer(
    help="Keep and inspect releases. A release is an OCI image, always used by its digest.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Registry = Annotated[str, typer.Option(help="http(s)://host[/prefix] of an OCI registry.")]
Credentials = Annotated[
    Path | None, typer.Option(exists=True, help="File with user:password, mode 0600.")
]
Reference = Annotated[str, typer.Argument(metavar="RELEASE", help="name:version, or a digest.")]


@app.command("build-samples")
def build(
    releases: Annotated[
        list[str] | None, typer.Argument(help="name:version of each; all when none is named.")
    ] = None,
    late_after: Annotated[
        int, typer.Option(min=1, help="Seconds until the late-bad sample turns bad.")
    ] = 60,
    json: Json = False,
) -> None:
    """Build the sample services from git, good versions and bad ones, with their evidence.

    This home then trusts the samples' signer and repositories, and knows a few made-up advisories:
    it is for trying things out.

    Example: chainring releases build-samples catalog:1.0.0 catalog:1.1.0
    """
    known = samples(late_after_s=late_after)
    wanted = releases or list(known)
    for name in wanted:
        if name not in known:
            fail(f"release: {name!r} is no sample; there are: {', '.join(known)}", USAGE)
    with _readable_errors():
        run(_build([known[name] for name in wanted]))
        found = [each for each in _layout().list() if f"{each.name}:{each.version}" in wanted]
        _print_releases(found, json)


async def _build(wanted: list[Sample]) -> None:
    client, addresses = await control_client(), load_control()
    await load_sample_advisories(client, addresses)
    await build_samples(client, addresses, home(), wanted)


@app.command(context_settings={"ignore_unknown_options": True})
def add(
    directory: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="What the release holds.")
    ],
    name: Annotated[str, typer.Option(help="Name of the program, as in catalog.")],
    version: Annotated[str, typer.Option(help="Its version, never used before.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(help="How to start it, after --; else release.json in DIRECTORY says so."),
    ] = None,
    json: Json = False,
) -> None:
    """Add a directory as a release.

    Example: chainring releases add ./dist --name web --version 2.0.1 -- python3 server.py
    """
    with _readable_errors():
        digest = _layout().put_release(name, version, directory, entrypoint=command)
    if json:
        emit_json({"name": name, "version": version, "digest": digest})
    else:
        console.print(f"{name}:{version} is {digest}", soft_wrap=True, highlight=False)


@app.command()
def push(release: Reference, registry: Registry, credentials: Credentials = None) -> None:
    """Copy a release and its evidence into an OCI registry; the name comes last.

    Example: chainring releases push catalog:1.1.0 --registry https://registry.example.org/fleet
    """
    with _readable_errors():
        layout = _disk()
        digest = layout.resolve(release)
        repository = _repository(registry, layout.describe(digest).name, credentials)
        reference = push_release(layout, repository, digest)
    console.print(f"{reference} is in {registry} as {digest}", soft_wrap=True, highlight=False)


@app.command()
def pull(
    release: Annotated[str, typer.Argument(help="name:version, or name@sha256:... digest.")],
    registry: Registry,
    credentials: Credentials = None,
) -> None:
    """Copy a release and its evidence out of an OCI registry, everything checked.

    Example: chainring releases pull catalog:1.1.0 --registry https://registry.example.org/fleet
    """
    name, at, digest = release.partition("@")
    with _readable_errors():
        repository = _repository(registry, name.partition(":")[0], credentials)
        pulled = pull_release(repository, _disk(), digest if at else release)
    console.print(f"{release} is {pulled}", soft_wrap=True, highlight=False)


@app.command()
def evidence(release: Reference, json: Json = False) -> None:
    """List what is kept with a release: kind, signer's key, digest. Nothing is judged here.

    Example: chainring releases evidence catalog:1.1.0
    """
    with _readable_errors():
        layout = _layout()
        found = [_about(bundle) for bundle in layout.evidence(layout.resolve(release))]
    if json:
        emit_json(found)
    else:
        emit_table(["predicate type", "signer", "bundle"], [list(each.values()) for each in found])


def _about(bundle: bytes) -> dict[str, str]:
    try:
        read = read_bundle(bundle)
        kind = read_statement(read.envelope.payload).predicate_type
    except EvidenceError as error:
        return {"type": f"unreadable: {error}", "signer": "-", "digest": bundle_digest(bundle)}
    key = read.material.public_key
    signer = f"key {key.hint}" if key is not None else "certificate"
    return {"type": kind, "signer": signer, "digest": bundle_digest(bundle)}


def _repository(registry: str, name: str, credentials: Path | None) -> HttpRepository:
    """``https://host/prefix`` and a release's name: the repository ``prefix/name`` there."""

    def client(url: str) -> RegistryClient:
        return RegistryClient(url, credentials=credentials)

    try:
        return RegistrySource(registry, client).repository(name)
    except ValueError as error:
        fail(str(error), USAGE)


@app.command("list")
def list_releases(json: Json = False) -> None:
    """List the releases that have a name.

    Example: chainring releases list --json
    """
    with _readable_errors():
        _print_releases(_layout().list(), json)


@app.command()
def show(release: Reference, json: Json = False) -> None:
    """Show how a release is run and what it consists of.

    Example: chainring releases show catalog:1.0.0
    """
    with _readable_errors():
        layout = _layout()
        digest = layout.resolve(release)
        spec, manifest = layout.describe(digest), layout.manifest(digest)
    if json:
        blobs = [manifest.config, *manifest.layers]
        emit_json(
            {
                "digest": digest,
                **spec.model_dump(mode="json"),
                "blobs": [blob.model_dump(by_alias=True, mode="json") for blob in blobs],
            }
        )
        return
    health = spec.health
    rows = [
        ("digest", digest),
        ("release", spec.reference),
        ("entrypoint", " ".join(spec.entrypoint)),
        ("environment", " ".join(f"{key}={value}" for key, value in spec.env.items()) or "-"),
        ("healthy within", f"{health.deadline_ms / 1000:g} s"),
        ("stops within", f"{spec.stop_grace_ms / 1000:g} s"),
        ("bytes", sum(layer.size for layer in manifest.layers)),
    ]
    for field, value in rows:
        console.print(f"{field:<16}{value}", soft_wrap=True, markup=False, highlight=False)


@app.command()
def verify(
    release: Annotated[
        str | None, typer.Argument(metavar="[RELEASE]", help="name:version or digest; else all.")
    ] = None,
    json: Json = False,
) -> None:
    """Check every byte of a release, or of all, against its digest. Exit code 1: one is bad.

    Example: chainring releases verify catalog:1.0.0
    """
    with _readable_errors():
        layout = _layout()
        digests = [layout.resolve(release)] if release else [r.digest for r in layout.list()]
    problems = {digest: _problem(layout, digest) for digest in digests}
    if json:
        emit_json([{"digest": d, "ok": p is None, "problem": p} for d, p in problems.items()])
    else:
        emit_table(("release", "result"), ((d, p or "ok") for d, p in problems.items()))
    if any(problems.values()):
        raise SystemExit(NEGATIVE)


def _layout() -> ImageLayout:
    """The releases of this home, as its control plane sees them."""
    return open_releases(load_control()) if control_file().exists() else _disk()


def _disk() -> ImageLayout:
    """What is on this home's disk, also where that is the cache of a registry."""
    return ImageLayout(home() / "releases")


def _problem(layout: ImageLayout, digest: str) -> str | None:
    try:
        layout.verify(digest)
    except ReleaseError as error:
        return str(error)
    return None


def _print_releases(releases: list[StoredRelease], json: bool) -> None:
    if json:
        emit_json([asdict(release) for release in releases])
        return
    # The digest comes first because the first column is never cut: it is what one copies.
    rows = ((r.digest, r.name, r.version, r.bytes) for r in releases)
    emit_table(("digest", "name", "version", "bytes"), rows)


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except ReleaseCorrupt as error:
        fail(str(error), NEGATIVE)
    except RegistryUnavailable as error:
        fail(str(error), UNREACHABLE)
    except (ReleaseError, OSError) as error:
        fail(str(error))
