"""The sample services are built from git like anything else, into the very same releases."""

import os
import sys
from datetime import UTC, datetime

import pytest

from models.build import BuildKey
from models.builder import BuilderSettings
from models.sbom import read_sbom
from stores.building import Bench, build_once, read_build_file, run_tests
from stores.git import Git, SignaturePolicy, SourceRefused
from stores.materials import read_materials
from stores.oci import ImageLayout
from stores.sbom import make_sbom
from stores.workspace import Workspace
from workers.sample_source import SampleRepository
from workers.samples import SERVICES, VARIANTS, assemble


@pytest.fixture
def bench(tmp_path):
    workspace = Workspace(tmp_path / "work", BuildKey(workflow="w", run="r"))
    settings = BuilderSettings(path=os.environ["PATH"])
    return Bench(workspace, settings, sys.executable, lambda: None, lambda: datetime.now(UTC))


def fetch(bench, repository, commit, signers):
    bench.workspace.begin()
    policy = SignaturePolicy(allowed_signers=signers)
    git = Git(bench.workspace.path / "git", policy=policy, beat=lambda: None)
    return git.checkout(str(repository.path), commit, bench.workspace.source)


@pytest.mark.parametrize("service", SERVICES)
def test_a_sample_built_from_git_is_the_sample(tmp_path, bench, service):
    version, behaviour = "1.3.0-errors", VARIANTS["1.3.0-errors"]
    repository = SampleRepository(tmp_path / service, service)
    repository.allow(tmp_path / "signers")
    commit = repository.commit(version, behaviour)
    fetched = fetch(bench, repository, commit, tmp_path / "signers")
    assert fetched.signature.principal == "ana@example.org"
    source = bench.workspace.source
    build = read_build_file(source, "chainring.build.toml")
    assert (build.name, build.version) == (service, version)
    names = {each.name for each in read_materials(source, "chainring.build.toml", beat=list)}
    assert names == {".specify/service.ttl", "chainring.build.toml"}
    _, digest, _ = build_once(bench, build, fetched.time, "first")
    _, results = run_tests(bench, build, fetched.time, "first")
    assert (results.result, len(results.passed)) == ("PASSED", 4)
    (tmp_path / "sample").mkdir()
    assemble(tmp_path / "sample", service, version, behaviour)
    layout = ImageLayout(tmp_path / "layout")
    assert digest == layout.put_release(service, version, tmp_path / "sample")


def test_an_unsigned_sample_is_refused(tmp_path, bench):
    repository = SampleRepository(tmp_path / "catalog", "catalog")
    repository.allow(tmp_path / "signers")
    repository.allow(tmp_path / "signers")
    assert len((tmp_path / "signers").read_text().splitlines()) == 1
    commit = repository.commit("1.0.0", sign=False)
    with pytest.raises(SourceRefused, match="it is not signed"):
        fetch(bench, repository, commit, tmp_path / "signers")


def test_a_shipped_dependency_is_in_the_bill_of_materials(tmp_path, bench):
    repository = SampleRepository(tmp_path / "catalog", "catalog")
    repository.allow(tmp_path / "signers")
    commit = repository.commit("2.0.0", dependency=("left-pad", "1.2.3"))
    fetched = fetch(bench, repository, commit, tmp_path / "signers")
    build = read_build_file(bench.workspace.source, "chainring.build.toml")
    _, digest, path = build_once(bench, build, fetched.time, "first")
    root = ImageLayout(path).unpack(digest, tmp_path / "unpacked")
    now = datetime.now(UTC)
    bill = read_sbom(make_sbom(root, digest, name="catalog", version="2.0.0", now=now))
    assert "pkg:pypi/left-pad@1.2.3" in {each.purl for each in bill.components}
