"""Objects in a Google Cloud Storage bucket.

Every write and deletion names the generation it expects, so the service itself decides who is
first, and a retried request cannot happen twice. The SHA-256 and an id of the write are kept as the
object's metadata; CRC32C is sent along, checked by the service before the object is visible, and
compared with what the service says it stored.
"""

import base64
import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import google.auth
import google_crc32c
from google.api_core import exceptions as api
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from stores.gcs_session import ATTEMPT_S, TRANSPORT, BoundedRetry, BoundedSession, passing
from stores.objects import (
    Content,
    GenerationMismatch,
    ObjectDamaged,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectNameError,
    ObjectRetained,
    ObjectsRefused,
    ObjectsUnavailable,
    blocks,
    check_name,
    check_prefix,
    check_until,
    checked,
    content_of,
    exhaust,
    read_whole,
)

CHUNK = 8 * 1024 * 1024
"""Bytes sent or fetched by one request: what a broken connection costs."""
_ONE_REQUEST = 8 * 1024 * 1024  # the library sends what is larger as a resumable upload
_SHA256, _WRITE = "sha256", "write"
_ROUNDS = 8  # of changing metadata while others change it too


class GcsObjects:
    """An `ObjectStore` in a bucket. Holds work in every bucket, `retain` where the bucket was made
    with object retention; elsewhere it raises `ObjectsRefused`.

    Args:
        endpoint: another address of the service, as of an emulator; without ``credentials`` it is
            used anonymously.
        credentials: None finds those of the environment (Application Default Credentials).
        deadline_s: how long one request, or one chunk of `CHUNK` bytes, may take with all retries.
        attempt_s: how long a single attempt may wait for the service.
        retention: Locked cannot be shortened by anyone; Unlocked by those with a permission for it.

    Raises:
        ObjectsRefused: there are no credentials.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str | None = None,
        credentials: Credentials | None = None,
        deadline_s: float = 30.0,
        attempt_s: float = ATTEMPT_S,
        retention: Literal["Unlocked", "Locked"] = "Unlocked",
    ) -> None:
        if credentials is None:
            credentials = _credentials() if endpoint is None else AnonymousCredentials()  # type: ignore[no-untyped-call]
        session = BoundedSession(credentials)  # type: ignore[no-untyped-call]
        client = storage.Client(
            project="none",  # only creating or listing buckets needs one
            credentials=credentials,
            _http=session,
            client_options={"api_endpoint": endpoint} if endpoint else None,
        )
        # It looks the bucket up for traces, in threads that know no deadline.
        client._bucket_metadata_cache = None
        self._bucket = client.bucket(bucket)
        self._deadline_s = deadline_s
        self._retention = retention
        self._how: dict[str, Any] = {"timeout": attempt_s, "retry": BoundedRetry(deadline_s)}

    def put(
        self, name: str, data: bytes | BinaryIO | Path, *, if_generation: int = 0
    ) -> ObjectInfo:
        """See `ObjectStore.put`."""
        check_name(name)
        write = secrets.token_hex(16)
        with content_of(data) as content, self._troubles(name):
            crc = _crc32c(content)
            try:
                blob = self._upload(name, content, crc, write, if_generation)
            except api.PreconditionFailed:
                blob = self._settle(name, content, write, if_generation)
            except api.Forbidden as error:
                self._raise_forbidden(name, error)
            info = _info(blob)
            try:
                self._read_back(info, content, crc, blob)
            except ObjectDamaged:
                if _metadata(blob, _WRITE) == write:  # what others wrote is theirs to judge
                    blob.delete(if_generation_match=info.generation, **self._how)
                raise
            return info

    def get(self, name: str, limit: int) -> bytes:
        """See `ObjectStore.get`."""
        info, read = self._opened(name)
        with checked(read, info) as stream:
            return read_whole(stream, info, limit)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """See `ObjectStore.open`."""
        info, read = self._opened(name)
        with checked(read, info) as stream:
            yield stream

    def stat(self, name: str) -> ObjectInfo | None:
        """See `ObjectStore.stat`."""
        with self._troubles(check_name(name)):
            blob = self._find(name)
            return None if blob is None else _info(blob)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`; names that are none here are left out."""
        check_prefix(prefix)
        with self._troubles(prefix):
            for blob in self._bucket.list_blobs(prefix=prefix or None, **self._how):
                try:
                    check_name(blob.name)
                except ObjectNameError:
                    continue
                yield _info(blob)

    def delete(self, name: str, *, if_generation: int) -> None:
        """See `ObjectStore.delete`."""
        with self._troubles(check_name(name)):
            try:
                self._bucket.blob(name).delete(if_generation_match=if_generation, **self._how)
            except api.NotFound:
                self._find(name)  # tells a missing object from a missing bucket
            except api.PreconditionFailed:
                found = self._find(name)
                if found is not None:
                    raise GenerationMismatch(name, if_generation, found.generation) from None
            except api.Forbidden as error:
                self._raise_forbidden(name, error)

    def retain(self, name: str, until: datetime) -> ObjectInfo:
        """See `ObjectStore.retain`; the time is rounded up to a second, which the service keeps."""
        wanted = check_until(until).astimezone(UTC)
        if wanted.microsecond:
            wanted = wanted.replace(microsecond=0) + timedelta(seconds=1)

        def change(blob: Any) -> bool:
            now = _info(blob).retained_until
            if now is not None and now >= wanted:
                return False
            retention = blob.retention
            retention.mode = retention.mode or self._retention
            retention.retain_until_time = wanted
            return True

        return self._change(name, change)

    def hold(self, name: str, on: bool) -> ObjectInfo:
        """See `ObjectStore.hold`."""

        def change(blob: Any) -> bool:
            if bool(blob.temporary_hold) == on:
                return False
            blob.temporary_hold = on
            return True

        return self._change(name, change)

    def close(self) -> None:
        """Close the connections."""
        self._bucket.client.close()

    def _upload(
        self, name: str, content: Content, crc: str, write: str, if_generation: int
    ) -> storage.Blob:
        blob = self._bucket.blob(name, chunk_size=CHUNK)
        blob.metadata = {_SHA256: content.sha256, _WRITE: write}
        try:
            # After a resumable upload that does not match, the library would delete whatever has
            # the name then; told the checksum beforehand, the service refuses the bytes itself.
            blob.upload_from_file(
                content.stream,
                rewind=True,
                size=content.size,
                content_type="application/octet-stream",
                if_generation_match=if_generation,
                checksum="crc32c" if content.size <= _ONE_REQUEST else None,
                crc32c_checksum_value=crc,
                **self._how,
            )
        except ValueError as error:  # the library lost count of what the service has
            raise ObjectsUnavailable(f"object {name}: the upload broke off: {error}") from error
        return blob

    def _settle(self, name: str, content: Content, write: str, if_generation: int) -> storage.Blob:
        """Find out whether a write that the service calls second was its own first attempt."""
        found = self._find(name)
        if found is None and if_generation == 0:
            raise ObjectsUnavailable(f"object {name}: changed while it was written")
        if found is None:
            raise GenerationMismatch(name, if_generation, 0)
        same = _metadata(found, _SHA256) == content.sha256
        if _metadata(found, _WRITE) == write or (same and if_generation == 0):
            return found
        if if_generation == 0:
            raise ObjectExists(f"object {name}: there with other bytes")
        raise GenerationMismatch(name, if_generation, found.generation)

    def _read_back(self, info: ObjectInfo, content: Content, crc: str, blob: storage.Blob) -> None:
        stored = (info.size, info.sha256, blob.crc32c)
        if stored != (content.size, content.sha256, crc):
            raise ObjectDamaged(f"object {info.name}: the service stored {stored}")
        try:
            read = self._reader(info)
        except ObjectMissing:
            return  # replaced or deleted since: by someone who saw it
        with checked(read, info) as stream:
            exhaust(stream)

    def _opened(self, name: str) -> tuple[ObjectInfo, Callable[[int], bytes]]:
        """An object's record and its first bytes; a writer may replace it in between."""
        for _ in range(_ROUNDS):
            with self._troubles(check_name(name)):
                info = _info(self._found(name))
            if not info.sha256:
                raise ObjectDamaged(f"object {name}: carries no SHA-256, so it is not read")
            try:
                return info, self._reader(info)
            except ObjectMissing:
                continue
        raise ObjectsUnavailable(f"object {name}: others keep changing it")

    def _reader(self, info: ObjectInfo) -> Callable[[int], bytes]:
        """Reads one generation from its beginning to its end, a chunk a request."""
        blob = self._bucket.blob(info.name, generation=info.generation)
        fetched = min(CHUNK, info.size)
        held = io.BytesIO(self._fetch(blob, 0, fetched) if fetched else b"")

        def read(size: int) -> bytes:
            nonlocal fetched, held
            data = held.read(size)
            if not data and fetched < info.size:
                end = min(fetched + CHUNK, info.size)
                held, fetched = io.BytesIO(self._fetch(blob, fetched, end)), end
                data = held.read(size)
            return data

        return read

    def _fetch(self, blob: storage.Blob, start: int, end: int) -> bytes:
        target = io.BytesIO()
        with self._troubles(blob.name):
            blob.download_to_file(
                target,
                start=start,
                end=end - 1,
                raw_download=True,
                checksum=None,  # the service has one of the whole object only; SHA-256 judges
                **self._how,
            )
        return target.getvalue()

    def _change(self, name: str, change: Callable[[Any], bool]) -> ObjectInfo:
        """Change an object's metadata, on top of what others change at the same time."""
        with self._troubles(check_name(name)):
            for _ in range(_ROUNDS):
                blob = self._found(name)
                if not change(blob):
                    return _info(blob)
                try:
                    blob.patch(
                        if_generation_match=blob.generation,
                        if_metageneration_match=blob.metageneration,
                        **self._how,
                    )
                except api.PreconditionFailed:
                    continue  # another one was first, or it was we and the answer was lost
                return _info(blob)
        raise ObjectsUnavailable(f"object {name}: others keep changing it")

    def _found(self, name: str) -> storage.Blob:
        blob = self._find(name)
        if blob is None:
            raise ObjectMissing(f"object {name}: not there")
        return blob

    def _find(self, name: str) -> storage.Blob | None:
        blob = self._bucket.get_blob(name, **self._how)
        if blob is None:
            self._confirm_bucket()
        return blob

    def _confirm_bucket(self) -> None:
        """A missing bucket answers as a missing object does, and must not look like an empty one.

        Listing needs no permission beyond those that a backup needs anyway.
        """
        try:
            next(iter(self._bucket.list_blobs(max_results=1, **self._how)), None)
        except api.NotFound as error:
            raise ObjectsRefused(f"bucket {self._bucket.name}: {_said(error)}") from error

    def _raise_forbidden(self, name: str, error: api.Forbidden) -> NoReturn:
        found = self._find(name)
        if found is not None and _info(found).kept(datetime.now(UTC)):
            raise ObjectRetained(f"object {name}: held or retained: {error.message}") from error
        raise error

    @contextmanager
    def _troubles(self, name: str) -> Iterator[None]:
        """Say in the store's own words what the client library raises."""
        try:
            yield
        except api.NotFound as error:
            self._confirm_bucket()
            raise ObjectMissing(f"object {name}: not there") from error
        except DataCorruption as error:
            raise ObjectDamaged(f"object {name}: {error}") from error
        except (api.GoogleAPIError, InvalidResponse, GoogleAuthError, *TRANSPORT) as error:
            if passing(error):
                raise ObjectsUnavailable(f"object {name}: {_said(error)}") from error
            raise ObjectsRefused(
                f"object {name}: bucket {self._bucket.name} refuses: {_said(error)}"
            ) from error


def _credentials() -> Credentials:
    try:
        found, _project = google.auth.default(scopes=storage.Client.SCOPE)
    except GoogleAuthError as error:
        raise ObjectsRefused(f"credentials: {error}") from error
    return found


def _crc32c(content: Content) -> str:
    """The checksum as the service writes it: big-endian, in base64."""
    value = 0
    for block in blocks(content.stream):
        value = google_crc32c.extend(value, block)
    content.stream.seek(0)
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def _metadata(blob: storage.Blob, key: str) -> str:
    return str((blob.metadata or {}).get(key, ""))


def _info(blob: storage.Blob) -> ObjectInfo:
    retention = blob.retention
    times = [
        time
        for time in (
            retention.retain_until_time,
            retention.retention_expiration_time,
            blob.retention_expiration_time,  # by the policy of the whole bucket
        )
        if time is not None
    ]
    return ObjectInfo(
        name=blob.name,
        generation=int(blob.generation),
        size=int(blob.size),
        sha256=_metadata(blob, _SHA256),
        created=blob.time_created,
        retained_until=max(times, default=None),
        held=bool(blob.temporary_hold or blob.event_based_hold),
    )


def _said(error: BaseException) -> str:
    if isinstance(error, api.RetryError) and error.cause is not None:
        return f"{error.message}, last {_said(error.cause)}"
    return str(error) or type(error).__name__
