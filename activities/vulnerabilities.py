"""Effects of keeping vulnerability data fresh: load one feed, tell what is loaded."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from temporalio import activity

from activities.errors import final_errors
from models.config import load_config
from models.vulnerability_data import FeedSource, LoadedFeed, RefreshRequest, Snapshot
from stores.downloads import fetched
from stores.ledger import utc_now
from stores.vulnerabilities import VulnerabilityStore


class VulnerabilityActivities:
    """What the control worker does for ``RefreshVulnerabilities``."""

    def __init__(
        self,
        store: VulnerabilityStore,
        config: Path,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock

    @activity.defn
    @final_errors
    def feeds_to_load(self, request: RefreshRequest) -> list[FeedSource]:
        """The feeds that were asked for, or those of the configuration, in a fixed order."""
        feeds = request.feeds
        if feeds is None:
            feeds = load_config(self._config.read_text()).sbom.feeds
        return [FeedSource(feed=feed, location=where) for feed, where in sorted(feeds.items())]

    @activity.defn
    @final_errors
    def load_feed(self, source: FeedSource) -> LoadedFeed:
        """Load one feed; once more does the same again.

        Raises:
            FeedError: the feed itself cannot be read; what was loaded before stays.
            DownloadFailed: it could not be fetched.
        """
        with fetched(source.location, activity.heartbeat) as path:
            return self._store.load(
                source.feed, path, now=self._clock(), heartbeat=activity.heartbeat
            )

    @activity.defn
    @final_errors
    def known_snapshot(self) -> Snapshot:
        """What is loaded now."""
        return self._store.snapshot()
