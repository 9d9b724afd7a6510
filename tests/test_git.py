"""One exact commit out of a real repository, with its signature checked by git."""

import shutil
import tempfile
from pathlib import Path

import pytest
from git_harness import Repository, allow, end_gpg, gpg_key, ssh_key

from models.build import BuildRequest
from stores.git import Git, SignaturePolicy, SourceRefused, SourceUnreachable

ANYBODY = SignaturePolicy("not required")


@pytest.fixture
def repository(tmp_path):
    return Repository.create(tmp_path / "origin")


def checkout(tmp_path, repository, commit, policy=ANYBODY, **options):
    target = Path(tempfile.mkdtemp(dir=tmp_path)) / "source"
    git = Git(target.parent / "git", policy=policy, beat=lambda: None)
    origin = repository if isinstance(repository, str) else str(repository.path)
    return git.checkout(origin, commit, target, **options), target


def refused(tmp_path, repository, commit, policy, **options):
    with pytest.raises(SourceRefused) as caught:
        checkout(tmp_path, repository, commit, policy, **options)
    return str(caught.value)


def test_exactly_the_commits_files_are_there(tmp_path, repository):
    first = repository.commit({"a.txt": "one", "sub/b.txt": "two"})
    repository.commit({"a.txt": "changed", "c.txt": "new"})
    found, target = checkout(tmp_path, repository, first)
    assert found.commit == first and found.signature is None
    assert found.time == int(repository.git("log", "-1", "--format=%ct", first))
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert names == ["a.txt", "sub", "sub/b.txt"]
    assert (target / "a.txt").read_text() == "one"


def test_by_url_as_by_path(tmp_path, repository):
    commit = repository.commit({"a": "1"})
    _, target = checkout(tmp_path, f"file://{repository.path}", commit)
    assert (target / "a").read_text() == "1"


def test_the_commit_must_be_reachable_from_the_ref_that_was_named(tmp_path, repository):
    first = repository.commit({"a": "1"})
    repository.git("checkout", "--quiet", "-b", "side")
    side = repository.commit({"a": "2"})
    assert checkout(tmp_path, repository, first, ref="refs/heads/main")[0].commit == first
    assert checkout(tmp_path, repository, side, ref="refs/heads/side")[0].commit == side
    said = refused(tmp_path, repository, side, ANYBODY, ref="refs/heads/main")
    assert "is not in refs/heads/main" in said or "not reachable from refs/heads/main" in said
    assert "has no refs/heads/gone" in refused(
        tmp_path, repository, first, ANYBODY, ref="refs/heads/gone"
    )


def test_no_such_commit_and_no_such_repository(tmp_path, repository):
    repository.commit({"a": "1"})
    assert "is not in" in refused(tmp_path, repository, "f" * 40, ANYBODY)
    assert "not appear to be a git" in refused(tmp_path, str(tmp_path / "no"), "f" * 40, ANYBODY)
    tree = repository.git("rev-parse", "HEAD^{tree}")
    assert "is not in" in refused(tmp_path, repository, tree, ANYBODY)


def test_other_protocols_are_refused(tmp_path):
    said = refused(tmp_path, "ext::sh -c true", "f" * 40, ANYBODY)
    assert "not allowed" in said
    assert "not allowed" in refused(tmp_path, "http://127.0.0.1:1/x", "f" * 40, ANYBODY)


def test_a_server_that_is_down_may_come_back(tmp_path):
    with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1"):
        checkout(tmp_path, "https://127.0.0.1:1/x", "f" * 40)


def test_nothing_of_the_repository_runs(tmp_path, repository):
    marker = tmp_path / "ran"
    commit = repository.commit(
        {"a.txt": "x", ".gitattributes": "*.txt filter=evil\n", ".gitconfig": "nonsense"}
    )
    hook = repository.path / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    repository.git("config", "filter.evil.smudge", f"touch {marker}; cat")
    repository.git("config", "core.fsmonitor", f"touch {marker}")
    _, target = checkout(tmp_path, repository, commit)
    assert (target / "a.txt").read_text() == "x"
    assert not marker.exists()


def test_a_cancelled_fetch_ends(tmp_path, repository, monkeypatch):
    class Cancelled(Exception):
        pass

    def beat():
        raise Cancelled

    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nsleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:/usr/bin:/bin")
    git = Git(tmp_path / "git", policy=ANYBODY, beat=beat)
    with pytest.raises(Cancelled):
        git.checkout(str(repository.path), "f" * 40, tmp_path / "target")


# --- SSH signatures


@pytest.fixture
def signed(tmp_path, repository):
    key = ssh_key(tmp_path / "ana")
    repository.sign_with_ssh(key)
    return repository, key, repository.commit({"a": "1"})


def test_an_ssh_signature_names_principal_and_key(tmp_path, signed):
    repository, key, commit = signed
    signers = allow(tmp_path / "signers", "ana@example.org", key)
    found, _ = checkout(tmp_path, repository, commit, SignaturePolicy(allowed_signers=signers))
    assert found.signature.kind == "ssh"
    assert found.signature.principal == "ana@example.org"
    assert found.signature.fingerprint.startswith("SHA256:")


def test_an_unsigned_commit_is_refused(tmp_path, repository):
    commit = repository.commit({"a": "1"})
    said = refused(tmp_path, repository, commit, SignaturePolicy())
    assert said == f"commit {commit}: it is not signed"


def test_a_signer_who_is_not_on_the_list_is_refused(tmp_path, signed):
    repository, _, commit = signed
    signers = allow(tmp_path / "signers", "bob@example.org", ssh_key(tmp_path / "bob"))
    assert "unknown" in refused(
        tmp_path, repository, commit, SignaturePolicy(allowed_signers=signers)
    )
    # Nor does an unknown signature pass for "no signature" where none is needed.
    for policy in (SignaturePolicy(), ANYBODY, SignaturePolicy("not required", signers)):
        assert "signer is unknown" in refused(tmp_path, repository, commit, policy)


def test_a_key_outside_its_days_is_refused(tmp_path, signed):
    repository, key, commit = signed
    signers = allow(tmp_path / "signers", "ana@example.org", key, 'valid-before="20200101"')
    assert "unknown" in refused(
        tmp_path, repository, commit, SignaturePolicy(allowed_signers=signers)
    )


def test_a_key_for_another_purpose_is_refused(tmp_path, signed):
    repository, key, commit = signed
    signers = allow(tmp_path / "signers", "ana@example.org", key, 'namespaces="file"')
    assert "may not sign commits" in refused(
        tmp_path, repository, commit, SignaturePolicy(allowed_signers=signers)
    )


def altered(repository, commit):
    """The commit with another message under the same signature."""
    raw = repository.git("cat-file", "commit", commit)
    (repository.path / "raw").write_text(raw.replace("change", "chanGe") + "\n")
    made = repository.git("hash-object", "-t", "commit", "-w", "raw")
    repository.git("update-ref", "refs/heads/altered", made)
    return made


def test_a_signature_over_something_else_is_refused(tmp_path, signed):
    repository, key, commit = signed
    signers = allow(tmp_path / "signers", "ana@example.org", key)
    said = refused(
        tmp_path, repository, altered(repository, commit), SignaturePolicy(allowed_signers=signers)
    )
    assert "bad" in said or "unknown" in said


def test_a_missing_list_of_signers_is_said(tmp_path, signed):
    repository, _, commit = signed
    policy = SignaturePolicy(allowed_signers=tmp_path / "gone")
    assert "allowed signers: no file" in refused(tmp_path, repository, commit, policy)


# --- GPG signatures


@pytest.fixture
def gpg(repository):
    home = Path(tempfile.mkdtemp(prefix="cr")) / "gpg"
    public = gpg_key(home, "Ana <ana@example.org>")
    repository.sign_with_gpg(home, "ana@example.org")
    yield repository, public, repository.commit({"a": "1"})
    end_gpg(home)
    shutil.rmtree(home.parent)


def test_a_gpg_signature_names_user_and_key(tmp_path, gpg):
    repository, public, commit = gpg
    found, _ = checkout(tmp_path, repository, commit, SignaturePolicy(keyring=public))
    assert found.signature.kind == "gpg"
    assert found.signature.principal == "Ana <ana@example.org>"
    assert len(found.signature.fingerprint) == 40
    assert "no such key is known" in refused(tmp_path, repository, commit, SignaturePolicy())
    said = refused(
        tmp_path, repository, altered(repository, commit), SignaturePolicy(keyring=public)
    )
    assert "bad" in said
    broken = tmp_path / "broken.asc"
    broken.write_text("no key")
    assert "keyring: " in refused(tmp_path, repository, commit, SignaturePolicy(keyring=broken))


# --- what a request may name


@pytest.mark.parametrize(
    "repository",
    ["/srv/git/web", "file:///srv/x", "https://git.example.org/web.git", "git@host:web.git"],
)
def test_repositories_that_a_request_may_name(repository):
    assert BuildRequest(repository=repository, commit="a" * 40).repository == repository


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repository", "ext::sh -c id"),
        ("repository", "--upload-pack=evil"),
        ("repository", "http://example.org/x"),
        ("repository", "https://ana:secret@example.org/x"),
        ("repository", "https://token@example.org/x"),
        ("repository", "relative/path"),
        ("commit", "main"),
        ("commit", "A" * 40),
        ("commit", "a" * 39),
        ("ref", "main"),
        ("ref", "refs/heads/../x"),
        ("ref", "--all"),
        ("build_file", "../x.toml"),
        ("build_file", "/etc/passwd"),
    ],
)
def test_a_wrong_request_names_its_field(field, value):
    values = {"repository": "/srv/web", "commit": "a" * 40, field: value}
    with pytest.raises(ValueError, match=field):
        BuildRequest(**values)
