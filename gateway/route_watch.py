"""Keeps a region's Envoy on the newest routes, whoever changed them.

An activation publishes its own routes and waits for them. A tenant that was created, suspended or
moved, by whatever process, is brought into force here, within about twice `POLL_SECONDS`.
"""

import asyncio
import logging
from collections.abc import Callable

from gateway.publisher import GatewayError, RoutePublisher
from stores.pointer import PointerError
from stores.shards import ShardStore
from stores.sql import StoreUnavailable

POLL_SECONDS = 0.2

_log = logging.getLogger(__name__)


async def watch_routes(
    store: Callable[[], ShardStore], publisher: RoutePublisher, region: str
) -> None:
    """Publish whenever the routes stay behind the region's primary, until cancelled.

    Trouble with the store or with Envoy is logged once and tried again: routes that are in force
    stay in force meanwhile.
    """
    behind, trouble = 0, ""
    while True:
        try:
            shards = store()
            generation = await asyncio.to_thread(shards.generation)
            # Behind at two looks: what an activation is just publishing itself is left to it.
            if behind and publisher.generation() < behind:
                await asyncio.to_thread(publisher.publish_routes, shards.routes, behind)
            behind = generation if publisher.generation() < generation else 0
            trouble = ""
        except (GatewayError, PointerError, StoreUnavailable) as error:
            if str(error) != trouble:
                _log.warning("routes of %s are not up to date: %s", region, error)
            trouble = str(error)
        await asyncio.sleep(POLL_SECONDS)
