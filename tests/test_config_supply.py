"""The supply chain's sections: the source document's text loads, and nothing in it can weaken."""

import tomllib

import pytest

from models.config import ConfigError, load_config
from models.config_check import NOT_ENFORCED, check_config
from stores.templates import render_default_config

# As section 4 of the source document has it.
DOCUMENT = """
[sbom]
format = "cyclonedx"
vulnerability_databases = ["nvd", "osv"]
block_critical_cves = true
archive_with_image = true

[signing]
provider = "cosign"
oidc_provider = "https://token.actions.githubusercontent.com"
key_rotation_days = 90

[provenance]
format = "in-toto"
include_git_commit = true
include_test_results = true
include_builder_id = true
store_in_registry = true

[deployment_verification]
verify_image_signature = true
validate_sbom = true
validate_provenance = true
fail_on_verification_error = true

[audit_trail]
store = "firestore"
immutable_receipts = true
receipt_chain_enabled = true
forensics_enabled = true
retention_years = 7
"""
SWITCHES = [
    "sbom.block_critical_cves",
    "sbom.archive_with_image",
    "provenance.include_git_commit",
    "provenance.include_test_results",
    "provenance.include_builder_id",
    "provenance.store_in_registry",
    "deployment_verification.verify_image_signature",
    "deployment_verification.validate_sbom",
    "deployment_verification.validate_provenance",
    "deployment_verification.fail_on_verification_error",
    "audit_trail.immutable_receipts",
    "audit_trail.receipt_chain_enabled",
    "audit_trail.forensics_enabled",
]


def test_the_document_loads_and_what_it_does_not_do_is_said():
    config = load_config(DOCUMENT)
    assert config.audit_trail.store == "firestore" and config.signing.key_rotation_days == 90
    unenforced = {found.key for found in check_config(config) if found.level == "not enforced"}
    assert unenforced == {*NOT_ENFORCED, "audit_trail.store"}
    named = {found.key for found in check_config(load_config("")) if found.level == "not enforced"}
    assert "audit_trail.store" not in named, "a ledger is what it says"


def test_the_default_configuration_has_all_sections():
    text = render_default_config()
    document, rendered = tomllib.loads(DOCUMENT), tomllib.loads(text)
    document["audit_trail"]["store"] = "ledger"
    for section, keys in document.items():
        assert {key: rendered[section][key] for key in keys} == keys
    assert load_config(text).digest()


@pytest.mark.parametrize("key", SWITCHES)
def test_what_protects_cannot_be_switched_off(key):
    section, _, name = key.partition(".")
    with pytest.raises(ConfigError, match="must be true") as error:
        load_config(f"[{section}]\n{name} = false\n")
    assert error.value.key == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[sbom]\nvulnerability_databases = []", "sbom.vulnerability_databases"),
        ("[sbom]\nvulnerability_databases = ['osv', 'osv']", "sbom.vulnerability_databases"),
        ("[sbom]\nvulnerability_databases = ['snyk']", "sbom.vulnerability_databases"),
        ("[sbom]\nformat = 'spdx'", "sbom.format"),
        ("[signing]\noidc_provider = 'not a url'", "signing.oidc_provider"),
        ("[signing]\nkey_rotation_days = 0", "signing.key_rotation_days"),
        ("[deployment_verification]\nfollow_up = 'ignore'", "deployment_verification.follow_up"),
        ("[deployment_verification]\nskip = true", "deployment_verification.skip"),
        ("[audit_trail]\nretention_years = 0", "audit_trail.retention_years"),
    ],
)
def test_a_wrong_value_names_its_key(text, key):
    with pytest.raises(ConfigError) as error:
        load_config(text)
    assert error.value.key == key


def test_verification_cannot_be_overridden_for_one_rollout():
    with pytest.raises(ConfigError, match="may not be overridden"):
        load_config("").with_overrides({"deployment_verification.follow_up": "stop"})
