"""Files of a data root: one folder per task, one file per split, columns as on the hub."""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from openflan.errors import Problem, SourceError

FILES = ("jsonl", "jsonl.gz", "parquet", "csv")
"""File types, in the order in which they are looked for."""


def find_split(folder: Path, split: str) -> Path | None:
    """The file of that split in a task's folder, or None."""
    return next((path for ending in FILES if (path := folder / f"{split}.{ending}").is_file()), None)


def read_file(path: Path) -> Sequence[Mapping[str, Any]]:
    """All rows of a jsonl, jsonl.gz, parquet or csv file.

    Raises SourceError with file and line for every line that is not a JSON object, or if the file cannot be read.
    """
    try:
        if path.name.endswith(".parquet"):
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        if path.name.endswith(".csv"):
            with path.open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        return JsonLines(path, data)
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise SourceError(Problem(str(path), f"cannot be read: {error}")) from error


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
