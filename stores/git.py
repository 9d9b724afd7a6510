"""Source trees out of git: one exact commit, its signature checked by git itself.

The repository is a stranger's: nothing of it runs here. No hooks, no file-system monitors, no
prompts, no submodules, no configuration but what is given below, and only the protocols named.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.provenance import CommitSignature
from stores.build_runner import Beat

TIMEOUT_S = 600.0
_CHECKED = "refs/chainring/checked"
_TREE = ":(top)"

_CONFIG = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.symlinks": "true",
    "core.autocrlf": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "fetch.fsckObjects": "true",
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "log.showSignature": "false",
    "advice.detachedHead": "false",
    "credential.interactive": "false",
    "gpg.minTrustLevel": "undefined",
}

_UNSIGNED = {
    "N": "it is not signed",
    "B": "its signature is bad: altered, or by a key that may not sign commits",
    "U": "its signer is unknown",
    "X": "its signature has expired",
    "Y": "it was signed with a key that has expired",
    "R": "it was signed with a key that has been revoked",
    "E": "its signature cannot be checked: no such key is known",
}
"""What git's ``%G?`` means; ``G`` alone is good."""


class SourceRefused(Exception):
    """The source is not what it should be; trying again does not help."""


class SourceUnreachable(Exception):
    """The repository does not answer; it may later."""


@dataclass(frozen=True)
class SignaturePolicy:
    """Whose signature a commit needs. Without a file of either kind, nobody's is good.

    Attributes:
        signatures: with ``not required``, an unsigned commit passes - but never a bad signature.
        allowed_signers: ssh's list of principals and keys (ssh-keygen(1), "ALLOWED SIGNERS").
        keyring: GPG public keys, armoured or not.
    """

    signatures: Literal["required", "not required"] = "required"
    allowed_signers: Path | None = None
    keyring: Path | None = None


@dataclass(frozen=True)
class Commit:
    """A commit that was checked out."""

    commit: str
    time: int
    """When it was committed, as the committer says: seconds since 1970."""
    signature: CommitSignature | None


class Git:
    """Fetches commits into a directory of its own, ``work``, which must not exist yet.

    Args:
        protocols: those that may be used; ``file`` is also a path's.
        beat: called about once a second while git works; what it raises ends git.
    """

    def __init__(
        self,
        work: Path,
        *,
        policy: SignaturePolicy,
        beat: Beat,
        protocols: Sequence[str] = ("file", "ssh", "https"),
        seconds: float = TIMEOUT_S,
    ) -> None:
        self._work = work
        self._repository = work / "repository.git"
        self._policy = policy
        self._beat = beat
        self._protocols = protocols
        self._deadline = time.monotonic() + seconds

    def checkout(self, repository: str, commit: str, target: Path, *, ref: str = "") -> Commit:
        """Fetch ``commit``, check it, and write its files into ``target``, without a ``.git``.

        Args:
            commit: 40 hex digits.
            ref: full name of a ref that the commit must be reachable from; none if empty.

        Raises:
            SourceRefused: no such commit, not reachable from the ref, or its signature is not good.
            SourceUnreachable: the repository does not answer, or not in time.
        """
        self._work.mkdir(parents=True)
        self._git("init", "--quiet", "--bare", str(self._repository), refused="git init")
        self._fetch(repository, commit, ref)
        signature = self._signature(commit)
        time_said = self._git("log", "-1", "--format=%ct", commit, refused="no commit time").strip()
        target.mkdir(parents=True)
        self._git(
            *(f"--work-tree={target}", "checkout", "--quiet", "--force", commit, "--", _TREE),
            refused=f"commit {commit}: cannot be checked out",
        )
        shutil.rmtree(self._repository)
        return Commit(commit, max(0, int(time_said)), signature)

    def _fetch(self, repository: str, commit: str, ref: str) -> None:
        wanted = [f"+{ref}:{_CHECKED}"] if ref else [commit]
        depth = [] if ref else ["--depth=1"]
        common = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
        ]
        code, said = self._run(*common, *depth, "--", repository, *wanted)
        if code and "couldn't find remote ref" in said:
            raise SourceRefused(f"ref: {repository} has no {ref}")
        if code and not ref:
            # An old server hands out what a ref leads to, and nothing else by name.
            every = ["+refs/heads/*:refs/chainring/heads/*", "+refs/tags/*:refs/chainring/tags/*"]
            code, said = self._run(*common, "--", repository, *every)
        if code:
            raise _no_answer(repository, said)
        if self._run("cat-file", "-e", f"{commit}^{{commit}}")[0]:
            where = f"{ref} of {repository}" if ref else repository
            raise SourceRefused(f"commit: {commit} is not in {where}")
        if ref and self._run("merge-base", "--is-ancestor", commit, _CHECKED)[0]:
            raise SourceRefused(f"ref: {commit} is not reachable from {ref} of {repository}")

    def _signature(self, commit: str) -> CommitSignature | None:
        with self._verifier() as (configuration, home):
            said = self._git(
                *("log", "-1", "--format=%G?%x00%GS%x00%GF%x00%GP", commit),
                refused=f"commit {commit}: its signature cannot be read",
                configuration=configuration,
                gnupg=home,
            )
        verdict, signer, key, primary = said.strip("\n").split("\0")
        if verdict == "G" and signer and key:
            kind: Literal["ssh", "gpg"] = "ssh" if key.startswith("SHA256:") else "gpg"
            return CommitSignature(
                kind=kind, principal=signer[:2048], fingerprint=(primary or key)[:2048]
            )
        if verdict == "N" and self._policy.signatures == "not required":
            return None
        why = _UNSIGNED.get(verdict, "git does not call its signature good")
        by = f" (key {key})" if key else ""
        raise SourceRefused(f"commit {commit}: {why}{by}")

    @contextmanager
    def _verifier(self) -> Iterator[tuple[dict[str, str], Path]]:
        """Configuration and GNUPGHOME that know the policy's signers and nobody else."""
        signers = self._policy.allowed_signers
        if signers is not None and not signers.is_file():
            raise SourceRefused(f"allowed signers: no file {signers}")
        # Not below the work directory: gpg keeps sockets there, whose paths must be short.
        with tempfile.TemporaryDirectory(prefix="chainring-gpg-") as name:
            home = Path(name)
            (home / "gpg.conf").write_text("trust-model always\nno-auto-key-retrieve\n")
            if self._policy.keyring is not None:
                self._import(self._policy.keyring, home)
            yield {"gpg.ssh.allowedSignersFile": str(signers or os.devnull)}, home

    def _import(self, keyring: Path, home: Path) -> None:
        command = ["gpg", "--batch", "--quiet", "--no-autostart", "--import", str(keyring)]
        code, said = self._process(command, {"GNUPGHOME": str(home)})
        if code:
            raise SourceRefused(f"keyring: {keyring} cannot be read: {said[-300:]}")

    def _git(
        self,
        *arguments: str,
        refused: str,
        configuration: dict[str, str] | None = None,
        gnupg: Path | None = None,
    ) -> str:
        code, said = self._run(*arguments, configuration=configuration, gnupg=gnupg)
        if code:
            raise SourceRefused(f"{refused}: {said[-300:].strip()}")
        return said

    def _run(
        self,
        *arguments: str,
        configuration: dict[str, str] | None = None,
        gnupg: Path | None = None,
    ) -> tuple[int, str]:
        settings = _CONFIG | (configuration or {})
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        if arguments[0] != "init":
            options.append(f"--git-dir={self._repository}")
        environment = {"GNUPGHOME": str(gnupg)} if gnupg else {}
        return self._process(["git", *options, *arguments], environment)

    def _process(self, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """Exit status, and output: what went to standard error counts where it failed."""
        process = subprocess.Popen(
            command,
            cwd=self._work,
            env=self._environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    self._beat()
                    if time.monotonic() > self._deadline:
                        raise SourceUnreachable(f"{command[0]}: no answer in time") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        said = errors if process.returncode else output
        return process.returncode, said.decode(errors="replace")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._work),
            "LANG": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "false",
            "GIT_ALLOW_PROTOCOL": ":".join(self._protocols),
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
        }


def _no_answer(repository: str, said: str) -> Exception:
    """Whether asking again could help is not git's to say; what is surely final is told apart."""
    words = f"repository: {repository}: {said[-300:].strip()}"
    if "transport" in said and "not allowed" in said:
        return SourceRefused(words)
    if repository.startswith(("/", "file:")) and "does not appear to be a git repository" in said:
        return SourceRefused(words)
    return SourceUnreachable(words)
