"""Files of a data root: one folder per task, one file per split, columns as on the hub."""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
        return _json_lines(path, data.decode("utf-8"))
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise SourceError(Problem(str(path), f"cannot be read: {error}")) from error


def _json_lines(path: Path, text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(Problem(f"{path}:{number}", f"not JSON: {error}"))
            continue
        if isinstance(row, dict):
            rows.append(row)  # pyright: ignore[reportUnknownArgumentType] -- JSON keys are strings
        else:
            problems.append(Problem(f"{path}:{number}", f"a row is a JSON object, not {type(row).__name__}"))
    if problems:
        raise SourceError(problems)
    return rows
