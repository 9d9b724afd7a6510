"""Real git repositories for tests, with commits signed by SSH and GPG keys made on the spot."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Repository:
    """A repository with a working tree."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(cls, path: Path) -> "Repository":
        path.mkdir(parents=True)
        made = cls(
            path,
            {
                "PATH": os.environ["PATH"],
                "HOME": str(path.parent),
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_AUTHOR_NAME": "Ana",
                "GIT_AUTHOR_EMAIL": "ana@example.org",
                "GIT_COMMITTER_NAME": "Ana",
                "GIT_COMMITTER_EMAIL": "ana@example.org",
            },
        )
        made.git("init", "--quiet", "--initial-branch=main")
        return made

    def git(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not (check and done.returncode), done.stderr
        return done.stdout.strip()

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def commit(self, files: dict[str, str] | None = None, *options: str) -> str:
        """Commit ``files``; the new commit."""
        self.write(files or {})
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "--message", "change", *options)
        return self.git("rev-parse", "HEAD")

    def sign_with_ssh(self, key: Path) -> None:
        """Sign commits from now on."""
        self.git("config", "gpg.format", "ssh")
        self.git("config", "user.signingkey", str(key))
        self.git("config", "commit.gpgsign", "true")

    def sign_with_gpg(self, home: Path, identity: str) -> None:
        self.environment["GNUPGHOME"] = str(home)
        self.git("config", "gpg.format", "openpgp")
        self.git("config", "user.signingkey", identity)
        self.git("config", "commit.gpgsign", "true")


def ssh_key(path: Path, comment: str = "") -> Path:
    """A new Ed25519 key pair; the private file."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], check=True
    )
    return path


def allow(path: Path, principal: str, key: Path, options: str = "") -> Path:
    """Add a key to an allowed-signers file."""
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    with path.open("a") as file:
        file.write(" ".join(part for part in (principal, options, public) if part) + "\n")
    return path


def gpg_key(home: Path, identity: str) -> Path:
    """A new GPG key in ``home``; a file with its public half."""
    home.mkdir(mode=0o700, parents=True)
    environment = {"PATH": os.environ["PATH"], "GNUPGHOME": str(home)}
    gpg = ["gpg", "--batch", "--quiet"]
    subprocess.run(
        [*gpg, "--passphrase", "", "--quick-generate-key", identity, "ed25519", "sign", "never"],
        env=environment,
        check=True,
        capture_output=True,
    )
    public = home / "public.asc"
    armoured = subprocess.run(
        [*gpg, "--armor", "--export"], env=environment, check=True, capture_output=True
    )
    public.write_bytes(armoured.stdout)
    return public


def end_gpg(home: Path) -> None:
    """End the agent that a signature started."""
    environment = {"PATH": os.environ["PATH"], "GNUPGHOME": str(home)}
    subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False)
