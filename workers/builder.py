"""The builder's part of a home: its settings, its keys and clock, and the activities that build."""

from collections.abc import Callable
from pathlib import Path

from activities.build import BuildActivities, ReleaseShelf
from models.addresses import BuilderAddress
from models.builder import BuilderSettings, load_builder
from models.config import load_config
from models.trust import TrustRoot, read_trust_root
from stores.files import file_lock, write_atomic
from stores.signing import StatementSigner
from stores.signing_keys import SigningKeys
from stores.timestamp_authority import LocalTimestampAuthority

SIGNER = "embedded-builder"
"""The identity of the builder's keys; the default verification policy names it."""

_SETTINGS = """\
# Who may have signed a commit, and what a build may have. See models/builder.py.
# Commits are refused until somebody is in the list of signers: principal, key type, key.
signatures = "required"
allowed_signers = {signers}
# keyring = "/path/to/gpg-public-keys.asc"

# PATH of a build, and what a build file may take from the builder's own environment.
path = "/usr/local/bin:/usr/bin:/bin"
environment = []
"""


def prepare_builder(root: Path) -> BuilderAddress:
    """What a home's builder needs; settings and keys that are there are left as they are."""
    folder = root / "builder"
    folder.mkdir(parents=True, exist_ok=True)
    address = BuilderAddress(
        settings=folder / "builder.toml",
        work=folder / "work",
        keys=folder / "keys",
        clock=folder / "clock",
    )
    signers = folder / "allowed_signers"
    signers.touch()
    if not address.settings.exists():
        text = _SETTINGS.format(signers=f'"{signers}"')
        load_builder(text)
        write_atomic(address.settings, text.encode())
    return address


def load_settings(address: BuilderAddress) -> BuilderSettings:
    """The builder's settings.

    Raises:
        BuilderError: they do not hold.
        OSError: they cannot be read.
    """
    return load_builder(address.settings.read_text())


def build_activities(
    address: BuilderAddress, shelf: ReleaseShelf, trust_root: Path | None, config: Path
) -> BuildActivities:
    """The activities of a builder; see `trusted_signer` for the last two."""
    return BuildActivities(
        settings=load_settings(address),
        work=address.work,
        shelf=shelf,
        signer=trusted_signer(address, trust_root, config),
    )


def trusted_signer(
    address: BuilderAddress, trust_root: Path | None, config: Path
) -> Callable[[], StatementSigner]:
    """Makes a signer with the builder's current key and clock.

    Args:
        trust_root: file that is kept up to date with the public halves; none where whoever
            verifies has a trust root of their own, as in production.
        config: read anew for each signer: how long a key signs may change.
    """
    clock = LocalTimestampAuthority(address.clock)

    def signer() -> StatementSigner:
        keys = signing_keys(address, config)
        made = keys.signer([clock])
        if trust_root is not None:
            publish_trust(trust_root, keys, clock)
        return made

    return signer


def signing_keys(address: BuilderAddress, config: Path) -> SigningKeys:
    """The builder's keys, rotated as ``signing.key_rotation_days`` of the configuration says.

    Raises:
        ConfigError, OSError: the configuration does not hold, or cannot be read.
    """
    days = load_config(config.read_text()).signing.key_rotation_days
    return SigningKeys(address.keys, SIGNER, rotation_days=days)


def publish_trust(path: Path, keys: SigningKeys, clock: LocalTimestampAuthority) -> None:
    """Add the builder's public keys and clock to a trust root; what is there stays.

    Raises:
        EvidenceError: the file is no trust root.
    """
    with file_lock(path.with_suffix(".lock")):
        old = read_trust_root(path.read_bytes()) if path.exists() else TrustRoot()
        new = keys.export(old)
        ours = clock.trusted()
        others = [each for each in new.timestamp_authorities if each.name != ours.name]
        known = [each for each in new.timestamp_authorities if each == ours]
        if not known:
            new = new.model_copy(update={"timestamp_authorities": [*others, ours]})
        if new != old:
            write_atomic(path, new.to_bytes())
