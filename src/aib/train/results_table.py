"""Tables of results as CSV files that several processes may add to at once."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aib.data.locking import held
from aib.data.texts import printable, read_text
from aib.train.checkpoint import write_text

__all__ = ["check_table", "update_table"]


def check_table(path: Path | None, columns: Sequence[str]) -> None:
    """Refuse a file that `update_table` would refuse, before the work that is to go there.

    Raises:
        ValueError: ``path`` is a file with other columns (an older table may lack some), or a folder.
    """
    if path is not None:
        _read(path, columns)


def update_table(
    path: Path,
    columns: Sequence[str],
    key: Sequence[str],
    order: Sequence[str],
    rows: Sequence[Mapping[str, object]],
    *,
    refuse: Callable[[Mapping[str, str], Mapping[str, str]], str | None] = lambda kept, new: None,
) -> None:
    """Add ``rows`` to the table, in place of older ones with the same key.

    Args:
        path: the CSV file; it is made, with its folder, where it is absent.
        columns: of the table.
        key: columns that tell one result from another.
        order: columns that the table is sorted by, as text.
        rows: with a value for every column.
        refuse: of a row that is there and the one to take its place, why it must not, or None.

    Raises:
        ValueError: ``path`` is a file with other columns, or a line of it with more or fewer values, or a row was refused; the
            table is as it was.
        OSError: it cannot be written.
    """
    texts = [{column: str(row[column]) for column in columns} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f".{path.name}.lock")):  # of several evaluations at once, none may lose another's row
        for left in path.parent.glob(".*.tmp"):  # by a process that was killed; none writes now
            if left.name.startswith(f".{path.name}."):
                left.unlink(missing_ok=True)
        kept = _read(path, columns)
        new = {tuple(text[k] for k in key): text for text in texts}
        for row in kept:
            mine = tuple(row[k] for k in key)
            if mine in new and (reason := refuse(row, new[mine])):
                raise ValueError(f"{path} is left as it was: {reason}")
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
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file for the table")
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        found = list(reader.fieldnames or ())
        odd = [column for i, column in enumerate(found) if column not in columns or column in found[:i]]
        missing = [column for column in columns if column not in found]
        if odd or columns[0] in missing or columns[-1] in missing:  # which no table of ours ever lacked
            said = [f"unknown or repeated columns: {printable(', '.join(odd)[:200])}"] if odd else []
            said += [f"missing: {', '.join(missing)}"] if missing else []
            raise ValueError(f"it is another table ({'; '.join(said)})")
        rows = list(reader)
        if any(set(row) != set(found) or None in row.values() for row in rows):
            raise ValueError("a line has more or fewer values than there are columns")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be added to: {error}") from None
    return [{column: row.get(column, "") for column in columns} for row in rows]  # of before a column was added: it is empty
