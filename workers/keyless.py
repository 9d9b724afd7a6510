"""The keyless part of a home: an authority of its own, or the services of somebody else's."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.addresses import (
    AuthorityAddress,
    BuilderAddress,
    ClientToken,
    FileToken,
    KeylessAddress,
)
from models.canonical import canonical
from models.trust import KeylessAuthority, TrustRoot
from stores.authority_keys import AuthorityKeys
from stores.authority_tokens import enrol
from stores.files import write_atomic
from workers.authority import CLIENTS
from workers.builder import SIGNER, change_trust, load_settings
from workers.settings import authority_file


class KeylessSetupError(Exception):
    """The home cannot sign keyless as it is configured; the message says what is missing."""


@dataclass(frozen=True)
class Keyless:
    """What signs keyless in a home; ``authority`` is None where it is somebody else's."""

    builder: KeylessAddress
    authority: AuthorityAddress | None


def prepare_keyless(root: Path, issuer: str, builder: BuilderAddress, trust_root: Path) -> Keyless:
    """What a home needs to sign with tokens of an issuer.

    An issuer on loopback is the home's own authority: its keys are made, the builder becomes its
    client, and the trust root comes to know it. Those of others are put there by hand.

    Args:
        issuer: ``signing.oidc_provider``.

    Raises:
        KeylessSetupError: the services of another's issuer are not there.
        KeyFileError: the authority's keys are damaged.
    """
    folder = builder.settings.parent
    services = folder / "services.json"
    try:
        authority = AuthorityAddress(directory=root / "authority", url=issuer)
    except ValidationError:
        if not services.exists():
            raise KeylessSetupError(
                f"signing.mode: keyless with tokens of {issuer} needs Sigstore's ClientTrustConfig "
                f"in {services}, and a token in {folder / 'token'}"
            ) from None
        token = FileToken(file=folder / "token")
        return Keyless(KeylessAddress(services=services, token=token), None)
    secret = folder / "oidc-secret"
    identity = load_settings(builder).id
    try:
        enrol(authority.directory / CLIENTS, SIGNER, identity, secret)
    except ValueError as error:
        raise KeylessSetupError(f"{builder.settings}: id: {error}") from None
    keys = AuthorityKeys(authority.directory, authority.url)
    write_atomic(services, canonical(keys.trust_config()))
    write_atomic(authority_file(), authority.model_dump_json(indent=2).encode())
    change_trust(trust_root, lambda old: with_authority(old, keys.trusted()))
    client = ClientToken(client=SIGNER, secret_file=secret)
    return Keyless(KeylessAddress(services=services, token=client), authority)


def with_authority(trust: TrustRoot, ours: KeylessAuthority) -> TrustRoot:
    """A trust root with an authority added, or brought up to date if its CA is known.

    Issuers that it had before stay: what was signed with their tokens stands.
    """
    known = trust.keyless_authorities
    same = [each for each in known if each.certificates == ours.certificates]
    issuers = dict.fromkeys([*ours.issuers, *(one for each in same for one in each.issuers)])
    if same and list(issuers) == same[0].issuers and ours.trusted_root == same[0].trusted_root:
        return trust
    changed = KeylessAuthority.model_validate({**ours.model_dump(), "issuers": list(issuers)})
    others = [each for each in known if each not in same]
    return trust.model_copy(update={"keyless_authorities": [*others, changed]})
