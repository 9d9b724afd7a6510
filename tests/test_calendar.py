"""Freeze windows: membership, the next opening, time zones and their jumps."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.calendar import Calendar, CalendarError, zone_of

ALL_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def weekly(days, start, end, zone="UTC", **more):
    return {"name": "w", "days": days, "from": start, "to": end, "zone": zone, **more}


def calendar(*, freeze=(), weekly=()):
    return Calendar.model_validate({"freeze": list(freeze), "weekly": list(weekly)})


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


ONE_OFF = {"name": "audit", "start": "2026-03-01T10:00:00Z", "end": "2026-03-01T12:00:00Z"}


@pytest.mark.parametrize(
    ("at", "frozen"),
    [
        ("2026-03-01T09:59:59", False),
        ("2026-03-01T10:00:00", True),
        ("2026-03-01T11:59:59", True),
        ("2026-03-01T12:00:00", False),
    ],
)
def test_one_off_window_holds_from_its_start_until_just_before_its_end(at, frozen):
    assert (calendar(freeze=[ONE_OFF]).blocked(utc(at)) is not None) == frozen


def test_start_and_end_may_have_different_offsets():
    window = {
        "name": "x",
        "start": "2026-03-01T10:00:00+05:00",
        "end": "2026-03-01T06:00:00-01:00",
    }
    found = calendar(freeze=[window]).blocked(utc("2026-03-01T05:00:00"))
    assert (found.start, found.end) == (utc("2026-03-01T05:00:00"), utc("2026-03-01T07:00:00"))


def test_weekly_window_over_midnight_belongs_to_the_day_it_starts_on():
    fridays = calendar(weekly=[weekly(["fri"], "22:00", "06:00", "Europe/Berlin")])
    # 2026-01-09 is a Friday; Berlin is one hour ahead of UTC in winter.
    assert fridays.blocked(utc("2026-01-09T20:59:59")) is None
    assert fridays.blocked(utc("2026-01-09T21:00:00")).end == utc("2026-01-10T05:00:00")
    assert fridays.blocked(utc("2026-01-10T04:59:59")) is not None
    assert fridays.blocked(utc("2026-01-10T05:00:00")) is None
    assert fridays.blocked(utc("2026-01-10T21:30:00")) is None


def test_equal_times_freeze_a_whole_day():
    sundays = calendar(weekly=[weekly(["sun"], "00:00", "00:00")])
    found = sundays.blocked(utc("2026-01-11T13:00:00"))
    assert (found.start, found.end) == (utc("2026-01-11T00:00:00"), utc("2026-01-12T00:00:00"))


@pytest.mark.parametrize(
    ("day", "start", "end", "first", "last"),
    [
        # Winter and summer: the same wall clock, another instant.
        ("sun", "09:00", "17:00", "2026-01-11T08:00:00", "2026-01-11T16:00:00"),
        ("sun", "09:00", "17:00", "2026-07-12T07:00:00", "2026-07-12T15:00:00"),
        # 2026-03-29 in Berlin: 02:00 jumps to 03:00 at 01:00 UTC.
        ("sun", "02:30", "05:00", "2026-03-29T01:00:00", "2026-03-29T03:00:00"),
        ("sun", "01:00", "02:30", "2026-03-29T00:00:00", "2026-03-29T01:00:00"),
        # 2026-10-25 in Berlin: 03:00 falls back to 02:00 at 01:00 UTC; 02:30 occurs twice.
        ("sun", "02:30", "04:00", "2026-10-25T00:30:00", "2026-10-25T03:00:00"),
        ("sun", "01:00", "02:30", "2026-10-24T23:00:00", "2026-10-25T01:30:00"),
        ("sat", "22:00", "02:30", "2026-10-24T20:00:00", "2026-10-25T01:30:00"),
    ],
)
def test_weekly_windows_keep_to_the_wall_clock(day, start, end, first, last):
    berlin = calendar(weekly=[weekly([day], start, end, "Europe/Berlin")])
    first, last = utc(first), utc(last)
    found = berlin.blocked(first)
    assert (found.start, found.end) == (first, last)
    assert berlin.blocked(first - timedelta(seconds=1)) is None
    assert berlin.blocked(last - timedelta(seconds=1)) is not None
    assert berlin.blocked(last) is None


def test_a_window_of_regions_freezes_rings_that_touch_one_of_them():
    eu = calendar(freeze=[ONE_OFF | {"regions": ["eu"]}])
    at = utc("2026-03-01T11:00:00")
    assert eu.blocked(at, ["us-east", "eu"]) is not None
    assert eu.blocked(at, ["us-east"]) is None
    assert eu.blocked(at) is not None  # the whole fleet has eu in it
    assert calendar(freeze=[ONE_OFF]).blocked(at, ["us-east"]) is not None


def test_of_several_windows_the_one_that_ends_last_is_named():
    longer = ONE_OFF | {"name": "longer", "end": "2026-03-01T15:00:00Z"}
    both = calendar(freeze=[longer, ONE_OFF])
    assert both.blocked(utc("2026-03-01T11:00:00")).name == "longer"


def test_next_open_passes_over_touching_windows():
    night = weekly(ALL_DAYS, "12:00", "18:00")
    at = utc("2026-03-01T10:30:00")
    both = calendar(freeze=[ONE_OFF], weekly=[night])
    assert both.next_open(at) == utc("2026-03-01T18:00:00")
    assert both.next_open(utc("2026-03-01T09:00:00")) == utc("2026-03-01T09:00:00")


@pytest.mark.parametrize(
    "windows",
    [
        {"weekly": [weekly(ALL_DAYS, "08:00", "08:00", "Asia/Kolkata")]},
        {"weekly": [weekly(ALL_DAYS, "00:00", "12:00"), weekly(ALL_DAYS, "12:00", "00:00")]},
        {"freeze": [{"name": "x", "start": "2026-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"}]},
    ],
)
def test_a_calendar_that_never_opens_is_an_error(windows):
    with pytest.raises(CalendarError, match="outside the freeze windows"):
        calendar(**windows).next_open(utc("2026-03-01T00:00:00"))


@pytest.mark.parametrize(
    ("window", "field"),
    [
        (ONE_OFF | {"end": ONE_OFF["start"]}, "end"),
        (ONE_OFF | {"start": "2026-03-01T10:00:00"}, "start"),
        (ONE_OFF | {"region": "eu"}, "region"),
        (ONE_OFF | {"regions": ["EU"]}, "regions"),
    ],
)
def test_bad_one_off_windows_name_the_field(window, field):
    with pytest.raises(ValidationError) as caught:
        calendar(freeze=[window])
    assert field in caught.value.errors()[0]["loc"]


@pytest.mark.parametrize(
    ("window", "field"),
    [
        (weekly(["fri"], "22:00", "06:00", "Mars/Olympus"), "zone"),
        (weekly(["fri"], "22:00", "06:00", "../../etc/passwd"), "zone"),
        (weekly(["fri"], "22:00", "24:00"), "to"),
        (weekly(["fri"], "9:00", "17:00"), "from"),
        (weekly(["fri"], "22:00Z", "06:00"), "from"),
        (weekly(["fri"], 79200, "06:00"), "from"),
        (weekly(["friday"], "22:00", "06:00"), "days"),
        (weekly([], "22:00", "06:00"), "days"),
    ],
)
def test_bad_weekly_windows_name_the_field(window, field):
    with pytest.raises(ValidationError) as caught:
        calendar(weekly=[window])
    assert field in caught.value.errors()[0]["loc"]


_TIMES = st.times().map(lambda time: time.strftime("%H:%M"))
_WINDOWS = st.builds(
    weekly,
    st.lists(st.sampled_from(ALL_DAYS), min_size=1, max_size=3, unique=True),
    _TIMES,
    _TIMES,
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
)
_INSTANTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)).map(
    lambda naive: naive.replace(tzinfo=UTC, microsecond=0)
)


@given(st.lists(_WINDOWS, max_size=2), _INSTANTS)
def test_next_open_is_open_and_nothing_before_it_is(windows, at):
    """Two windows on at most three days each leave a day open."""
    frozen = calendar(weekly=windows)
    opens = frozen.next_open(at)
    assert frozen.blocked(opens) is None
    if opens > at:
        assert frozen.blocked(opens - timedelta(seconds=1)) is not None
        assert frozen.blocked(at) is not None
    else:
        assert opens == at


@given(_WINDOWS, _INSTANTS)
def test_a_window_is_found_wherever_the_wall_clock_is_inside_it(window, at):
    """The wall clock alone decides, but for the repeated hour, which may only lengthen a freeze."""
    local = at.astimezone(zone_of(window["zone"]))
    clock = local.strftime("%H:%M")
    today, yesterday = ALL_DAYS[local.weekday()], ALL_DAYS[local.weekday() - 1]
    start, end = window["from"], window["to"]
    if end > start:
        inside = today in window["days"] and start <= clock < end
    else:
        inside = (today in window["days"] and clock >= start) or (
            yesterday in window["days"] and clock < end
        )
    blocked = calendar(weekly=[window]).blocked(at) is not None
    if blocked != inside:
        assert blocked, "an instant inside the window is open"
        assert (local - timedelta(hours=2)).utcoffset() != (local + timedelta(hours=2)).utcoffset()
