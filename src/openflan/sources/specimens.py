"""Specimens: a few hand-written rows beside a task file, in the hub's layout, that show what the task reads like.

They need no download, so documentation, golden tests and a first look at a task use them. They are invented: nothing is
ever tuned on or evaluated with them.
"""

from pathlib import Path

from openflan.catalog.task import Task
from openflan.ledger import Ledger
from openflan.sources.local import read_file
from openflan.sources.read import Row, prepared

FOLDER = "specimens"


def specimen_file(task_file: Path) -> Path:
    """Where the specimens of a task file are: `specimens/NAME.jsonl` in its folder."""
    return task_file.parent / FOLDER / f"{task_file.stem}.jsonl"


def read_specimens(task: Task, task_file: Path, ledger: Ledger) -> list[Row]:
    """The specimens of a task, prepared as its real rows are; empty where there are none.

    Raises SourceError with file and line for what is not a JSON object.
    """
    file = specimen_file(task_file)
    if not file.is_file():
        return []
    return [
        row
        for index, fields in enumerate(read_file(file))
        for row in prepared(task, f"specimen/{index}", fields, ledger)
    ]
