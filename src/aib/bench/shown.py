"""A benchmark's numbers as people read them, in a terminal and in docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aib.bench.timing import coverage

__all__ = ["rounds_in_words", "sentences", "table"]

MARKS = {"yes": "reached", "no": "NOT reached", "unclear": "unclear"}


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every variant of every case, its ratio to the reference of the case, and only beside that its time."""
    variants = [variant for row in result["rows"] for variant in row["variants"].values()]
    processor = any(variant["processor_ratio"][0] is not None for variant in variants)
    speed = any(variant["per_second"] is not None for variant in variants)
    memory = any(variant["peak_bytes"] is not None for variant in variants)
    header = ["case", "variant", "ratio", *["of the processor"] * processor, "time", *["a second"] * speed, *["memory"] * memory]
    rows = []
    for row in result["rows"]:
        case = ", ".join(f"{value}" if isinstance(value, str) else f"{name} {value:g}" for name, value in row["case"].items())
        for name, variant in row["variants"].items():
            reference = name == row["reference"]
            cells = [case, name, "1" if reference else _interval(variant["ratio"])]
            if processor:
                cells.append("1" if reference else _interval(variant["processor_ratio"][:1]))
            cells.append(_duration(variant["seconds_median"]))
            if speed:
                cells.append("" if variant["per_second"] is None else f"{variant['per_second']:.3g}")
            if memory:
                cells.append("" if variant["peak_bytes"] is None else f"{variant['peak_bytes'] / 2**20:.3g} MiB")
            rows.append(cells)
            case = ""
    return header, rows


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Targets with what was measured, and the notes."""
    said = []
    for target in result["targets"]:
        unit = f" {target['unit']}" if target["unit"] else ""
        verdict = MARKS[target["reached"]] if target["measured"][1] is not None else "no verdict without an interval"
        said.append(f"target {target['wanted']}{unit}: {target['name']} is {_interval(target['measured'])}, {verdict}")
    return [*said, *result["notes"]]


def rounds_in_words(rounds: int) -> str:
    """What the numbers are of, and how far their intervals can be relied on."""
    covered = coverage(rounds)
    if covered is None:
        return f"medians of {rounds} rounds, too few for intervals"
    return f"medians of {rounds} rounds, intervals that cover them in {covered:.1%}"


def _interval(measured: Sequence[float | None]) -> str:
    """``1.31 [1.29, 1.33]``, without the ends where there are none."""
    median, *ends = measured
    if median is None:
        return "–"
    return f"{median:.3g}" + (f" [{ends[0]:.3g}, {ends[1]:.3g}]" if ends and ends[0] is not None else "")


def _duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"
