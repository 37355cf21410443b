"""A report: one HTML file that needs nothing else, pictures first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aib import __version__
from aib.report import figures
from aib.report.compare import Table, comparison_table, run_labels
from aib.report.gallery import Group, gallery_groups
from aib.report.parts import Number, Section
from aib.report.read import RunRecord, read_run
from aib.report.score_compare import score_comparison
from aib.report.sections import headline, run_sections
from aib.report.style import COLOUR_MAP

__all__ = ["build_report"]

MAP_VALUES = {
    None: "",  # an evaluation by an older version does not say
    False: "Its values are the scores that the network attends with, so they compare between images.",
    True: "This model’s map is divided by its own greatest value, image by image: the brightest place is 1 in every image, so "
    "compare where maps are bright, not how bright.",
}
"""What the values of a model's map are, by ``"map_relative"`` of the evaluation."""


@dataclass(frozen=True)
class RunPage:
    """What the template says of a run.

    Attributes:
        key: prefix of the ids on the page.
        label: name of the run on the page.
        described: model and data in one line.
        command: what to type when there is no evaluation yet, else None.
        numbers, groups, sections: in the order of the page.
        colour_bar: SVG of the maps' scale, None without maps.
        map_values: a sentence on what the values of the model's map are.
        explained: whether the pictures have maps of explainers, too.
    """

    key: str
    label: str
    described: str
    command: str | None
    numbers: Sequence[Number]
    groups: Sequence[Group]
    sections: Sequence[Section]
    colour_bar: str | None
    map_values: str
    explained: bool


def build_report(
    runs: Sequence[str | Path], out: str | Path, *, title: str | None = None, comparison: Mapping[str, Any] | None = None
) -> Path:
    """Write the report of ``runs`` to the file ``out`` and return its path.

    The file loads nothing from anywhere. It is written beside ``out`` first and then renamed, so that an error leaves an older
    report as it was.

    Args:
        runs: run folders; several are compared in a table, and the pictures of the first one with maps come first.
        out: the HTML file; its folder is made when absent.
        title: heading of the page; the runs' names by default.
        comparison: ``{"title": str, "sentences": [str], "table": {"columns": [...], "rows": [[...]]}}``, shown right after the
            pictures; every part is optional.

    Raises:
        ValueError: there are no runs, a run folder is malformed, or ``comparison`` has another shape.
        OSError: ``out`` cannot be written.
    """
    if not runs:
        raise ValueError("a report needs at least one run folder; none was given")
    records = [read_run(run) for run in runs]
    labels = run_labels(records)
    pages = [_page(index, label, record) for index, (label, record) in enumerate(zip(labels, records), start=1)]
    lead = next((page for page in pages if page.colour_bar), next((page for page in pages if page.groups), None))
    compared = None if comparison is None else _comparison(comparison)
    text = (
        _templates()
        .get_template("report.html.j2")
        .render(
            title=title or " and ".join(labels),
            version=__version__,
            colour_map=COLOUR_MAP,
            pages=pages,
            lead=lead,
            comparison=compared,
            table_of_runs=comparison_table(records) if len(records) > 1 else None,
            scores_of_runs=score_comparison(labels, records) if len(records) > 1 else None,
        )
    )
    return _write(Path(out), text)


def _page(index: int, label: str, record: RunRecord) -> RunPage:
    groups = gallery_groups(record.gallery)
    bar = None
    if any(item.map is not None for item in record.gallery):
        usage = (record.evaluation or {}).get("anchors")
        used = [value for value, count in zip(usage["values"], usage["counts"]) if count] if usage else None
        bar = figures.colour_bar(used)
    command = None if record.evaluation is not None else f"aib eval {record.path}"
    described = f"{record.model['name']} with {record.model['num_classes']} classes"
    if record.model.get("data"):
        described += f", trained on {record.model['data']}"
    if record.evaluation is not None:
        described += f", evaluated on {record.evaluation['n']:,} {'validation' if record.split == 'val' else record.split} images"
    values = MAP_VALUES[(record.evaluation or {}).get("map_relative")]
    explained = any(item.others for item in record.gallery)
    return RunPage(f"run{index}", label, described, command, headline(record), groups, run_sections(record), bar, values, explained)


def _comparison(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's comparison with its table as a `Table`."""
    unknown = set(comparison) - {"title", "sentences", "table"}
    if unknown:
        raise ValueError(f"comparison has {sorted(unknown)}; it may have 'title', 'sentences' and 'table'")
    table = comparison.get("table")
    made = None
    if table:
        columns = [str(column) for column in table["columns"]]
        rows = [[_cell(cell) for cell in row] for row in table["rows"]]
        if any(len(row) != len(columns) for row in rows):
            raise ValueError(f"comparison: a row of the table has not the {len(columns)} cells of its columns")
        made = Table("", columns, rows)
    return {"title": comparison.get("title", "Comparison"), "sentences": list(comparison.get("sentences", ())), "table": made}


def _cell(cell: object) -> str:
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _templates() -> Any:
    """Jinja with escaping always on; the SVGs are the only markup that passes, marked so in the template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("aib.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _write(out: Path, text: str) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        # half a character, which a stranger's JSON may hold, becomes a question mark
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(out)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(out)) from error
        raise
    return out
