"""Files of a data root: one folder per task, one file per split, columns as on the hub."""

import csv
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from openflan.errors import Problem, SourceError

FILES = ("jsonl", "jsonl.gz", "parquet", "csv")
"""File types, in the order in which they are looked for."""
LONGEST_CELL = 1 << 27
"""Characters of a CSV cell; Python's own limit is less than a long article has."""


def find_split(folder: Path, split: str) -> Path | None:
    """The file of that split in a task's folder, or None."""
    return next((path for ending in FILES if (path := folder / f"{split}.{ending}").is_file()), None)


def read_file(path: Path) -> Sequence[Mapping[str, Any]]:
    """All rows of a jsonl, jsonl.gz, parquet or csv file.

    Raises SourceError with file and line for every line that is not a JSON object, or if the file cannot be read.
    """
    try:
        if path.name.endswith(".parquet"):
            from pyarrow.parquet import ParquetFile

            with ParquetFile(path) as file:
                _refuse_repeated(path, file.schema_arrow.names)
                return file.read().to_pylist()
        if path.name.endswith(".csv"):
            return _csv_rows(path)
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        return JsonLines(path, data)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise SourceError(Problem(str(path), f"cannot be read: {error}")) from error


def _csv_rows(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(LONGEST_CELL)
    rows: list[dict[str, str]] = []
    problems: list[Problem] = []
    last = 0
    with path.open(newline="", encoding="utf-8-sig") as file:  # Excel puts a mark before the first column's name
        # Strict, for a quote that is never closed would take all lines after it into one cell.
        reader = csv.DictReader(file, strict=True)
        try:
            _refuse_repeated(path, reader.fieldnames or ())
            for row in reader:
                if None in row:
                    what = f"has {len(row[None])} cells more than there are columns"  # pyright: ignore[reportArgumentType]
                    problems.append(Problem(f"{path}:{reader.line_num}", what, "put cells that hold a comma in quotes"))
                rows.append(row)
                last = reader.line_num
        except csv.Error as error:
            hint = "close each quote, and write one inside quotes twice"
            problems.append(Problem(f"{path}:{last + 1}", f"the row that begins here: {error}", hint))
    if problems:
        raise SourceError(problems)
    return rows


def _refuse_repeated(path: Path, names: Sequence[str]) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        what = f"has several columns called {', '.join(map(repr, repeated))}"
        raise SourceError(Problem(str(path), what, "rename them"))


def typed(path: Path, rows: Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, Any]]:
    """The rows of a CSV file with types as on the hub.

    A column all of whose cells are numbers, true or false, or lists and objects in JSON is read as these; an empty cell
    of such a column is null. Raises SourceError naming columns of lists that are not JSON.
    """
    names = list(rows[0]) if rows else []
    problems: list[Problem] = []
    read = {name: _typed_column([row[name] for row in rows], f"{path}: column {name}", problems) for name in names}
    if problems:
        raise SourceError(problems)
    return [{name: read[name][number] for name in names} for number in range(len(rows))]


def _typed_column(cells: Sequence[str | None], where: str, problems: list[Problem]) -> Sequence[Any]:
    filled = [cell for cell in cells if cell]
    if filled and all(cell in ("True", "False", "true", "false") for cell in filled):
        return [cell.lower() == "true" if cell else None for cell in cells]
    nested = bool(filled) and all(cell[0] + cell[-1] in ("[]", "{}") for cell in filled)
    try:
        values = [json.loads(cell) if cell else None for cell in cells]
    except ValueError:
        if nested:
            problems.append(Problem(where, "lists or objects that are not JSON", "write JSON, or the file as jsonl"))
        return cells
    # As a number it must be written as it was, so that "007" and "1.50" stay the texts they may be.
    as_written = all(nested or json.dumps(value) == cell for value, cell in zip(values, cells, strict=True) if cell)
    return values if filled and as_written and not any(isinstance(value, str) for value in values) else cells


class JsonLines(Sequence[Mapping[str, Any]]):
    """The rows of a JSON-lines file, kept as bytes and parsed when asked for: parsed they take several times as much.

    Raises SourceError naming every line that is not a JSON object.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self._lines: list[bytes] = []
        problems: list[Problem] = []
        for number, line in enumerate(data.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                problems.append(Problem(f"{path}:{number}", f"not JSON: {error}"))
                continue
            if not isinstance(row, dict):
                problems.append(Problem(f"{path}:{number}", f"a row is a JSON object, not {type(row).__name__}"))
            self._lines.append(line)
        if problems:
            raise SourceError(problems)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        if isinstance(index, slice):
            return [json.loads(line) for line in self._lines[index]]
        return json.loads(self._lines[index])
