"""Sealing for backups: a tenant's documents by its own key, the region's own by the region's.

Destroying a tenant's key makes its documents unreadable in every backup. What is still logged of
such a tenant afterwards is not sealed but left out; its digests stay in the chain.
"""

from models.backup_file import BackupDamaged
from stores.envelope import EnvelopeDamaged, Envelopes
from stores.tenant_keys import KeyDamaged, KeyDestroyed, KeyMissing, RegionKey

_PURPOSE = b"backup/"


class BackupSeals:
    """`seal` and `unseal` as `models.backup_file` wants them."""

    def __init__(self, envelopes: Envelopes, region_key: RegionKey) -> None:
        self._envelopes = envelopes
        self._region_key = region_key

    def seal(self, tenant: str, plain: bytes, bound_to: bytes) -> bytes:
        """Seal a group's body; nothing for a tenant whose key is destroyed."""
        if not tenant:
            return self._region_key.wrap(plain, _PURPOSE + bound_to)
        try:
            return self._envelopes.seal(tenant, plain, bound_to)
        except KeyDestroyed:
            return b""

    def unseal(self, tenant: str, sealed: bytes, bound_to: bytes) -> bytes | None:
        """The reverse; None when the tenant's key is destroyed.

        Raises:
            BackupDamaged: it was sealed for another place, changed since, or the key is not here.
        """
        try:
            if not tenant:
                return self._region_key.unwrap(sealed, _PURPOSE + bound_to)
            return self._envelopes.open(tenant, sealed, bound_to)
        except KeyDestroyed:
            return None
        except (EnvelopeDamaged, KeyDamaged, KeyMissing) as error:
            raise BackupDamaged(f"body of {tenant or 'the region'}: {error}") from None
