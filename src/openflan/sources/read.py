"""A task's rows, wherever they are: a data root of local files, the micro-world's generator, or the hub.

Takes a task and a split, gives `Row`s in a fixed shuffled order with stable ids. Read next: `rendering/render.py`.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from openflan.catalog.task import Split, Task
from openflan.errors import CatalogError, Problem, SourceError, nearest
from openflan.ledger import Ledger
from openflan.seeding import generator
from openflan.sources.hub import load_hub_split
from openflan.sources.local import FILES, find_split, read_file, typed
from openflan.sources.prepare import STEPS

MAX_EXAMPLES = 30_000
"""Most rows of one task that are ever tuned on (paper section 2.1)."""

STAGE = "prepare"
_SLICE = "["
"""In the name of a part of a hub split ("train[:90%]")."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One source row: its stable id ("validation/17", or "train/17.3" for part 3 of an exploded row) and columns."""

    id: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Where to look for rows."""

    data_root: Path | None = None
    """Folder with one folder per task name; tried before the hub."""
    world_seed: int = 0
    """Which rows of the micro-world are generated."""


def read_rows(
    task: Task, split: Split, settings: SourceSettings, ledger: Ledger, *, limit: int | None = None
) -> Sequence[Row]:
    """All of `iter_rows`."""
    return list(iter_rows(task, split, settings, ledger, limit=limit))


def iter_rows(
    task: Task, split: Split, settings: SourceSettings, ledger: Ledger, *, limit: int | None = None
) -> Iterator[Row]:
    """The rows of one split, in an order that is fixed by the task's name, at most `limit` (MAX_EXAMPLES for train).

    Hub copies are often sorted by label, so rows are permuted before any cut (flan-paper 1.3). Where dev shares a
    source split with train or test, `dev_rows` rows are set aside for it and never appear on the other side.

    Raises SourceError if the rows cannot be found or read, or if train and test are the same rows. Rows that a prepare
    step refuses, or cannot read, are counted in `ledger`.
    """
    most = MAX_EXAMPLES if limit is None and split == "train" else limit
    if task.source.world:
        yield from _world_rows(task, split, settings.world_seed, most)
        return
    place = _place(task, settings.data_root)
    origin = place.origin(split, ledger)
    if origin is None:
        return
    place.refuse_test_rows(split)
    table = place.rows(origin)
    # Hub and data root name a split differently, and give the same rows.
    name = origin if _SLICE in origin else local_name(origin)
    given = 0
    for index in _indices(task, split, name, len(table), place.shared(split, origin)):
        for part in prepared(task, f"{name}/{index}", table[int(index)], ledger):
            yield part
            given += 1
            if given == most:
                return


def can_be_read(task: Task, settings: SourceSettings) -> bool:
    """Whether there is a place to look for the task's rows: not where the user has to bring files and has not."""
    return bool(task.source.world or task.source.hub or _place(task, settings.data_root).folder)


def source_identity(task: Task, split: Split, settings: SourceSettings) -> list[Any]:
    """What names the rows behind a split without reading them: the local file and its date, or the hub's revision.

    Raises SourceError where a local copy lacks the split.
    """
    if task.source.world:
        return ["world", task.source.world, settings.world_seed]
    place = _place(task, settings.data_root)
    origin = place.origin(split, Ledger())
    shared = origin is not None and place.shared(split, origin)
    if place.folder is None:
        folder = Path(task.source.hub or "")
        files = sorted(folder.rglob("*")) if task.source.hub and folder.is_dir() else []
        return ["hub", origin, shared, *(_file_identity(file) for file in files if file.is_file())]
    path = find_split(place.folder, origin) if origin is not None else None
    return ["local", origin, shared, None if path is None else _file_identity(path)]


def _file_identity(path: Path) -> list[str | int]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _world_rows(task: Task, split: Split, seed: int, limit: int | None) -> Sequence[Row]:
    from openflan.world.rows import generate

    count = task.source.rows[split] if limit is None else min(limit, task.source.rows[split])
    return [Row(f"{split}/{i}", row) for i, row in enumerate(generate(str(task.source.world), split, count, seed))]


@dataclass(frozen=True, slots=True)
class _Place:
    """A task's source splits, from a data root or the hub."""

    task: Task
    folder: Path | None

    def origin(self, split: Split, ledger: Ledger) -> str | None:
        """The source split that serves `split`, or a stand-in (noted in the ledger) where a local copy lacks it."""
        wanted = self.task.source.splits.get(split)
        if wanted is None or self.folder is None:
            return wanted
        if _SLICE in wanted:
            what = f"source.splits.{split} is {wanted!r}, a part of a hub split, which a folder of files has not"
            raise SourceError(Problem(self.task.name, what, f"name a split of its own, with a file in {self.folder}"))
        name = local_name(wanted)
        if find_split(self.folder, name):
            return name
        stand_ins = {"train": (), "dev": ("train", "validation"), "test": ("validation",)}[split]
        for other in stand_ins:
            if find_split(self.folder, other):
                ledger.note(f"{self.task.name}: no {name} file, {other} stands in for {split}")
                return other
        if split == "train":
            ledger.note(f"{self.task.name}: no {name} file, nothing to tune on")
            return None
        raise SourceError(Problem(str(self.folder), f"no {name} file", f"expected {name}.{{{'|'.join(FILES)}}}"))

    def rows(self, origin: str) -> Sequence[Mapping[str, Any]]:
        if self.folder is not None:
            path = find_split(self.folder, origin)
            assert path is not None, "origin() names files that exist"
            return _read_cached(path, self.task.source.hub is not None, *_file_identity(path)[1:])
        source = self.task.source
        if source.hub is None:
            raise SourceError(Problem(self.task.name, "is not on the hub and no data root has it", source.obtain))
        return load_hub_split(source.hub, source.config, source.revision, origin, self.task.name)

    def refuse_test_rows(self, split: Split) -> None:
        """Raises SourceError where one file of a data root would serve train and test alike."""
        names = {name: self.task.source.splits.get(name) for name in ("train", "test")}
        files = {name: local_name(wanted) for name, wanted in names.items() if wanted is not None}
        if self.folder is not None and split in files and len(files) > len(set(files.values())):
            what = f"its train and its test rows are the same: both are read from {files[split]} in {self.folder}"
            raise SourceError(Problem(self.task.name, what, "give test rows a split of their own"))

    def shared(self, split: Split, origin: str) -> bool:
        """Whether dev rows must be set apart from `split` within `origin`."""
        quiet = Ledger()
        others: tuple[Split, ...] = ("train", "test") if split == "dev" else ("dev",)
        return any(other in self.task.source.splits and self.origin(other, quiet) == origin for other in others)


@lru_cache(maxsize=2)  # a task's splits follow one another, and often share a file
def _read_cached(path: Path, of_hub: bool, *identity: str | int) -> Sequence[Mapping[str, Any]]:
    rows = read_file(path)
    return typed(path, rows) if of_hub and path.suffix == ".csv" else rows


def local_name(split: str) -> str:
    """The file name a hub split has under a data root: train, validation or test."""
    if split.startswith("train"):
        return "train"
    return "test" if split.startswith("test") else "validation"


def _place(task: Task, data_root: Path | None) -> _Place:
    if data_root is not None:
        if not data_root.is_dir():
            raise SourceError(Problem(f"data root {data_root}", "no such folder"))
        for name in (task.name, task.source.rows_of):
            # Where there is a hub, a folder that holds none of the rows does not stand in its way.
            if (
                name is not None
                and (folder := data_root / name).is_dir()
                and (not task.source.hub or _holds_rows(folder))
            ):
                return _Place(task, folder)
    return _Place(task, None)


def _holds_rows(folder: Path) -> bool:
    return any(find_split(folder, split) for split in ("train", "validation", "test"))


def _indices(task: Task, split: Split, origin: str, count: int, shared: bool) -> Iterator[int]:
    order = generator(0, "rows", task.name, origin).permutation(count)
    if shared:
        dev = min(task.source.dev_rows, count // 2)
        order = order[count - dev :] if split == "dev" else order[: count - dev]
    elif split == "dev":
        order = order[: task.source.dev_rows]
    yield from order.tolist()


def prepared(task: Task, row_id: str, fields: Mapping[str, Any], ledger: Ledger) -> Iterator[Row]:
    """What a source row becomes through the task's prepare steps; refused rows are counted in `ledger`."""
    parts: Iterator[dict[str, Any]] = iter([dict(fields)])
    for name in task.source.prepare:
        if name not in STEPS:
            raise CatalogError(Problem(f"{task.name}: source.prepare", f"no step {name!r}", nearest(name, STEPS)))
        parts = STEPS[name](parts)
    try:
        done = list(parts)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        ledger.drop(STAGE, task.name, row_id, f"{_steps(task)}{type(error).__name__}: {error}")
        return
    for number, part in enumerate(done):
        part_id = row_id if len(done) == 1 else f"{row_id}.{number}"
        if reason := part.get("_dropped"):
            ledger.drop(STAGE, task.name, part_id, str(reason))
        else:
            yield Row(part_id, part)


def could_not_prepare(task: Task, reason: str) -> bool:
    """Whether this is why rows were dropped that a prepare step cannot read, not ones that it refuses."""
    return bool(task.source.prepare) and reason.startswith(_steps(task))


def _steps(task: Task) -> str:
    return f"{', '.join(task.source.prepare)}: "
