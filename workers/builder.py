"""The builder's part of a home: its settings, its keys and clock, and the activities that build."""

from collections.abc import Callable
from pathlib import Path

from activities.build import BuildActivities, ReleaseShelf
from models.addresses import BuilderAddress
from models.builder import BuilderSettings, load_builder
from models.config import load_config
from models.config_supply import Signing
from models.trust import TrustRoot, read_trust_root
from stores.files import file_lock, write_atomic
from stores.id_tokens import token_source
from stores.signing import KmsSigner, SigningFailed, StatementSigner
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
    """The activities of a builder; see `trusted_signer` for what becomes of the trust root.

    Args:
        config: the fleet's configuration, which says how builds sign; read for each piece of work.
    """
    return BuildActivities(
        settings=load_settings(address),
        work=address.work,
        shelf=shelf,
        signer=trusted_signer(address, trust_root, lambda: signing_settings(config)),
    )


def signing_settings(config: Path) -> Signing:
    """The section ``[signing]`` of a configuration.

    Raises:
        ConfigError: a key of it is wrong.
        OSError: it cannot be read.
    """
    return load_config(config.read_text()).signing


def builder_keys(address: BuilderAddress, settings: Signing) -> SigningKeys:
    """The builder's keys, which sign for as long as the configuration says."""
    return SigningKeys(address.keys, SIGNER, rotation_days=settings.key_rotation_days)


def trusted_signer(
    address: BuilderAddress, trust_root: Path | None, settings: Callable[[], Signing]
) -> Callable[[], StatementSigner]:
    """Makes a signer as the configuration says: with the builder's key, by a KMS, or keyless.

    Args:
        trust_root: file that is kept up to date with the public halves; none where whoever
            verifies has a trust root of their own, as in production.
        settings: reads the section ``[signing]``; asked for each signer.
    """
    clock = LocalTimestampAuthority(address.clock)

    def signer() -> StatementSigner:
        said = settings()
        if said.mode == "keyless":
            return _keyless_signer(address, said.oidc_provider)
        keys = builder_keys(address, said)
        made = _kms_signer(address, keys, clock) if said.mode == "kms" else keys.signer([clock])
        if trust_root is not None:
            publish_trust(trust_root, keys, clock)
        return made

    return signer


def _keyless_signer(address: BuilderAddress, issuer: str) -> StatementSigner:
    # Imported here: half a second, which a builder with a key need not wait for.
    from stores.keyless import KeylessSigner, read_services  # noqa: PLC0415

    if address.keyless is None:
        raise SigningFailed(
            "signing.mode: keyless, but the addresses name no services (builder.keyless)"
        )
    tokens = token_source(address.keyless.token, issuer)
    return KeylessSigner(read_services(address.keyless.services), tokens, issuer)


def _kms_signer(
    address: BuilderAddress, keys: SigningKeys, clock: LocalTimestampAuthority
) -> StatementSigner:
    if address.kms is None:
        raise SigningFailed("signing.mode: kms, but the addresses name no key (builder.kms)")
    try:
        public = address.kms.public_key.read_text()
        key = keys.adopt(public)
        return KmsSigner(address.kms.uri, key.public_key, [clock])
    except (OSError, ValueError) as error:
        raise SigningFailed(f"builder.kms: {error}") from None


def publish_trust(path: Path, keys: SigningKeys, clock: LocalTimestampAuthority) -> None:
    """Add the builder's public keys and clock to a trust root; what is there stays.

    Raises:
        EvidenceError: the file is no trust root.
    """

    def add(old: TrustRoot) -> TrustRoot:
        new, ours = keys.export(old), clock.trusted()
        if ours in new.timestamp_authorities:
            return new
        others = [each for each in new.timestamp_authorities if each.name != ours.name]
        return new.model_copy(update={"timestamp_authorities": [*others, ours]})

    change_trust(path, add)


def change_trust(path: Path, change: Callable[[TrustRoot], TrustRoot]) -> None:
    """Change a trust root's file, one process at a time; where there is none it begins empty.

    Raises:
        EvidenceError: the file is no trust root.
    """
    with file_lock(path.with_suffix(".lock")):
        old = read_trust_root(path.read_bytes()) if path.exists() else TrustRoot()
        new = change(old)
        if new != old:
            write_atomic(path, new.to_bytes())
