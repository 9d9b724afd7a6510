"""What a release holds, judged: its SBOM against the artifact, and what is known against it."""

from datetime import timedelta

import pytest
from release_evidence_harness import (
    NOW,
    OTHER,
    component,
    evidence,
    failed,
    good_statements,
    judge,
    policy,
    replaced,
    report,
    sbom,
    signed,
    without,
)

from models.release_evidence import KnownVulnerability, Unread
from models.sbom_compare import Named, SbomComparison
from models.statement import SBOM

CRITICAL = KnownVulnerability(
    id="CVE-2026-1", component="pkg:pypi/requests@2.32.0", severity="critical"
)
HOUR = timedelta(hours=1)


def with_sbom(predicate, **changes):
    return evidence(*replaced(signed(SBOM, predicate)), **changes)


def found(**changes):
    return evidence(
        *good_statements().values(),
        vulnerabilities=report(CRITICAL.model_copy(update=changes)),
    )


def compared(**changes):
    bill = signed(SBOM)
    comparison = SbomComparison(**{"subject_matches": True} | changes)
    return evidence(*replaced(bill), comparisons={bill.digest: comparison})


def named(*names):
    return Named(count=len(names), names=names)


def test_an_empty_sbom_is_refused():
    empty = sbom() | {"components": []}
    assert "lists 0 components" in failed(judge(with_sbom(empty)))["sbom"]


def test_an_sbom_about_another_digest_is_refused():
    assert "is about" in failed(judge(with_sbom(sbom(about=OTHER))))["sbom"]
    nothing = sbom() | {"metadata": {}}
    assert "about nothing" in failed(judge(with_sbom(nothing)))["sbom"]


def test_an_unsigned_sbom_is_no_sbom():
    verdict = judge(evidence(*without(SBOM)))
    assert {"sbom", "vulnerabilities"} == set(failed(verdict))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hashes": []}, "has no hash"),
        ({"hashes": [{"alg": "MD5", "content": "a" * 32}]}, "has no hash"),
        ({"purl": None}, "has no package URL"),
        ({"name": "r\u0435quests", "purl": "pkg:pypi/r%D0%B5quests@2.32.0"}, "look-alike"),
        ({"purl": "pkg:pypi/requests"}, "no version"),
        ({"purl": "requests"}, "malformed"),
        ({"name": "urllib3", "purl": "pkg:pypi/requests@2.32.0"}, "disagrees"),
        ({"purl": "pkg:PyPI/Requests@2.32.0"}, "not-canonical"),
    ],
)
def test_a_component_that_cannot_be_looked_up_is_refused(change, words):
    changed = {key: value for key, value in component(**change).items() if value is not None}
    assert words in failed(judge(with_sbom(sbom(changed))))["sbom"]


def test_two_packages_that_look_alike_are_refused():
    pair = sbom(component(), component("reque5ts"), component("rnodule"), component("module"))
    assert "twin" in failed(judge(with_sbom(pair)))["sbom"]


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"subject_matches": False}, "about another digest"),
        ({"unlisted_packages": named("pkg:pypi/evil@1")}, "pkg:pypi/evil@1"),
        ({"unlisted_files": named("bin/evil")}, "bin/evil"),
        ({"altered_files": named("serve.py")}, "serve.py"),
        ({"altered_packages": named("pkg:pypi/a@1")}, "pkg:pypi/a@1"),
        ({"absent_packages": named("pkg:pypi/gone@1")}, "pkg:pypi/gone@1"),
        ({"absent_files": named("gone.py")}, "gone.py"),
    ],
)
def test_what_one_side_lacks_is_named(difference, words):
    assert words in failed(judge(compared(**difference)))["sbom"]


def test_a_policy_may_let_a_lock_file_overstate_but_never_understate():
    under = policy(sbom={"allow_overstated": True})
    assert judge(compared(absent_packages=named("pkg:pypi/gone@1")), under).outcome == "pass"
    both = compared(absent_packages=named("x"), unlisted_files=named("bin/evil"))
    assert judge(both, under).outcome == "fail"


def test_an_sbom_that_was_not_compared_is_an_error():
    given = evidence(*good_statements().values(), comparisons={})
    assert judge(given).outcome == "error"
    unread = evidence(
        *replaced(bill := signed(SBOM)), comparisons={bill.digest: Unread(why="disk full")}
    )
    assert failed(judge(unread))["sbom"] == "disk full; disk full"


def test_of_two_sboms_each_must_hold():
    more = signed(SBOM, sbom(component(hashes=[])))
    assert judge(evidence(*good_statements().values(), more)).outcome == "fail"


def test_a_critical_finding_blocks_and_no_policy_can_say_otherwise():
    assert "CVE-2026-1 (critical)" in failed(judge(found()))["vulnerabilities"]
    with pytest.raises(ValueError, match="critical"):
        policy(vulnerabilities={"severities": {"critical": "allow"}})


@pytest.mark.parametrize(
    ("severity", "outcome"),
    [("high", "fail"), ("unknown", "fail"), ("medium", "pass"), ("low", "pass"), ("none", "pass")],
)
def test_severities_by_default(severity, outcome):
    assert judge(found(severity=severity)).outcome == outcome


@pytest.mark.parametrize("severity", ["high", "unknown", "medium", "low"])
@pytest.mark.parametrize("rule", ["block", "allow"])
def test_severities_by_the_policys_word(severity, rule):
    under = policy(vulnerabilities={"severities": {severity: rule}})
    assert (
        judge(found(severity=severity), under).outcome == {"block": "fail", "allow": "pass"}[rule]
    )


def test_what_is_exploited_blocks_whatever_its_severity():
    exploited = found(severity="low", known_exploited=True)
    assert "known to be exploited" in failed(judge(exploited))["vulnerabilities"]
    under = policy(vulnerabilities={"block_known_exploited": False})
    assert judge(exploited, under).outcome == "pass"


def test_epss_blocks_from_where_the_policy_says():
    under = policy(vulnerabilities={"block_epss_from": 0.5})
    assert judge(found(severity="low", epss=0.5), under).outcome == "fail"
    assert judge(found(severity="low", epss=0.49), under).outcome == "pass"
    assert judge(found(severity="low", epss=None), under).outcome == "pass"


def test_what_is_cleared_does_not_block_and_is_said():
    verdict = judge(found(cleared_by="VEX of the vendor: not affected"))
    assert verdict.outcome == "pass"
    [check] = [each for each in verdict.checks if each.name == "vulnerabilities"]
    assert "VEX of the vendor" in check.details[0]


@pytest.mark.parametrize(
    "reason",
    [
        "exception expired on 2026-11-01",
        "VEX is about another product",
        "VEX has no justification",
    ],
)
def test_an_exception_or_vex_that_does_not_count_clears_nothing(reason):
    assert reason in failed(judge(found(not_cleared=[reason])))["vulnerabilities"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"records": 0}, "empty"),
        ({"sources": {"nvd": NOW}}, "osv was never loaded"),
        ({"sources": {"nvd": NOW, "osv": None}}, "osv was never loaded"),
        ({"sources": {"nvd": NOW, "osv": NOW - 49 * HOUR}}, "osv is 49 hours old"),
        ({"sources": {"nvd": NOW + HOUR, "osv": NOW}}, "nvd is from the future"),
    ],
)
def test_stale_or_empty_data_is_an_error_and_never_clean(change, words):
    verdict = judge(evidence(*good_statements().values(), vulnerabilities=report(**change)))
    assert verdict.outcome == "error"
    assert words in failed(verdict)["vulnerabilities"]


def test_what_is_known_blocks_even_where_the_data_is_stale():
    stale = report(CRITICAL, sources={})
    verdict = judge(evidence(*good_statements().values(), vulnerabilities=stale))
    assert verdict.outcome == "fail"


def test_a_policy_that_requires_no_feed_is_answered_by_none():
    under = policy(vulnerabilities={"required_sources": []})
    assert judge(evidence(*good_statements().values()), under).outcome == "error"


UNCOVERED = report(unmatched=["pkg:generic/@acme/tls@1.2?os=linux", "own-part"])


def uncovered(**rules):
    given = evidence(*good_statements().values(), vulnerabilities=UNCOVERED)
    checks = judge(given, policy(vulnerabilities=rules)).checks
    [check] = [each for each in checks if each.name == "vulnerabilities"]
    return check


def test_components_that_no_feed_covers_block_unless_the_policy_lets_them():
    check = uncovered()
    assert check.outcome == "fail" and "allow_uncovered" in check.why
    assert len(check.details) == 2 and "pkg:generic/@acme/tls" in check.details[0]
    one = uncovered(allow_uncovered=["pkg:generic/@acme/tls"])
    assert one.outcome == "fail" and one.details == ["nothing can be known of 'own-part'"]
    both = uncovered(allow_uncovered=["pkg:generic/@acme/tls", "own-part"])
    assert both.outcome == "pass" and len(both.details) == 2, "they are said all the same"
    assert uncovered(uncovered="allow").outcome == "pass"


@pytest.mark.parametrize("near", ["pkg:generic/@acme/tl", "pkg:generic/@acme", "own-parts", "own"])
def test_a_name_that_is_nearly_the_components_allows_nothing(near):
    assert len(uncovered(allow_uncovered=[near]).details) == 2
