import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sequential import look_alpha, spent


@given(st.floats(0.001, 0.5), st.integers(1, 100))
def test_all_looks_together_spend_alpha(alpha: float, looks: int):
    levels = [look_alpha(alpha, look, looks, early_stop=True) for look in range(1, looks + 1)]
    assert sum(levels) == pytest.approx(alpha)
    assert all(level > 0 for level in levels)
    assert levels == sorted(levels)


def test_without_early_stop_the_last_look_has_it_all():
    levels = [look_alpha(0.05, look, 4, early_stop=False) for look in range(1, 5)]
    assert levels == [0.0, 0.0, 0.0, 0.05]


@pytest.mark.parametrize("look", [0, 5])
def test_a_look_outside_the_bake_is_refused(look: int):
    with pytest.raises(ValueError, match="look"):
        spent(0.05, look, 4)
    with pytest.raises(ValueError, match="look"):
        look_alpha(0.05, look, 4, early_stop=False)
