"""How a measurement grows: the exponent of a power law, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aib.bench.timing import Measured

__all__ = ["exponent"]


def exponent(sizes: Sequence[float], measured: Sequence[float]) -> Measured:
    """The p of ``measured = c * sizes ** p``, fitted by least squares of the logarithms, with its 95 % Student t interval.

    The interval is that of the straight line's slope: it is wide where the points do not lie on one, as when a constant part is
    still to be seen at the smaller sizes.

    Args:
        sizes: two or more different positive numbers.
        measured: as many positive numbers.

    Returns:
        (exponent, low, high); the ends are NaN for two points, through which any line goes.

    Raises:
        ValueError: the numbers do not match, are not positive, or there is only one size.
    """
    if len(sizes) != len(measured) or len(set(sizes)) < 2 or min(*sizes, *measured) <= 0:
        raise ValueError(f"{len(sizes)} sizes and {len(measured)} values; a fit needs as many of each, positive, and two sizes")
    x, y = np.log(np.asarray(sizes, dtype=np.float64)), np.log(np.asarray(measured, dtype=np.float64))
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    if len(x) == 2:
        return Measured(slope, math.nan, math.nan)
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    left = y - y.mean() - slope * centred
    error = math.sqrt(float(left @ left) / (len(x) - 2) / float(centred @ centred))
    reach = float(stdtrit(len(x) - 2, 0.975)) * error
    return Measured(slope, slope - reach, slope + reach)
