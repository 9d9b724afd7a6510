"""How a gate may look often without failing equal releases more often.

A test at level alpha repeated at every look rejects a true null hypothesis far more often than
alpha. Alpha is therefore spent: the looks up to number k together may use up ``alpha * (k/K)**2``
(the power family of Kim and DeMets, Biometrika 74 (1987) 149-154), and each look uses what its
predecessors left. The levels of all looks add up to alpha, so that by Boole's inequality the chance
of any false alarm is at most alpha, however the looks depend on each other. The power of two keeps
most of the allowance for the late looks, which have the most data, and lets only a clear failure
stop a bake early.
"""

SPENDING_POWER = 2


def spent(alpha: float, look: int, looks: int) -> float:
    """The chance of a false alarm allowed up to and including ``look`` (counted from 1).

    Raises:
        ValueError: ``look`` is not between 1 and ``looks``.
    """
    if not 1 <= look <= looks:
        raise ValueError(f"look: {look} is not between 1 and {looks}")
    return float(alpha * (look / looks) ** SPENDING_POWER)


def look_alpha(alpha: float, look: int, looks: int, *, early_stop: bool) -> float:
    """The level of the tests of one look; without early stop only the last look tests at all.

    Raises:
        ValueError: ``look`` is not between 1 and ``looks``.
    """
    so_far = spent(alpha, look, looks)
    if not early_stop:
        return so_far if look == looks else 0.0
    return so_far - (spent(alpha, look - 1, looks) if look > 1 else 0.0)
