"""Builds a sample service: puts what it runs into a directory. `python3 make_release.py OUTPUT`"""

import shutil
import sys
from pathlib import Path

PARTS = ("service.py", "serving.py", "release.json", "behaviour.json")
VENDORED = Path("vendor")


def main(output: Path) -> None:
    output.mkdir(parents=True)
    for part in PARTS:
        shutil.copyfile(part, output / part)
    if VENDORED.is_dir():
        shutil.copytree(VENDORED, output / VENDORED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
