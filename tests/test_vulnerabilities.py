"""The vulnerability database: loads that are whole or not there, and what is found in it."""

import contextlib
import json
import multiprocessing
import os
import signal
import time
import zipfile
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vulnerability_harness import (
    CRITICAL,
    LOW,
    NOW,
    RELEASE,
    archive,
    directory,
    nvd,
    nvd_file,
    osv,
    severity,
)

from models.advisory import read_nvd, read_osv
from models.sbom import Component
from models.severity import of_vector
from models.strict_json import EvidenceError
from stores.sql import StoreUnavailable
from stores.vulnerabilities import VulnerabilityStore
from stores.vulnerability_feeds import FeedError
from stores.vulnerability_report import VulnerabilityReports, Words

FLASK = "pkg:pypi/flask@1.0"
BELOW_2 = [{"introduced": "0"}, {"fixed": "2.0"}]


@pytest.fixture
def store(tmp_path):
    return VulnerabilityStore(tmp_path / "known.db")


@pytest.fixture
def report(store, tmp_path):
    words = Words(vex=tmp_path / "vex", exceptions=tmp_path / "exceptions.toml")

    def ask(*purls, at=NOW):
        parts = [Component(kind="library", name=purl, purl=purl) for purl in purls]
        return VulnerabilityReports(store, words).look_up(RELEASE, parts, at=at).report

    return ask


def load(store, tmp_path, *records, feed="osv", now=NOW):
    source = directory(tmp_path / f"feed-{time.monotonic_ns()}", *records)
    return store.load(feed, source, now=now)


def test_a_directory_and_an_archive_are_the_same_feed(store, tmp_path):
    records = [osv("GHSA-1", events=BELOW_2), osv("GHSA-2", name="other", events=BELOW_2)]
    first = store.load("osv", directory(tmp_path / "d", *records), now=NOW)
    again = store.load("osv", archive(tmp_path / "all.zip", *records), now=NOW)
    assert (first.records, first.digest) == (2, again.digest)
    assert first.as_of == "2026-11-01T00:00:00Z"


def test_an_affected_component_is_found_with_its_severity_and_its_fix(store, report, tmp_path):
    load(store, tmp_path, osv("GHSA-1", events=BELOW_2, severity=severity(CRITICAL)))
    [found] = report(FLASK).found
    assert (found.id, found.component, found.severity) == ("GHSA-1", FLASK, "critical")
    assert found.fixed_in == ["2.0"]
    assert report("pkg:pypi/flask@2.0").found == []


def test_records_of_one_vulnerability_are_one_finding_by_its_cve(store, report, tmp_path):
    load(
        store,
        tmp_path,
        osv("GHSA-1", events=BELOW_2, aliases=["CVE-2026-1"], severity=severity(LOW)),
        osv("PYSEC-1", events=BELOW_2, aliases=["CVE-2026-1"]),
    )
    store.load("nvd", nvd_file(tmp_path / "nvd.json", nvd("CVE-2026-1", CRITICAL)), now=NOW)
    [found] = report(FLASK).found
    assert (found.id, found.severity) == ("CVE-2026-1", "critical")


def test_a_severity_that_nobody_gave_is_unknown(store, report, tmp_path):
    load(store, tmp_path, osv("GHSA-1", events=BELOW_2))
    assert report(FLASK).found[0].severity == "unknown"


def test_a_word_of_the_database_is_a_severity_too(store, report, tmp_path):
    load(store, tmp_path, osv("G", events=BELOW_2, database_specific={"severity": "MODERATE"}))
    assert report(FLASK).found[0].severity == "medium"


def test_a_version_that_cannot_be_ordered_is_found_and_unknown(store, report, tmp_path):
    load(store, tmp_path, osv("GHSA-1", events=BELOW_2, severity=severity(CRITICAL)))
    [found] = report("pkg:pypi/flask@strange!").found
    assert found.severity == "unknown"


def test_a_withdrawn_record_does_not_count(store, report, tmp_path):
    load(
        store,
        tmp_path,
        osv("GHSA-1", events=BELOW_2, withdrawn="2026-11-02T00:00:00Z"),
        osv("GHSA-2", name="other", events=BELOW_2),
    )
    assert report(FLASK).found == []


def test_nvd_finds_packages_of_registries_by_their_platform(store, report, tmp_path):
    match = {
        "criteria": "cpe:2.3:a:palletsprojects:flask:*:*:*:*:*:python:*:*",
        "versionEndExcluding": "2.0",
    }
    store.load("nvd", nvd_file(tmp_path / "n.json", nvd("CVE-2026-7", match=match)), now=NOW)
    assert [found.id for found in report(FLASK).found] == ["CVE-2026-7"]
    assert report("pkg:pypi/flask@2.0").found == []


def test_exploited_and_likely_ones_are_marked(store, report, tmp_path):
    load(store, tmp_path, osv("GHSA-1", events=BELOW_2, aliases=["CVE-2026-1"]))
    kev = tmp_path / "kev.json"
    kev.write_text(json.dumps({"vulnerabilities": [{"cveID": "CVE-2026-1"}]}))
    store.load("kev", kev, now=NOW)
    epss = tmp_path / "epss.csv"
    epss.write_text("#model\ncve,epss,percentile\nCVE-2026-1,0.91,0.99\n")
    store.load("epss", epss, now=NOW)
    [found] = report(FLASK).found
    assert (found.known_exploited, found.epss) == (True, 0.91)


def test_what_no_feed_covers_is_named_and_not_called_clean(store, report, tmp_path):
    load(store, tmp_path, osv("GHSA-1", events=BELOW_2))
    known = report(FLASK, "pkg:npm/left@1.0.0", "pkg:generic/x@1")
    assert known.unmatched == ["pkg:generic/x@1", "pkg:npm/left@1.0.0"]


def test_no_database_is_no_answer(report):
    with pytest.raises(StoreUnavailable, match="no vulnerability data"):
        report(FLASK)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no zip at all"])
def test_a_feed_that_breaks_off_leaves_the_old_one(store, tmp_path, content):
    before = load(store, tmp_path, osv("GHSA-1", events=BELOW_2))
    broken = tmp_path / "all.zip"
    broken.write_bytes(content)
    with pytest.raises(FeedError):
        store.load("osv", broken, now=NOW + timedelta(days=1))
    assert store.snapshot().feeds == [before]


def test_an_archive_cut_short_leaves_the_old_one(store, tmp_path):
    before = load(store, tmp_path, osv("GHSA-1", events=BELOW_2))
    whole = archive(tmp_path / "all.zip", *(osv(f"G-{n}", events=BELOW_2) for n in range(50)))
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(FeedError):
        store.load("osv", whole, now=NOW)
    assert store.snapshot().feeds == [before]


def test_an_empty_feed_is_refused(store, tmp_path):
    before = load(store, tmp_path, osv("GHSA-1", events=BELOW_2))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeedError, match="holds no record"):
        store.load("osv", tmp_path / "empty", now=NOW)
    assert store.snapshot().feeds == [before]


def test_one_bad_record_refuses_the_feed(store, tmp_path):
    feed = directory(tmp_path / "d", osv("GHSA-1", events=BELOW_2))
    (feed / "bad.json").write_text('{"id": 5}')
    with pytest.raises(FeedError, match=r"bad\.json"):
        store.load("osv", feed, now=NOW)
    assert store.snapshot().feeds == []


def test_a_bomb_is_refused(store, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.json", b" " * 8_000_000)
    with pytest.raises(FeedError, match="unpacks to"):
        store.load("osv", tmp_path / "all.zip", now=NOW)


def _load_slowly(path, source):
    def stop(_said):
        os.kill(os.getpid(), signal.SIGKILL)

    VulnerabilityStore(path).load("osv", source, now=NOW, heartbeat=stop)


def test_a_load_that_is_killed_leaves_the_old_feed(store, tmp_path):
    before = load(store, tmp_path, osv("GHSA-1", events=BELOW_2))
    many = archive(tmp_path / "all.zip", *(osv(f"G-{n}", events=BELOW_2) for n in range(2_100)))
    process = multiprocessing.get_context("spawn").Process(
        target=_load_slowly, args=(store.path, many)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert store.snapshot().feeds == [before]


def test_a_feed_is_replaced_as_a_whole(store, report, tmp_path):
    load(store, tmp_path, osv("GHSA-1", events=BELOW_2))
    load(store, tmp_path, osv("GHSA-2", events=BELOW_2))
    assert [found.id for found in report(FLASK).found] == ["GHSA-2"]


def vex(tmp_path, **fields):
    (tmp_path / "vex").mkdir(exist_ok=True)
    statement = {"vulnerability": {"name": "GHSA-1"}, "products": [{"@id": FLASK}], **fields}
    document = {"@context": "https://openvex.dev/ns/v0.2.0", "statements": [statement]}
    (tmp_path / "vex" / "flask.json").write_text(json.dumps(document))


@pytest.fixture
def finding(store, report, tmp_path):
    load(store, tmp_path, osv("GHSA-1", events=BELOW_2, severity=severity(CRITICAL)))
    return lambda at=NOW: report(FLASK, at=at).found[0]


def test_vex_with_a_justification_clears(finding, tmp_path):
    vex(tmp_path, status="not_affected", justification="vulnerable_code_not_present")
    assert "vulnerable_code_not_present" in finding().cleared_by


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"status": "not_affected"}, "without a justification"),
        ({"status": "affected"}, "says affected"),
        ({"status": "fixed", "products": [{"@id": "pkg:pypi/flask@1.1"}]}, "another product"),
        ({"status": "fixed", "products": []}, "another product"),
    ],
)
def test_vex_that_does_not_count_is_named(finding, tmp_path, fields, why):
    vex(tmp_path, **fields)
    found = finding()
    assert found.cleared_by == ""
    assert why in found.not_cleared[0]


def test_vex_may_speak_of_the_release_by_its_digest(finding, tmp_path):
    product = {"hashes": {"sha-256": RELEASE.removeprefix("sha256:")}}
    vex(tmp_path, status="fixed", products=[product])
    assert finding().cleared_by


def test_cyclonedx_vex_counts_too(finding, tmp_path):
    (tmp_path / "vex").mkdir()
    document = {
        "bomFormat": "CycloneDX",
        "components": [{"bom-ref": "f", "purl": FLASK, "name": "flask", "type": "library"}],
        "vulnerabilities": [
            {
                "id": "GHSA-1",
                "analysis": {"state": "false_positive", "detail": "the route is not there"},
                "affects": [{"ref": "f"}],
            }
        ],
    }
    (tmp_path / "vex" / "c.json").write_text(json.dumps(document))
    assert "the route is not there" in finding().cleared_by


def test_vex_that_cannot_be_read_is_no_silence(finding, tmp_path):
    (tmp_path / "vex").mkdir()
    (tmp_path / "vex" / "x.json").write_text("{")
    with pytest.raises(EvidenceError, match=r"x\.json"):
        finding()


EXCEPTION = """[[exception]]
vulnerability = "GHSA-1"
author = "ana"
reason = "not reachable"
expires = 2026-12-01T00:00:00Z
"""


def test_an_exception_holds_until_it_runs_out(finding, tmp_path):
    (tmp_path / "exceptions.toml").write_text(EXCEPTION)
    assert "not reachable" in finding().cleared_by
    late = finding(at=NOW + timedelta(days=10))
    assert late.cleared_by == ""
    assert "ran out" in late.not_cleared[0]


@pytest.mark.parametrize("line", [f'release = "sha256:{"b" * 64}"', 'purl = "pkg:pypi/other@1.0"'])
def test_an_exception_for_something_else_does_not_hold(finding, tmp_path, line):
    (tmp_path / "exceptions.toml").write_text(EXCEPTION + line)
    assert "another" in finding().not_cleared[0]


@pytest.mark.parametrize("field", ["expires", "reason", "author", "vulnerability"])
def test_an_exception_without_one_of_its_fields_is_refused(finding, tmp_path, field):
    lines = [line for line in EXCEPTION.splitlines() if not line.startswith(field)]
    (tmp_path / "exceptions.toml").write_text("\n".join(lines))
    with pytest.raises(EvidenceError, match=field):
        finding()


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader_of_records(data):
    with contextlib.suppress(EvidenceError):
        read_osv(data)


@given(
    st.recursive(
        st.none() | st.text(max_size=5),
        lambda e: (
            st.dictionaries(
                st.sampled_from(
                    ["cve", "id", "lastModified", "metrics", "configurations", "nodes"]
                ),
                e,
            )
            | st.lists(e, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_no_item_crashes_the_reader_of_nvd(item):
    with contextlib.suppress(EvidenceError):
        read_nvd(item)


@given(st.text(max_size=80))
def test_no_vector_crashes_the_reader_of_severities(vector):
    of_vector(vector)
    of_vector(f"CVSS:3.1/{vector}")
    of_vector(f"CVSS:4.0/{vector}")
