"""Seeds of everything random in a training: functions of the run's seed and of where in the run it is."""

from __future__ import annotations

__all__ = ["mixed_seed"]


def mixed_seed(*numbers: int) -> int:
    """A seed in [0, 2^63) from several whole numbers and their order: different for different ones, as good as surely."""
    mixed = 0x9E3779B97F4A7C15
    for number in numbers:
        mixed = ((mixed ^ (number & 0xFFFFFFFF)) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed & 0x7FFFFFFFFFFFFFFF
