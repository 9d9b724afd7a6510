"""The fixtures of `rollout_harness`, for tests of workflows.

pytest_plugins = ["rollout_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="session")
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from rollout_harness import REGIONS, Fleet, Plane, running_plane


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plane]:
    """The session's control plane."""
    async with running_plane(tmp_path_factory.mktemp("plane")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def fleet(plane: Plane) -> AsyncIterator[Fleet]:
    """A fleet of two regions with five shards each, all on release 1.0.0."""
    made = Fleet(plane)
    yield made
    await made.close()
    await asyncio.gather(*(plane.up(code) for code in REGIONS))
