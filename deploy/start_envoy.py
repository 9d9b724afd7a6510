"""Start one region's Envoy in the foreground: ``python deploy/start_envoy.py eu``.

It writes the files Envoy needs and then becomes Envoy, so that signals and exit codes are Envoy's
own. Each start gets a new node id, by which a gate sees that the counters began anew.
"""

import os
import sys
from typing import NoReturn

from gateway.envoy_process import command, prepare
from workers.settings import SettingsError, load_region


def main(arguments: list[str]) -> NoReturn:
    """Become Envoy, or end with what is wrong."""
    if len(arguments) != 1:
        sys.exit("usage: start_envoy.py REGION")
    try:
        address = load_region(arguments[0]).gateway
        prepare(address, arguments[0])
        argv = command(address, arguments[0])
    except (SettingsError, OSError) as error:
        sys.exit(f"chainring: {error}")
    os.execv(argv[0], argv)  # noqa: S606  # to become Envoy, a shell would be in the way


if __name__ == "__main__":
    main(sys.argv[1:])
