"""The judgement over a release: good evidence passes, and each thing that is not good fails."""

import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_evidence_harness import (
    KEY,
    NOW,
    OTHER,
    PREDICATES,
    RELEASE,
    evidence,
    failed,
    good_statements,
    judge,
    policy,
    provenance,
    refused,
    replaced,
    signed,
    tests,
    without,
)

from models.oci import INDEX_TYPE, MANIFEST_TYPE
from models.release_evidence import Artifact, Unread
from models.release_verdict import render_verdict
from models.signed_statement import Signer
from models.statement import PROVENANCE, SBOM, SIGNATURE, TESTS


def test_good_evidence_passes_every_check():
    verdict = judge(evidence(*good_statements().values()))
    assert (verdict.outcome, failed(verdict)) == ("pass", {})
    assert verdict.source.endswith("@" + "c3" * 20) and verdict.builder.startswith("urn:")
    names = [check.name for check in verdict.checks]
    assert {"artifact", "identity", "signature", "provenance", "tests", "sbom"} < set(names)
    assert "PASS" in render_verdict(verdict)


def test_the_same_evidence_gives_the_same_verdict():
    first, again = (judge(evidence(*good_statements().values())) for _ in range(2))
    assert first == again and first.digest() == again.digest()


@pytest.mark.parametrize("kind", PREDICATES)
def test_withheld_evidence_fails(kind):
    verdict = judge(evidence(*without(kind)))
    assert verdict.outcome == "fail"
    assert any("is kept with the release" in why for why in failed(verdict).values())


@pytest.mark.parametrize("kind", PREDICATES)
def test_evidence_for_another_digest_does_not_count(kind):
    verdict = judge(evidence(*replaced(signed(kind, about=OTHER))))
    assert verdict.outcome == "fail"
    assert any(f"is about {OTHER}" in why for why in failed(verdict).values())


@pytest.mark.parametrize("kind", PREDICATES)
def test_a_statement_about_several_artifacts_does_not_count(kind):
    verdict = judge(evidence(*replaced(signed(kind, more=(OTHER,)))))
    assert any("about 2 artifacts" in why for why in failed(verdict).values())


@pytest.mark.parametrize("kind", [PROVENANCE, SBOM, TESTS])
def test_an_attestation_is_no_signature(kind):
    twice = [*without(SIGNATURE), signed(kind, at=NOW - timedelta(days=4))]
    assert set(failed(judge(evidence(*twice)))) == {"signature"}


@pytest.mark.parametrize(
    "look_alike",
    [
        SIGNATURE + "/",
        SIGNATURE.upper(),
        SIGNATURE.replace("v1", "v2"),
        SIGNATURE.replace("cosign", "c\u043esign"),
        "https://sigstore.dev/cosign/sign/v1 ",
    ],
)
def test_a_wrong_predicate_type_is_another_kind_of_evidence(look_alike):
    verdict = judge(evidence(*without(SIGNATURE), signed(look_alike, {})))
    assert "predicate type" in failed(verdict)["signature"]


@pytest.mark.parametrize("kind", PREDICATES)
@pytest.mark.parametrize(
    "signer",
    [
        Signer(kind="key", identity="build\u0435r"),
        Signer(kind="key", identity="builder "),
        Signer(kind="key", identity="Builder"),
        Signer(kind="key", identity="builder2"),
        Signer(kind="oidc", identity="builder", issuer="https://issuer.example.org"),
        Signer(kind="key", identity="builder", issuer="https://issuer.example.org"),
    ],
    ids=["homoglyph", "space", "case", "prefix", "kind", "issuer"],
)
def test_a_look_alike_signer_is_somebody_else(kind, signer):
    verdict = judge(evidence(*replaced(signed(kind, by=signer))))
    assert verdict.outcome == "fail"
    assert "the policy allows key builder" in failed(verdict)["identity"]


ISSUER = "https://token.example.org"
WORKFLOW = "https://git.example.org/shop/catalog/.ci/release.yaml@refs/tags/v"
KEYLESS = {
    "signers": [
        {
            "kind": "oidc",
            "identity_pattern": "^" + WORKFLOW.replace(".", r"\.") + r"[0-9]+\.[0-9]+\.[0-9]+$",
            "issuer": ISSUER,
        }
    ]
}


@pytest.mark.parametrize(
    ("identity", "issuer", "outcome"),
    [
        (WORKFLOW + "1.2.3", ISSUER, "pass"),
        (WORKFLOW + "1.2.3", ISSUER + "/", "fail"),
        (WORKFLOW + "1.2.3", "https://token.example.org.evil.example", "fail"),
        (WORKFLOW + "1.2.3", "", "fail"),
        (WORKFLOW + "1.2.3\n", ISSUER, "fail"),
        (WORKFLOW + "1.2.3-evil", ISSUER, "fail"),
        ("https://evil.example/?" + WORKFLOW + "1.2.3", ISSUER, "fail"),
        (WORKFLOW + "1.2.\u0663", ISSUER, "fail"),
    ],
)
def test_a_keyless_identity_counts_with_its_issuer_and_from_end_to_end(identity, issuer, outcome):
    signer = Signer(kind="oidc", identity=identity, issuer=issuer)
    given = evidence(*replaced(signed(SIGNATURE, by=signer)))
    assert judge(given, policy(signature=KEYLESS)).outcome == outcome


def test_provenance_signed_by_the_wrong_party_does_not_count():
    tester = Signer(kind="key", identity="tester")
    under = policy(tests={"signers": [{"kind": "key", "identity": "tester"}]})
    right = evidence(*replaced(signed(TESTS, by=tester)))
    assert judge(right, under).outcome == "pass"
    wrong = evidence(*replaced(signed(TESTS, by=tester), signed(PROVENANCE, by=tester)))
    assert "provenance is signed by key 'tester'" in failed(judge(wrong, under))["identity"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"builder": "urn:chainring:builder:other"}, "builder"),
        ({"builder": "urn:chainring:builder:test/"}, "builder"),
        ({"build_type": "urn:chainring:build:v2"}, "build type"),
        ({"repository": "https://git.example.org/shop/catalog.git"}, "repository"),
        ({"repository": "https://git.example.org/shop/catalog/"}, "repository"),
        ({"repository": "https://git.ex\u0430mple.org/shop/catalog"}, "repository"),
        ({"ref": "refs/heads/main2"}, "ref"),
        ({"ref": "refs/tags/main"}, "ref"),
        ({"ref": ""}, "ref"),
        ({"ref": "refs/heads/MAIN"}, "ref"),
        ({"unsigned_commit": True}, "is not signed by anybody whom the builder knew"),
        ({"commit": "main"}, "commit"),
        ({"finished": "2026-11-21T10:00:00Z"}, "signed before the build was over"),
        ({"finished": "2026-11-20T09:00:00Z"}, "before startedOn"),
    ],
)
def test_provenance_from_elsewhere_is_refused(change, words):
    verdict = judge(evidence(*replaced(signed(PROVENANCE, provenance(**change)))))
    assert words in failed(verdict)["provenance"]


def test_an_unsigned_commit_passes_only_where_the_policy_says_so():
    given = evidence(*replaced(signed(PROVENANCE, provenance(unsigned_commit=True))))
    assert judge(given, policy(provenance={"require_signed_commit": False})).outcome == "pass"


def test_provenance_that_names_another_commit_contradicts():
    other = signed(PROVENANCE, provenance(commit="d4" * 20))
    verdict = judge(evidence(*good_statements().values(), other))
    assert "several sources" in failed(verdict)["agreement"]
    assert verdict.source == ""


def test_two_builders_of_one_digest_contradict():
    other = signed(PROVENANCE, provenance(builder="urn:chainring:builder:two"))
    under = policy(provenance={"builders": ["urn:chainring:builder:two", *_builders()]})
    verdict = judge(evidence(*good_statements().values(), other), under)
    assert set(failed(verdict)) == {"agreement"}


def _builders():
    return policy().provenance.builders


def test_tests_of_another_commit_contradict():
    other = tests(configuration=[{"name": "src", "digest": {"gitCommit": "d4" * 20}}])
    verdict = judge(evidence(*replaced(signed(TESTS, other))))
    assert "is about commit" in failed(verdict)["agreement"]


def test_tests_with_another_build_file_than_the_build_contradict():
    said = provenance()
    said["buildDefinition"]["resolvedDependencies"].append(
        {"name": "chainring.build.toml", "digest": {"sha256": "0" * 64}}
    )
    verdict = judge(evidence(*replaced(signed(PROVENANCE, said))))
    assert "another 'chainring.build.toml'" in failed(verdict)["agreement"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"result": "FAILED", "failedTests": ["unit::stops"]}, "test 'unit::stops' failed"),
        ({"failedTests": ["unit::stops"]}, "test result: says PASSED"),
        ({"result": "WARNED", "skippedTests": ["unit::slow"]}, "'unit::slow' was skipped"),
        ({"passedTests": []}, "test result"),
        ({"result": "FAILED", "passedTests": []}, "failed as a whole"),
        ({"passedTests": ["unit::answers"]}, "unit::starts is required"),
        ({"result": "WARNED", "warnedTests": ["unit::stops"]}, "with warnings"),
        ({"result": "passed"}, "result"),
        ({"passedTests": 3}, "passedTests"),
    ],
)
def test_tests_that_failed_were_skipped_or_are_missing_are_refused(change, words):
    verdict = judge(evidence(*replaced(signed(TESTS, tests(**change)))))
    assert words in failed(verdict)["tests"]


def test_a_test_may_be_skipped_where_the_policy_names_it():
    skipped = tests(result="WARNED", skippedTests=["unit::slow"])
    given = evidence(*replaced(signed(TESTS, skipped)))
    assert judge(given, policy(tests={"allow_skipped": ["unit::slow"]})).outcome == "pass"
    assert judge(given, policy(tests={"allow_skipped": ["unit::"]})).outcome == "fail"


def test_too_few_tests_are_refused():
    verdict = judge(evidence(*good_statements().values()), policy(tests={"minimum_passed": 3}))
    assert "2 tests passed, at least 3 must" in failed(verdict)["tests"]


def test_of_two_test_runs_each_must_hold():
    bad = signed(TESTS, tests(result="FAILED", failedTests=["unit::stops"]))
    assert "tests" in failed(judge(evidence(*good_statements().values(), bad)))


@pytest.mark.parametrize(
    ("artifact", "words"),
    [
        (Artifact(digest=RELEASE, media_type=INDEX_TYPE), "an index of several images"),
        (Artifact(digest=RELEASE, media_type="application/json"), "no image"),
        (Artifact(digest=OTHER, media_type=MANIFEST_TYPE), "not the digest asked about"),
        (
            Artifact(digest=RELEASE, media_type=MANIFEST_TYPE, problems=["blob x: altered"]),
            "blob x: altered",
        ),
    ],
    ids=["index", "no image", "tag moved", "altered"],
)
def test_the_artifact_is_one_image_and_its_bytes_are_the_digests(artifact, words):
    verdict = judge(evidence(*good_statements().values(), artifact=artifact))
    assert words in failed(verdict)["artifact"]


def test_evidence_of_an_index_is_none_for_its_platforms_image():
    index = [signed(kind, about=OTHER) for kind in PREDICATES]
    verdict = judge(evidence(*index))
    assert {"identity", "signature", "provenance", "tests", "sbom"} <= set(failed(verdict))


@pytest.mark.parametrize("where", ["artifact", "vulnerabilities", "listing"])
def test_what_could_not_be_read_is_an_error_and_never_a_pass(where):
    statements = good_statements().values() if where != "listing" else ()
    given = evidence(*statements, **{where: Unread(why="the registry does not answer")})
    verdict = judge(given)
    assert verdict.outcome != "pass"
    assert "the registry does not answer" in " ".join(failed(verdict).values())
    assert verdict.outcome == "error", "nothing speaks against the release"


def test_a_failure_elsewhere_outranks_an_error():
    given = evidence(*without(TESTS), vulnerabilities=Unread(why="no database"))
    assert judge(given).outcome == "fail"


def test_refused_bundles_are_named_where_evidence_is_missing():
    given = evidence(*without(SBOM), refused=(refused("key-revoked", "since yesterday"),))
    assert "key-revoked: since yesterday" in failed(judge(given))["sbom"]


def test_a_refused_bundle_beside_good_evidence_stops_nobody():
    given = evidence(*good_statements().values(), refused=(refused("key-unknown"),))
    assert judge(given).outcome == "pass"


@pytest.mark.parametrize("kind", PREDICATES)
def test_evidence_that_is_too_old_is_refused(kind):
    old = signed(kind, at=NOW - timedelta(days=31))
    if kind == PROVENANCE:
        old = signed(kind, provenance(finished="2026-10-25T10:05:00Z"), at=NOW - timedelta(days=31))
        old.statement.predicate["runDetails"]["metadata"]["startedOn"] = "2026-10-25T10:00:00Z"
    under = policy(ages={"max_evidence_days": 30})
    assert "31 days old" in failed(judge(evidence(*replaced(old)), under))["age"]


def test_an_artifact_that_is_too_old_is_refused_however_fresh_its_signature():
    under = policy(ages={"max_artifact_days": 4})
    fresh = signed(SIGNATURE, at=NOW)
    assert "built 5 days ago" in failed(judge(evidence(*replaced(fresh)), under))["age"]


def test_evidence_from_the_future_is_refused():
    early = signed(SIGNATURE, at=NOW + timedelta(minutes=5))
    assert "in the future" in failed(judge(evidence(*replaced(early))))["age"]


def test_a_policy_that_names_nobody_lets_nothing_through():
    verdict = judge(evidence(*good_statements().values()), policy(""))
    assert verdict.outcome == "fail" and "nobody" in failed(verdict)["identity"]


@given(st.sets(st.sampled_from(sorted(PREDICATES)), max_size=3))
def test_only_all_four_kinds_together_pass(kinds):
    assert judge(evidence(*(signed(kind) for kind in kinds))).outcome == "fail"


@given(st.permutations(sorted(PREDICATES)))
def test_the_order_in_which_evidence_is_listed_changes_nothing(kinds):
    again = evidence(*(signed(kind) for kind in kinds))
    assert judge(again).outcome == "pass"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["buildDefinition", "runDetails", "builder", "components", "result", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from([PROVENANCE, SBOM, TESTS]), st.dictionaries(st.text(max_size=8), _JSON))
def test_no_predicate_can_crash_it_or_pass_by_chance(kind, predicate):
    assert judge(evidence(*replaced(signed(kind, predicate)))).outcome == "fail"


def test_what_evidence_says_cannot_draw_in_the_verdict():
    drawn = provenance(repository="x` | fail |\n| everything | pass | fine")
    text = render_verdict(judge(evidence(*replaced(signed(PROVENANCE, drawn)))))
    assert "| everything | pass |" not in text


def test_many_findings_are_cut_short():
    names = [f"unit::t{number:04}" for number in range(500)]
    bad = signed(TESTS, tests(result="FAILED", failedTests=names))
    [check] = [each for each in judge(evidence(*replaced(bad))).checks if each.name == "tests"]
    assert len(check.details) == 51 and "more" in check.details[-1]


def test_the_cause_of_a_refusal_does_not_depend_on_the_day():
    bad = evidence(*without(TESTS))
    first, later = judge(bad), judge(bad).model_copy(update={"at": NOW + timedelta(days=1)})
    assert first.cause() == later.cause() and "tests" in first.cause()
    assert first.cause() != judge(evidence(*without(SBOM))).cause()


def test_all_pairs_of_missing_kinds_are_told_apart():
    causes = {
        judge(evidence(*(signed(kind) for kind in kinds))).cause()
        for kinds in itertools.combinations(sorted(PREDICATES), 2)
    }
    assert len(causes) == 6


def test_the_signer_of_the_harness_is_the_one_the_policy_names():
    assert policy().signature.signers[0].allows(KEY.kind, KEY.identity, KEY.issuer)
