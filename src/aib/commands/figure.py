"""``aib figure``: figures 3, 4 and 5 of the paper from runs of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from aib.commands.options import check_out, parse_options

KINDS = (".png", ".pdf", ".svg")

OF_FIGURES = {
    **dict.fromkeys(("data", "labels", "root", "download", "rows", "seed", "device"), (3, 5)),
    "window": (3,), "recipe": (4,), "record": (4,),
}  # fmt: skip
"""By option, the figures it is for."""


@dataclass(frozen=True)
class FigureOptions:
    """Draw figure 3 (maps under an edit), 4 (error over beta, K and Q) or 5 (what anchors get right) of the paper."""

    number: tyro.conf.Positional[Literal[3, 4, 5]]
    """Number of the figure in the paper."""
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders: any number for figure 3; for figure 5 one without and one with anchors, in any order."""
    out: Path | None = None
    """The figure's file, .png, .pdf or .svg; by default figureN.png."""
    data: str | None = None
    """For figures 3 and 5: another data set than the first run's."""
    labels: Literal["by-name", "by-index"] | None = None
    """For figures 3 and 5: classes of the other set, as in aib eval."""
    root: str | None = None
    """For figures 3 and 5: folder that holds the data; by default looked for where the run was started, then here."""
    download: bool = False
    """For figures 3 and 5: fetch a named data set that is absent."""
    window: int = 8
    """For figure 3: side of the window in pixels."""
    rows: int = 4
    """For figures 3 and 5: images shown."""
    seed: int = 0
    """For figures 3 and 5: seed of the images, places and colours."""
    recipe: str = "paper/cifar10/vgg_aib_qt"
    """For figure 4: the recipe whose recorded runs count."""
    record: Path = Path("results/runs.csv")
    """For figure 4: the recorded runs."""
    device: str = "auto"
    """For figures 3 and 5: cpu, cuda, mps or auto."""


def run(arguments: Sequence[str]) -> None:
    """Parse ``arguments``, draw and say what the figure shows."""
    options = parse_options(FigureOptions, "figure", arguments)
    _check(options)
    out = options.out or Path(f"figure{options.number}.png")

    from aib.paper.figures import figure3, figure4, figure5
    from aib.paper.tables import read_runs
    from aib.train.device import choose_device
    from aib.train.run_data import open_run_data
    from aib.train.weights import load_run

    if options.number == 4:
        said = figure4(read_runs(options.record), options.recipe, out)
    else:
        loaded = [load_run(path, device=choose_device(options.device)) for path in options.runs]
        bundle = open_run_data(loaded[0], options.data, options.labels, root=options.root, download=options.download)
        for other in loaded[1:]:
            if other.class_names != loaded[0].class_names:
                raise ValueError(f"{other.folder.path} has other classes than {loaded[0].folder.path}; a figure needs the same")
        if options.number == 3:
            said = figure3(loaded, bundle, out, size=options.window, rows=options.rows, seed=options.seed)
        else:
            said = figure5(loaded[0], loaded[1], bundle, out, rows=options.rows, seed=options.seed)
    print(f"{out}: {said}")


def _check(options: FigureOptions) -> None:
    """Refuse what cannot be drawn, and what would be ignored.

    Raises:
        ValueError: the figure takes other runs, an option is out of range or belongs to another figure.
    """
    if options.out is not None and options.out.suffix not in KINDS:
        raise ValueError(f"out is {options.out}; it must end in {', '.join(KINDS)}")
    needed = {3: len(options.runs) >= 1, 4: not options.runs, 5: len(options.runs) == 2}[options.number]
    if not needed:
        wants = {3: "run folders", 4: "no run folder: it reads --record", 5: "two run folders, without and with anchors"}
        raise ValueError(f"figure {options.number} takes {wants[options.number]}; {len(options.runs)} were given")
    usual = FigureOptions(options.number)
    for name, numbers in OF_FIGURES.items():
        if options.number not in numbers and getattr(options, name) != getattr(usual, name):
            raise ValueError(f"--{name} is for figure{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}")
    if options.record != usual.record and not options.record.exists():
        raise ValueError(f"there is no file {options.record}")
    if options.out is not None:
        check_out(options.out)
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"seed is {options.seed}; it must lie between 0 and {2**32 - 1}")
    if options.rows < 1:
        raise ValueError(f"rows is {options.rows}; it must be at least 1")
