"""What verdicts were given on, kept by digest for as long as the receipts that name it.

A verdict's receipt holds digests; the bytes are here. Nothing is ever removed or replaced, and what
is read back is checked, so that a verdict can be given again in seven years or not at all.
"""

from hashlib import sha256
from pathlib import Path

from models.oci import Descriptor
from stores.blobs import BlobStore, ReleaseCorrupt, ReleaseNotFound

MEDIA_TYPE = "application/octet-stream"
MAX_BYTES = 256 * 1024**2


class ArchiveError(Exception):
    """The archive does not have, or no longer has whole, what a digest stands for."""


def digest_of(content: bytes) -> str:
    """SHA-256, ``sha256:<hex>``."""
    return f"sha256:{sha256(content).hexdigest()}"


class EvidenceArchive:
    """The archive in a directory; any number of processes may write to it."""

    def __init__(self, root: Path) -> None:
        self._blobs = BlobStore(root)

    def put(self, content: bytes) -> str:
        """Keep bytes and return their digest; durable when this returns.

        Raises:
            ArchiveError: over `MAX_BYTES`.
            OSError: the disk does not take it.
        """
        if len(content) > MAX_BYTES:
            raise ArchiveError(f"evidence: {len(content)} bytes, the limit is {MAX_BYTES}")
        digest = digest_of(content)
        if not self._has(digest, len(content)):
            self._blobs.put(MEDIA_TYPE, content)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of a digest, checked.

        Raises:
            ArchiveError: they are not here, or are no longer what they were.
        """
        try:
            size = self._blobs.size(digest)
            blob = Descriptor(media_type=MEDIA_TYPE, digest=digest, size=size)
            return self._blobs.read(blob, limit=MAX_BYTES)
        except ReleaseNotFound:
            raise ArchiveError(f"evidence {digest}: not in the archive") from None
        except (ReleaseCorrupt, ValueError) as error:
            raise ArchiveError(f"evidence {digest}: {error}") from None

    def _has(self, digest: str, size: int) -> bool:
        """Whether it is here in full length: one that is not, after a crash, is written anew."""
        try:
            return self._blobs.size(digest) == size
        except ReleaseNotFound:
            return False
