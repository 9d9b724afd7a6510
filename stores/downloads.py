"""Fetching a file over HTTP: bounded in size and time, whole or not there."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

MAX_BYTES = 8 * 1024**3
TIMEOUT = httpx.Timeout(30.0)
"""For a connection, and for each piece of an answer; the whole has the caller's deadline."""


class DownloadFailed(Exception):
    """The file could not be fetched whole; trying again later may help."""


@contextmanager
def fetched(
    location: str, heartbeat: Callable[[str], None], *, max_bytes: int = MAX_BYTES
) -> Iterator[Path]:
    """The file or directory at a location: a path as it is, an http(s) URL as a temporary file.

    The file keeps the name that the URL ends with, because its ending says what it is.

    Raises:
        DownloadFailed: the server does not answer with all of it, or it is over ``max_bytes``.
    """
    parts = urlsplit(location)
    if parts.scheme not in ("http", "https"):
        yield Path(location.removeprefix("file://"))
        return
    with tempfile.TemporaryDirectory(prefix="chainring-feed-") as scratch:
        path = Path(scratch) / (Path(parts.path).name or "feed")
        try:
            _fetch(location, path, heartbeat, max_bytes)
        except httpx.HTTPError as error:
            raise DownloadFailed(f"{location}: {type(error).__name__} {error}") from None
        yield path


def _fetch(url: str, path: Path, heartbeat: Callable[[str], None], max_bytes: int) -> None:
    with (
        httpx.stream("GET", url, timeout=TIMEOUT, follow_redirects=True) as answer,
        path.open("wb") as file,
    ):
        answer.raise_for_status()
        size = 0
        for piece in answer.iter_bytes():
            size += len(piece)
            if size > max_bytes:
                raise DownloadFailed(f"{url}: over {max_bytes} bytes")
            file.write(piece)
            heartbeat(f"{size} bytes fetched")
    promised = answer.headers.get("Content-Length")
    encoded = "Content-Encoding" in answer.headers
    if promised is not None and not encoded and int(promised) != size:
        raise DownloadFailed(f"{url}: {size} of {promised} bytes came")
