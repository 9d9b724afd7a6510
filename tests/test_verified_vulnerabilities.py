"""The verifier with the real vulnerability database: what is known, what clears it, how long."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from known_harness import OSV, PURL, Known
from release_evidence_harness import failed
from verifier_harness import NOW

from activities.judging import from_archive, judge_inputs, report_doubt
from models.bundle import read_bundle
from models.sbom import sbom_of
from models.statement import SBOM, read_statement
from stores.evidence_archive import digest_of
from stores.evidence_retention import input_digests
from stores.vulnerability_report import Spoken


@pytest.fixture
def bench(tmp_path):
    return Known(tmp_path)


def replayed(bench, verdict):
    inputs = from_archive(bench.archive, verdict.inputs)
    return judge_inputs(inputs, release=verdict.release, phase=verdict.phase, at=verdict.at)


def test_the_attested_sbom_names_the_package(bench):
    digest = bench.attested()
    statements = [
        read_statement(read_bundle(each).envelope.payload) for each in bench.layout.evidence(digest)
    ]
    [bill] = [sbom_of(each.predicate) for each in statements if each.predicate_type == SBOM]
    assert [component.purl for component in bill.packages] == [PURL]


def test_a_critical_vulnerability_refuses_the_release_and_nothing_else_does(bench):
    verdict = bench.verify(bench.attested()).verdict
    assert set(failed(verdict)) == {"vulnerabilities"}
    assert "CVE-2026-4242 (critical) in pkg:pypi/leaky@1.4.0, fixed in 1.5.0" in verdict.why


def test_the_verdict_is_given_again_after_the_database_has_changed(bench):
    verdict = bench.verify(bench.attested()).verdict
    bench.load(OSV | {"withdrawn": "2026-01-02T00:00:00Z"})
    assert bench.verify(verdict.release).verdict.outcome == "pass"
    assert replayed(bench, verdict) == verdict


def test_a_vex_statement_with_a_justification_clears_it(bench):
    bench.says("not_affected", justification="vulnerable_code_not_in_execute_path")
    assert bench.verify(bench.attested()).verdict.outcome == "pass"


def doubt(bench, verdict, **changes):
    """Whether the archived report follows from what it was made of."""
    inputs = replace(from_archive(bench.archive, verdict.inputs), **changes)
    return report_doubt(inputs, release=verdict.release, at=verdict.at)


def test_the_report_is_made_again_of_what_was_read_and_said(bench):
    bench.says("not_affected", justification="vulnerable_code_not_in_execute_path")
    bench.accepts(NOW + timedelta(hours=1))
    verdict = bench.verify(bench.attested()).verdict
    vendor = (bench.words.vex / "vendor.json").read_bytes()
    assert verdict.inputs.vex == {"vendor.json": digest_of(vendor)}
    assert verdict.inputs.exceptions == digest_of(bench.words.exceptions.read_bytes())
    assert b"GHSA-xxxx-yyyy-zzzz" in bench.archive.get(verdict.inputs.advisories)
    bench.words.exceptions.unlink()
    (bench.words.vex / "vendor.json").unlink()
    bench.load(OSV | {"withdrawn": "2026-01-02T00:00:00Z"})
    assert doubt(bench, verdict) == ""
    assert replayed(bench, verdict) == verdict
    inputs = dict(input_digests({"verdict": verdict.model_dump(mode="json")}))
    assert inputs["vex"] == digest_of(vendor) and {"advisories", "exceptions"} <= set(inputs)


def test_what_is_about_other_versions_alone_is_not_archived(bench):
    text = json.dumps(OSV).replace("GHSA-xxxx", "GHSA-past").replace("4242", "1111")
    bench.load(OSV, json.loads(text.replace("1.5.0", "1.2.0")))
    verdict = bench.verify(bench.attested()).verdict
    record = bench.archive.get(verdict.inputs.advisories)
    assert b"GHSA-xxxx" in record and b"GHSA-past" not in record
    assert doubt(bench, verdict) == ""


def test_a_report_that_does_not_follow_is_doubted(bench):
    verdict = bench.verify(bench.attested()).verdict
    assert doubt(bench, verdict) == ""
    cleared = bench.archive.get(verdict.inputs.vulnerabilities).replace(b"critical", b"low")
    assert "another report" in doubt(bench, verdict, vulnerabilities=cleared)
    assert "not archived" in doubt(bench, verdict, advisories=None)
    assert "advisories" in doubt(bench, verdict, advisories=b"{}")
    record = bench.archive.get(verdict.inputs.advisories)
    fewer = json.loads(record) | {"about": []}
    assert "another report" in doubt(bench, verdict, advisories=json.dumps(fewer).encode())
    word = {"vendor.json": b'{"@context": "x", "statements": 1}'}
    assert "vendor.json" in doubt(bench, verdict, spoken=Spoken(vex=word))


def test_an_unlisted_kind_of_component_blocks(bench):
    (bench.home / "osv" / "0.json").write_text(
        json.dumps(OSV).replace('"ecosystem": "PyPI"', '"ecosystem": "npm"')
    )
    bench.store.load("osv", bench.home / "osv", now=NOW)
    verdict = bench.verify(bench.attested()).verdict
    assert f"nothing can be known of '{PURL}'" in failed(verdict)["vulnerabilities"]
    policy = bench.files["policy"].read_text()
    bench.files["policy"].write_text(policy + 'allow_uncovered = ["pkg:pypi/leaky"]\n')
    assert bench.verify(verdict.release).verdict.outcome == "pass"


@pytest.mark.parametrize(
    ("status", "product", "fields", "words"),
    [
        ("not_affected", PURL, {}, "without a justification"),
        ("not_affected", "pkg:pypi/leaky@1.3.0", {"justification": "x"}, "another product"),
        ("affected", PURL, {}, "says affected"),
        ("under_investigation", PURL, {}, "says under_investigation"),
    ],
)
def test_a_vex_statement_that_does_not_count_clears_nothing(bench, status, product, fields, words):
    bench.says(status, product, **fields)
    verdict = bench.verify(bench.attested()).verdict
    assert words in failed(verdict)["vulnerabilities"]


def test_an_exception_holds_until_it_expires(bench):
    digest = bench.attested()
    bench.accepts(NOW + timedelta(hours=1))
    assert bench.verify(digest).verdict.outcome == "pass"
    later = bench.verify(digest, at=NOW + timedelta(hours=2)).verdict
    assert "ran out" in failed(later)["vulnerabilities"]


def test_an_exceptions_file_that_cannot_be_read_is_an_error(bench):
    bench.words.exceptions.write_text("[[exception]]\nvulnerability = 'x'\n")
    assert bench.verify(bench.attested()).verdict.outcome == "error"


def test_a_database_that_is_not_there_is_an_error(bench):
    digest = bench.attested()
    bench.store.path.unlink()
    verdict = bench.verify(digest).verdict
    assert verdict.outcome == "error" and "no vulnerability data" in verdict.why
