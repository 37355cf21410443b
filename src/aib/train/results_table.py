"""Tables of results as CSV files that several processes may add to at once."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from aib.train.checkpoint import write_text

__all__ = ["update_table"]


def update_table(
    path: Path, columns: Sequence[str], key: Sequence[str], order: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> None:
    """Add ``rows`` to the table, in place of older ones with the same key.

    Args:
        path: the CSV file; it is made, with its folder, where it is absent.
        columns: of the table.
        key: columns that tell one result from another.
        order: columns that the table is sorted by, as text.
        rows: with a value for every column.

    Raises:
        ValueError: ``path`` is a file with other columns.
        OSError: it cannot be written.
    """
    texts = [{column: str(row[column]) for column in columns} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # of several evaluations at once, none may lose another's row
        kept = _read(path, columns)
        new = {tuple(text[k] for k in key) for text in texts}
        merged = [row for row in kept if tuple(row[k] for k in key) not in new] + texts
        merged.sort(key=lambda row: [row[column] for column in order])
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(merged)
        write_text(path, buffer.getvalue())


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise ValueError(f"{path} is another table; the columns of this one are {', '.join(columns)}")
        return list(reader)
