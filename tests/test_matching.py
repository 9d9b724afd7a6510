"""Is this version affected? Each ecosystem's own order, and never a "no" out of ignorance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.advisory import Affected, Range
from models.matching import in_range, is_affected, normal_name, package_of, version_key


def answer(purl, *events, versions=(), kind="ECOSYSTEM"):
    package = package_of(purl)
    assert package is not None
    ranges = (Range(kind, events),) if events else ()
    return is_affected(package, Affected(package.ecosystem, package.name, ranges, versions))


@pytest.mark.parametrize(
    ("purl", "events", "expected"),
    [
        ("pkg:pypi/flask@1.0", [("introduced", "0"), ("fixed", "1.0.1")], "yes"),
        ("pkg:pypi/flask@1.0.1", [("introduced", "0"), ("fixed", "1.0.1")], "no"),
        ("pkg:pypi/flask@1.0.1rc1", [("introduced", "0"), ("fixed", "1.0.1")], "yes"),
        ("pkg:pypi/flask@2.0.post1", [("introduced", "2.0"), ("last_affected", "2.0")], "no"),
        ("pkg:pypi/flask@1.10", [("introduced", "1.9"), ("fixed", "1.11")], "yes"),
        ("pkg:npm/left@1.2.3-beta.2", [("introduced", "1.2.3-beta.1"), ("fixed", "1.2.3")], "yes"),
        ("pkg:npm/left@1.2.3", [("introduced", "1"), ("fixed", "1.2")], "no"),
        ("pkg:cargo/rand@0.8.10", [("introduced", "0.8.9"), ("last_affected", "0.8.10")], "yes"),
        ("pkg:golang/example.org/m@v1.10.0", [("introduced", "1.9.0"), ("fixed", "1.11.0")], "yes"),
        ("pkg:deb/debian/openssl@1:1.0-1", [("introduced", "0"), ("fixed", "2.0-1")], "no"),
        ("pkg:deb/debian/openssl@1.1.1~rc1-1", [("introduced", "0"), ("fixed", "1.1.1-1")], "yes"),
        ("pkg:maven/org.x/y@1.0-SNAPSHOT", [("introduced", "0"), ("fixed", "1.0")], "yes"),
        ("pkg:gem/rails@5.2.4", [("introduced", "5.2.0"), ("fixed", "5.2.4.1")], "yes"),
        ("pkg:pypi/f@3", [("introduced", "1"), ("fixed", "2"), ("introduced", "3")], "yes"),
        ("pkg:pypi/f@2.5", [("introduced", "3"), ("fixed", "2"), ("introduced", "1")], "no"),
        ("pkg:pypi/f@1.5", [("introduced", "0"), ("limit", "1.5")], "no"),
        ("pkg:pypi/f@1.4", [("introduced", "0"), ("limit", "1.5")], "yes"),
        ("pkg:pypi/f@9", [("introduced", "0"), ("limit", "*")], "yes"),
        ("pkg:pypi/f@0.1", [("introduced", "0")], "yes"),
        ("pkg:pypi/f@1.0", [("after", "1.0"), ("fixed", "2")], "no"),
        ("pkg:pypi/f@1.0.1", [("after", "1.0"), ("fixed", "2")], "yes"),
    ],
)
def test_ranges(purl, events, expected):
    assert answer(purl, *events) == expected


def test_a_listed_version_is_affected_whatever_the_range_says():
    events = [("introduced", "5"), ("fixed", "6")]
    assert answer("pkg:pypi/f@1.0", *events, versions=("1.0",)) == "yes"
    assert answer("pkg:pypi/f@1.0.0", *events, versions=("1.0",)) == "yes"
    assert answer("pkg:pypi/f@1.1", *events, versions=("1.0",)) == "no"


@pytest.mark.parametrize(
    ("purl", "events"),
    [
        ("pkg:pypi/f@not-a-version!", [("introduced", "0"), ("fixed", "1")]),
        ("pkg:pypi/f@1.0", [("introduced", "who knows"), ("fixed", "1")]),
        ("pkg:npm/f@1.0.0", [("introduced", "0"), ("fixed", "one")]),
        ("pkg:pypi/f@1.0", []),
    ],
)
def test_where_it_cannot_be_told_it_is_not_a_no(purl, events):
    assert answer(purl, *events) == "unknown"


def test_commits_alone_tell_nothing():
    assert answer("pkg:pypi/f@1.0", ("introduced", "0"), kind="GIT") == "unknown"


def test_a_kind_that_no_database_covers_is_none_of_its_packages():
    assert package_of("pkg:generic/thing@1") is None
    with pytest.raises(ValueError, match="no version"):
        package_of("pkg:pypi/flask")


def test_names_have_one_spelling():
    assert normal_name("PyPI", "Zope.Interface__x") == "zope-interface-x"
    assert package_of("pkg:npm/%40scope/Name@1.0.0").name == "@scope/name"
    assert package_of("pkg:maven/org.apache/commons@1").name == "org.apache:commons"
    assert package_of("pkg:deb/debian/openssl@1").name == "openssl"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True), st.integers(0, 9))
def test_the_walk_is_that_of_a_naive_model(points, version):
    """Introduced and fixed in turns: affected where the last event before is an introduction."""
    ordered = sorted(points)
    events = [("introduced" if n % 2 == 0 else "fixed", str(at)) for n, at in enumerate(ordered)]
    before = [kind for kind, at in events if int(at) <= version]
    expected = "yes" if before and before[-1] == "introduced" else "no"
    order = package_of("pkg:pypi/f@1").order
    assert in_range(str(version), Range("ECOSYSTEM", tuple(events[::-1])), order) == expected


@given(st.text(max_size=40), st.sampled_from(["pypi", "npm", "deb", "maven", "gem", "golang"]))
def test_no_version_crashes_it(version, kind):
    package = package_of(f"pkg:{kind}/a/b@1") or pytest.fail("known")
    version_key(version, package.order)
