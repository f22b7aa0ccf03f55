"""Rows of a table that somebody wrote beside images: JSON lines, CSV or Parquet, read within bounds."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ganvas.errors import GanvasError

MAX_BYTES = 2_000_000_000
"""A table with more, on disk or unpacked, is refused."""
MAX_LINE_BYTES = 1_000_000
"""A longer line is left out."""
_MOST_COLUMNS = 1000

Row = tuple[str, "dict[str, object] | str"]
"""Where it is (``line 3``), and its cells by column, or the reason why there are none."""


class Unreadable:
    """Stands in a cell whose value is no text and no number, such as a string that is not UTF-8."""


def read_rows(path: Path, wanted: Collection[str], seen: dict[str, None]) -> Iterator[Row]:
    """The rows of a ``.jsonl``, ``.csv`` or ``.parquet`` file, one after the other.

    Args:
        path: of the file.
        wanted: the columns that are of use; of others, Parquet reads nothing.
        seen: gets the names of all columns, in their order, as they come up.

    Yields:
        Where each row is, and its cells by column, or why there are none. A cell of CSV is None or a string.

    Raises:
        GanvasError: the file is too large, or it is damaged as a whole.
    """
    reader = {".jsonl": _json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}[path.suffix]
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GanvasError(f"{path}: more than {MAX_BYTES / 1e9:.0f} GB; split it over sub-folders")
        yield from reader(path, wanted, seen)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise GanvasError(f"{path}: cannot be read ({reason[:200]})") from None


def python_values(column: pa.Array) -> list[object]:
    """The values of an Arrow column; ``Unreadable`` where one is not what the column says."""
    try:
        values: list[object] = column.to_pylist()
    except (ValueError, pa.ArrowException):
        values = [_python_value(cell) for cell in column]
    return values


def _python_value(cell: pa.Scalar) -> object:
    try:
        value: object = cell.as_py()
    except (ValueError, pa.ArrowException):
        return Unreadable()
    return value


def _json_lines(path: Path, wanted: Collection[str], seen: dict[str, None]) -> Iterator[Row]:
    for number, line in _lines(path):
        where = f"line {number}"
        if line is None:
            yield where, _too_long()
        elif line.strip():
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError:
                yield where, "is not UTF-8"
            except (ValueError, RecursionError):
                yield where, "is no JSON"
            else:
                if isinstance(row, dict):
                    if len(seen) < _MOST_COLUMNS:
                        seen.update(dict.fromkeys(row))
                    yield where, {name: row[name] for name in wanted if name in row}
                else:
                    yield where, "is no JSON object"


def _csv_rows(path: Path, wanted: Collection[str], seen: dict[str, None]) -> Iterator[Row]:
    """Cells between commas, semicolons (as spreadsheets write them in much of Europe) or tabs."""
    long: list[int] = []
    lines = _text_lines(path, long)
    start, first = next(((number, line) for number, line in enumerate(lines, 1) if line.strip()), (0, ""))
    mark = _delimiter(first)
    header = next(csv.reader([first], delimiter=mark), [])
    seen.update(dict.fromkeys(header))
    rows = csv.reader(lines, delimiter=mark)
    while True:
        cells, problem = None, None
        try:
            cells = next(rows, None)
        except csv.Error as error:
            problem = f"is no CSV ({error})"
        where = f"line {start + rows.line_num}"
        yield from ((f"line {number}", _too_long()) for number in long)
        long.clear()
        if problem:
            yield where, problem
        elif cells is None:
            return
        elif len(cells) > len(header):
            yield where, "has more cells than there are columns (a caption with a comma needs quotes)"
        elif not all(map(is_text, cells)):
            yield where, "is not UTF-8"
        elif cells:
            named: Mapping[str, str] = dict(zip(header, cells, strict=False))
            yield where, {name: named[name] or None for name in wanted if name in named}


def _delimiter(header: str) -> str:
    return next(
        (mark for mark in ",;\t" if "file_name" in next(csv.reader([header], delimiter=mark), [])), ","
    )


def _parquet_rows(path: Path, wanted: Collection[str], seen: dict[str, None]) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        seen.update(dict.fromkeys(file.schema_arrow.names))
        columns = [name for name in file.schema_arrow.names if name in wanted]
        if _unpacked_bytes(file, columns) > MAX_BYTES:
            raise GanvasError(
                f"{path}: its columns {', '.join(columns)} hold more than {MAX_BYTES / 1e9:.0f} GB;"
                " split it over sub-folders"
            )
        number = 0
        for batch in file.iter_batches(1024, columns=columns) if columns else ():
            for cells in zip(*map(python_values, batch.columns), strict=True):
                number += 1
                yield f"row {number}", dict(zip(batch.schema.names, cells, strict=True))


def _unpacked_bytes(file: pq.ParquetFile, columns: Collection[str]) -> int:
    total = 0
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        parts = map(group.column, range(group.num_columns))
        total += sum(
            part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in columns
        )
    return total


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Line numbers from 1 with lines; None in place of a line that is too long."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            part = line
            while len(part) == MAX_LINE_BYTES and not part.endswith(b"\n"):
                part = file.readline(MAX_LINE_BYTES)
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            yield number, text if part is line else None


def _text_lines(path: Path, long: list[int]) -> Iterator[str]:
    """Lines as text, whatever bytes they hold; those that are too long are empty, and noted in ``long``."""
    for number, line in _lines(path):
        if line is None:
            long.append(number)
        yield (line or b"\n").decode(errors="surrogateescape")


def is_text(cell: str) -> bool:
    """Whether a string can be written: one with half of a surrogate pair cannot."""
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_long() -> str:
    return f"is longer than {MAX_LINE_BYTES:,} bytes"
