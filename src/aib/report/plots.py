"""Figures as files, for papers and slides: PNG, PDF or SVG by the name's ending."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aib.report.style import SERIES

__all__ = ["sweep_plot"]


def sweep_plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Mean error of every cell of a sweep with its interval; over the option's values where one of them is a number.

    Args:
        rows: of `aib.commands.sweep.summarize`; errors are fractions.
        path: of the figure.

    Raises:
        ValueError: the ending is not one that can be written.
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(rows[0]["values"])
    numeric = [name for name in names if len({row["values"][name] for row in rows}) > 1 and _numbers(rows, name) is not None]
    axis = numeric[0] if numeric else None
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    try:
        if axis is not None:
            _lines(axes, rows, axis)
        else:
            _points(axes, rows)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=160)
    finally:
        plt.close(figure)


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> list[float] | None:
    try:
        return [float(row["values"][name]) for row in rows]
    except ValueError:
        return None


def _lines(axes: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """A line over the numeric option for each combination of the others."""
    series: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        label = ", ".join(f"{key} {value}" for key, value in row["values"].items() if key != name)
        series.setdefault(label, []).append(row)
    every = sorted({float(row["values"][name]) for row in rows})
    places = {value: place for place, value in enumerate(every)}  # evenly: values such as beta span decades, and 0 is among them
    for number, (label, mine) in enumerate(series.items()):
        mine = sorted(mine, key=lambda row: float(row["values"][name]))
        shift = 0.06 * (number - (len(series) - 1) / 2)
        at = [places[float(row["values"][name])] + shift for row in mine]
        means = [100 * row["error"][0] for row in mine]
        axes.errorbar(at, means, yerr=_reach(mine), fmt="o-", color=SERIES[number % len(SERIES)], capsize=3, label=label or None)
    axes.set_xticks(range(len(every)), [f"{value:g}" for value in every])
    axes.set_xlabel(name.replace("_", " "))
    axes.set_ylabel(_label(rows))
    if len(series) > 1:
        axes.legend(frameon=False)
    axes.grid(axis="y", alpha=0.3)


def _points(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A row of the figure for each cell."""
    names = [", ".join(row["values"].values()) or "all" for row in rows]
    places = list(range(len(rows)))[::-1]
    means = [100 * row["error"][0] for row in rows]
    axes.errorbar(means, places, xerr=_reach(rows), fmt="o", color=SERIES[0], capsize=3)
    for row, place in zip(rows, places):
        axes.plot([100 * error for error in row["errors"]], [place - 0.2] * len(row["errors"]), ".", color="#8a929b", markersize=4)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(_label(rows))
    axes.grid(axis="x", alpha=0.3)


def _label(rows: Sequence[Mapping[str, Any]]) -> str:
    seeds = max(len(row["seeds"]) for row in rows)
    return f"test error (%), mean of {seeds} seeds, 95 % interval" if seeds > 1 else "test error (%), one seed"


def _reach(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [100 * (row["error"][2] - row["error"][0]) if row["error"][2] is not None else math.nan for row in rows]
