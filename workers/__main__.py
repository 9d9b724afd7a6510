"""The processes, each on its own: `python -m workers control`, `python -m workers region eu`."""

import asyncio
import logging
import sys

from workers.settings import SettingsError

USAGE = """usage: python -m workers PROCESS

  control             the control plane's worker
  region REGION       one region's worker
  host REGION...      keeps the release processes of one or more regions running
  gateway REGION...   the tenant KV API of one or more regions
  recovery REGION...  backs up the stores of one or more regions, and restores them
  authority           tokens, certificates, timestamps and a log for keyless signing
  stack               the supervisor of the embedded stack (see `chainring up`)
  nursery FD          forks the supervisor's processes, which import nothing then

Addresses come from $CHAINRING_HOME (see deploy/README.md)."""


def main(arguments: list[str]) -> int:
    """Run one process; 2 for a command line or settings that do not hold."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        return _run(arguments)
    except SettingsError as error:
        print(f"chainring: {error}", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:  # noqa: PLR0911  # one for each process
    # Imported where used: the host and the gateway stay small without Temporal's SDK.
    match arguments:
        case ["control"]:
            from workers.control import run_control  # noqa: PLC0415

            return asyncio.run(run_control())
        case ["region", region]:
            from workers.region import run_region  # noqa: PLC0415

            return asyncio.run(run_region(region))
        case ["host", first, *more]:
            from workers.host import run_host  # noqa: PLC0415

            return run_host([first, *more])
        case ["gateway", first, *more]:
            from workers.gateway import serve_gateway  # noqa: PLC0415

            return serve_gateway(list(dict.fromkeys([first, *more])))
        case ["recovery", first, *more]:
            from workers.recovery import run_recovery  # noqa: PLC0415

            return asyncio.run(run_recovery(list(dict.fromkeys([first, *more]))))
        case ["authority"]:
            from workers.authority import run_authority  # noqa: PLC0415

            return asyncio.run(run_authority())
        case ["nursery", descriptor]:
            from workers.nursery import run_nursery  # noqa: PLC0415

            birth = run_nursery(int(descriptor))
            return 0 if birth is None else _named(birth.arguments)
        case ["stack"]:
            from workers.supervisor import run_stack  # noqa: PLC0415

            return run_stack()
        case _:
            print(USAGE, file=sys.stderr)
            return 2


def _named(arguments: list[str]) -> int:
    """Run a forked process under its own name."""
    from setproctitle import setproctitle  # noqa: PLC0415

    setproctitle(f"{sys.executable} -m workers {' '.join(arguments)}")
    return main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
