"""The sample services as git repositories with signed commits, for the demo to build from."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.samples import SOURCES

SHARED = ("serving.py", "release.json", "make_release.py", "check_service.py")
_VERSION = 'version = "1.0.0"'


class SampleRepository:
    """A git repository below ``path`` with one branch, ``main``, for one sample service.

    Commits are signed with an SSH key of the repository's own, which lies beside it.

    Raises:
        subprocess.CalledProcessError: git or ssh-keygen is missing or fails.
    """

    def __init__(self, path: Path, service: str, *, signer: str = "ana@example.org") -> None:
        self.path = path
        self.service = service
        self.signer = signer
        self._key = path.with_name(f"{path.name}.key")
        if not (path / ".git").is_dir():
            self._create()

    def commit(
        self,
        version: str,
        behaviour: Mapping[str, Any] | None = None,
        *,
        dependency: tuple[str, str] | None = None,
        sign: bool = True,
    ) -> str:
        """Commit the service as ``version``; the commit's 40 hex digits.

        Args:
            behaviour: what differs from the defaults in ``deploy/samples/serving.py``.
            dependency: name and version of a Python package to ship with it, for the bill of
                materials to list; the package itself is empty.
            sign: false makes a commit that a builder with a policy refuses.
        """
        self._write(version, behaviour or {}, dependency)
        self._git("add", "--all", "--force")
        self._git(
            *("commit", "--quiet", "--allow-empty", "--message", f"{self.service} {version}"),
            "--gpg-sign" if sign else "--no-gpg-sign",
        )
        return self._git("rev-parse", "HEAD")

    def allow(self, allowed_signers: Path) -> None:
        """Add the repository's signer to a builder's list, once."""
        kind, key = self._key.with_suffix(".key.pub").read_text().split()[:2]
        line = f"{self.signer} {kind} {key}"
        known = allowed_signers.read_text().splitlines() if allowed_signers.exists() else []
        if line not in known:
            allowed_signers.write_text("\n".join([*known, line]) + "\n")

    def _create(self) -> None:
        self.path.mkdir(parents=True)
        self._git("init", "--quiet", "--initial-branch=main")
        if not self._key.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.signer]
            subprocess.run([*command, "-f", str(self._key)], check=True, stdin=subprocess.DEVNULL)

    def _write(
        self, version: str, behaviour: Mapping[str, Any], dependency: tuple[str, str] | None
    ) -> None:
        own = SOURCES / self.service
        for name in SHARED:
            shutil.copyfile(SOURCES / name, self.path / name)
        shutil.copyfile(own / "service.py", self.path / "service.py")
        text = (own / "chainring.build.toml").read_text()
        build_file = text.replace(_VERSION, f"version = {json.dumps(version)}")
        (self.path / "chainring.build.toml").write_text(build_file)
        shutil.copytree(SOURCES / "specify", self.path / ".specify", dirs_exist_ok=True)
        content = json.dumps({"version": version, **behaviour}, indent=2, sort_keys=True)
        (self.path / "behaviour.json").write_text(content + "\n")
        shutil.rmtree(self.path / "vendor", ignore_errors=True)
        if dependency is not None:
            _vendor(self.path / "vendor", *dependency)

    def _git(self, *arguments: str) -> str:
        settings = {
            "user.name": self.signer,
            "user.email": self.signer,
            "gpg.format": "ssh",
            "user.signingkey": str(self._key),
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.path.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        done = subprocess.run(
            ["git", *options, *arguments],  # noqa: S607  # whichever git is installed
            cwd=self.path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()


def _vendor(directory: Path, name: str, version: str) -> None:
    """An installed, empty Python package with the records that an installer leaves."""
    module = name.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f'"""{name}"""\n',
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/INSTALLER": "chainring-sample\n",
    }
    lines = []
    for path, text in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        lines.append(f"{path},sha256={digest.decode()},{len(text.encode())}")
    lines.append(f"{about}/RECORD,,")
    (directory / about / "RECORD").write_text("\n".join(lines) + "\n")
