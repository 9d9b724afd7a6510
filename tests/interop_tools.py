"""Other people's tools, when they are there: see scripts/interop-tools."""

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

PLACES = (os.environ.get("CHAINRING_INTEROP", ""), "/tmp/interop/usr/bin", "/usr/bin")


def find_tool(name):
    """The path of a tool, or None."""
    return next((found for place in PLACES if (found := shutil.which(name, path=place))), None)


def needs(*names):
    """Skip a test where one of the tools is missing."""
    missing = [name for name in names if find_tool(name) is None]
    why = f"{', '.join(missing)}: get them with scripts/interop-tools"
    return pytest.mark.skipif(bool(missing), reason=why)


class Tools:
    """Runs the tools in a directory of their own, which is their home too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            "HOME": str(directory),
            "PATH": os.environ["PATH"],
            "COSIGN_PASSWORD": "",
            # They may not ask anybody outside: a request goes nowhere, and fails at once.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def run(self, name, *arguments):
        """Run a tool; gives its finished process."""
        return subprocess.run(
            [find_tool(name), *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def must(self, name, *arguments):
        """Run a tool that must succeed; gives what it printed."""
        done = self.run(name, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def registry(self):
        """A registry of crane's in memory, without the referrers API; gives its host and port."""
        process = subprocess.Popen(
            [find_tool("crane"), "registry", "serve", "--address", "127.0.0.1:0"],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield _address(process)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _address(process):
    for line in process.stdout:
        found = re.search(r"port (\d+)|127\.0\.0\.1:(\d+)", line)
        if found:
            return f"127.0.0.1:{found[1] or found[2]}"
    raise AssertionError("crane gives no registry")
