"""Tests of a sample service as it was built, in the Test Anything Protocol.

`python3 check_service.py OUTPUT`. They look at what the service answers; how it behaves under load
is for the gates to find out.
"""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUTPUT = Path(sys.argv[1])


def answers() -> list[Callable[[str], dict[str, Any]]]:
    """The functions of the service that take a request's target and answer it."""
    sys.path.insert(0, str(OUTPUT))
    import service  # noqa: PLC0415  # only now can it be found

    own = [each for each in vars(service).values() if getattr(each, "__module__", "") == "service"]
    return [each for each in own if callable(each)]


def test_answers_are_json() -> None:
    for answer in answers():
        assert json.loads(json.dumps(answer("/items/12")))


def test_the_same_request_gets_the_same_answer() -> None:
    for answer in answers():
        assert answer("/items/12") == answer("/items/12")


def test_the_release_says_how_it_is_run() -> None:
    entrypoint = json.loads((OUTPUT / "release.json").read_text())["entrypoint"]
    assert (OUTPUT / entrypoint[-1]).is_file()


def test_its_behaviour_names_a_version() -> None:
    assert json.loads((OUTPUT / "behaviour.json").read_text())["version"]


def main() -> int:
    tests = sorted(name for name in globals() if name.startswith("test_"))
    failed = 0
    for number, name in enumerate(tests, start=1):
        try:
            globals()[name]()
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"not ok {number} - {name}", flush=True)
        else:
            print(f"ok {number} - {name}", flush=True)
    print(f"1..{len(tests)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
