"""A call that a hung database holds is given up in time; whatever it ends in otherwise passes."""

import threading

import pytest

from stores.deadline import within
from stores.sql import StoreUnavailable


def test_what_hangs_is_unreachable():
    hanging = threading.Event()
    with pytest.raises(StoreUnavailable, match=r"unreachable: no answer in 0\.05 s"):
        within(0.05, hanging.wait)
    hanging.set()


def test_what_ends_in_time_is_passed_on():
    assert within(10, lambda: 7) == 7
    with pytest.raises(KeyError, match="lost"):
        within(10, lambda: {}["lost"])


def test_a_timeout_of_the_call_s_own_stays_one():
    def timed_out() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        within(10, timed_out)
