"""Where a process has its releases: an image layout on disk, or a registry and a cache of it."""

import httpx

from models.addresses import ControlAddresses, RegionAddresses, RegistryAddress
from stores.oci import ImageLayout
from stores.registry_client import RegistryClient
from stores.registry_layout import RegistryLayout
from stores.registry_source import RegistrySource
from stores.release_registry import ReleaseRegistry

TRIES = 3
TIMEOUT = httpx.Timeout(15.0, connect=3.0)
"""Shorter than for a copy by hand: behind a process is Temporal, which asks again by itself, and a
verdict has to be there before its step is over."""


def open_releases(addresses: ControlAddresses | RegionAddresses) -> ImageLayout:
    """The releases that the addresses describe. No request is made yet."""
    if addresses.registry is None:
        return ImageLayout(addresses.releases)
    return RegistryLayout(addresses.releases, registry_source(addresses.registry))


def registry_source(address: RegistryAddress) -> RegistrySource:
    """The registry at an address."""

    def client(url: str) -> RegistryClient:
        credentials = address.credentials
        return RegistryClient(url, credentials=credentials, timeout=TIMEOUT, tries=TRIES)

    return RegistrySource(address.url, client)


def evidence_registry(releases: ImageLayout) -> ReleaseRegistry:
    """Where evidence is read for a verdict: the registry itself, where there is one."""
    return releases.source if isinstance(releases, RegistryLayout) else releases
