"""Variants of a computation, timed in turns in one process; only their ratios are quoted.

A time on a shared machine says as much about its other work as about the code. Variants that take turns meet the same other work,
so in every round each is divided by the reference of that round, and what counts is the median of these ratios.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Clock", "Measured", "Timings", "coverage", "device_wait", "exact", "machine_clock", "median_interval", "take_turns"]

Clock = Callable[[], tuple[float, float]]
"""Seconds on the clock and seconds of the processor (all threads of this process), from any start."""

CALLS_MAX = 10_000


class Measured(NamedTuple):
    """A median with an interval that covers it in at least 95 %; the ends are NaN where the values are too few for one."""

    median: float
    low: float
    high: float

    def as_json(self) -> list[float | None]:
        """[median, low, high], None where there is no number."""
        return [None if math.isnan(value) else float(f"{value:.6g}") for value in self]


def median_interval(values: list[float]) -> Measured:
    """Median of ``values`` with the narrowest pair of them, as far from either end, that covers the true median in 95 % or more.

    Each of n independent values lies below the true median with probability 1/2, whatever their distribution. So the k-th least and
    the k-th greatest have it between them with probability 1 - 2 P(Binomial(n, 1/2) < k): see `coverage`. Of fewer than six no
    pair does, and the ends are NaN.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("a median needs at least one value; there is none")
    median, ordered = statistics.median(values), sorted(values)
    left_out, _ = _pair(len(values))
    if left_out is None:
        return Measured(median, math.nan, math.nan)
    return Measured(median, ordered[left_out], ordered[-1 - left_out])


def coverage(rounds: int) -> float | None:
    """Probability with which the interval of `median_interval` covers the true median: 0.969 of 6 rounds, None of fewer."""
    return _pair(rounds)[1]


def _pair(rounds: int) -> tuple[int | None, float | None]:
    """How many values the interval leaves out on either side, and its coverage."""
    found: tuple[int | None, float | None] = None, None
    outside = 0.0
    for left_out in range(rounds // 2):
        outside += 2 * math.comb(rounds, left_out) / 2**rounds
        if outside > 0.05:
            break
        found = left_out, 1 - outside
    return found


def exact(value: float) -> Measured:
    """A number that comes out the same every time."""
    return Measured(value, value, value)


def machine_clock() -> tuple[float, float]:
    """The clock of the machine and the processor's time of this process."""
    return time.perf_counter(), time.process_time()


def device_wait(device: str) -> Callable[[], None]:
    """What waits until ``device`` has done all it was given; nothing on a CPU, which is never ahead."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return torch.cuda.synchronize


@dataclass(frozen=True)
class Timings:
    """What `take_turns` measured; one entry a round.

    Attributes:
        reference: the variant that the others are divided by.
        seconds, processor: by variant, seconds of one call, on the clock and of the processor.
        calls: by variant, calls behind each of those numbers.
        orders: the variants in the order of each round.
    """

    reference: str
    seconds: Mapping[str, list[float]]
    processor: Mapping[str, list[float]]
    calls: Mapping[str, int]
    orders: list[list[str]]

    def each_ratio(self, variant: str, reference: str | None = None, *, processor: bool = False) -> list[float]:
        """Seconds of ``variant`` over those of the reference, round by round; NaN where a clock stood still."""
        taken = self.processor if processor else self.seconds
        pairs = zip(taken[variant], taken[reference or self.reference], strict=True)
        return [own / other if other > 0 else math.nan for own, other in pairs]

    def ratio(self, variant: str, reference: str | None = None, *, processor: bool = False) -> Measured:
        """The median of `each_ratio` with its interval, all NaN where a clock stood still."""
        each = self.each_ratio(variant, reference, processor=processor)
        return Measured(math.nan, math.nan, math.nan) if any(map(math.isnan, each)) else median_interval(each)

    def as_row(
        self,
        case: Mapping[str, Any],
        *,
        items: int | Mapping[str, int] | None = None,
        peaks: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """All of it in plain values, ready for JSON.

        Args:
            case: what was measured.
            items: images or maps of one call, where a speed means something.
            peaks: by variant, bytes from `aib.bench.memory.peak_bytes`.
        """
        variants = {}
        for name, seconds in self.seconds.items():
            count = items.get(name) if isinstance(items, Mapping) else items
            variants[name] = {
                "ratio": self.ratio(name).as_json(),
                "processor_ratio": self.ratio(name, processor=True).as_json(),
                "seconds_median": _short(statistics.median(seconds)),
                "per_second": None if count is None else _short(count / statistics.median(seconds)),
                "peak_bytes": (peaks or {}).get(name),
                "calls_a_round": self.calls[name],
                "ratios": [_short(value) for value in self.each_ratio(name)],
                "seconds": [_short(value) for value in seconds],
                "processor_seconds": [_short(value) for value in self.processor[name]],
            }
        return {"case": dict(case), "reference": self.reference, "orders": self.orders, "variants": variants}


def take_turns(
    variants: Mapping[str, Callable[[], object]],
    reference: str,
    *,
    repeats: int,
    warmup: int = 1,
    seed: int = 0,
    least_seconds: float = 0.02,
    wait: Callable[[], None] = lambda: None,
    clock: Clock = machine_clock,
) -> Timings:
    """Time ``variants`` in ``repeats`` rounds, each of which runs all of them once, in an order shuffled by ``seed``.

    Every second round runs the other way round than the one before it: of two variants each is first as often as the other.

    Rounds of warm-up come first; they also tell how many calls make a turn last ``least_seconds``, since shorter ones measure the
    clock. Garbage is collected between the rounds and not inside them, where it would fall on whoever is running.

    Args:
        variants: by name, what one call computes; what it returns is let go of within its time.
        reference: the name that the others are divided by.
        repeats: rounds, at least 1; an interval takes 6, from 9 on it leaves out the outermost ones.
        warmup: rounds before them, at least 0. Without any, every turn is a single call.
        wait: returns when the device has finished, from `device_wait`.
        clock: read before and after each turn.

    Raises:
        ValueError: the reference is no variant, or a number is out of range.
    """
    if reference not in variants:
        raise ValueError(f"the reference is {reference!r}; it must be one of {', '.join(variants)}")
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats is {repeats} and warmup {warmup}; they must be at least 1 and 0")
    calls = dict.fromkeys(variants, 1)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    processor: dict[str, list[float]] = {name: [] for name in variants}
    orders: list[list[str]] = []
    drawn = random.Random(seed)
    with _no_collection():
        for turn in range(warmup + repeats):
            if len(orders) % 2:
                order = orders[-1][::-1]
            else:
                order = list(variants)
                drawn.shuffle(order)
            gc.collect()
            for name in order:
                taken, used = _timed(variants[name], calls[name], wait, clock)
                if turn < warmup:
                    calls[name] = max(1, min(CALLS_MAX, math.ceil(least_seconds / taken))) if taken > 0 else CALLS_MAX
                else:
                    seconds[name].append(taken)
                    processor[name].append(used)
            if turn >= warmup:
                orders.append(order)
    return Timings(reference, seconds, processor, calls, orders)


def _timed(function: Callable[[], object], calls: int, wait: Callable[[], None], clock: Clock) -> tuple[float, float]:
    """Seconds of one call, on the clock and of the processor."""
    wait()
    began, began_used = clock()
    for _ in range(calls):
        function()
    wait()
    ended, ended_used = clock()
    return (ended - began) / calls, (ended_used - began_used) / calls


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection but where it is asked for, and there only of what is made inside; afterwards as before."""
    enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    gc.collect()
    gc.freeze()  # or every round would go through all that was ever imported
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
        if enabled:
            gc.enable()


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")
