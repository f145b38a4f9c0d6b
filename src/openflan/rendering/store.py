"""Rows read once: a task's checked rows as a memory-mapped file, so that the next run begins within seconds.

Takes a task, a split and where to look; gives a `RowStore`, a sequence of `ReadRow`s that decodes a row when asked. A
store is named by all that decides its rows: the source files (or hub revision), the task file's columns and answer, and
the code that reads them. Stores lie in the cache folder; deleting it costs time only.
Read next: `mixture/mixture.py`.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from openflan import world
from openflan.artifacts import cache_folder, canonical_json, fingerprint, is_done, read_json, stage, write_json
from openflan.catalog.task import Split, Task
from openflan.errors import SourceError
from openflan.ledger import Ledger
from openflan.rendering import environment, render
from openflan.rendering.render import ReadRow, read_columns
from openflan.sources import hub, local, prepare, read, texts
from openflan.sources.hub import go_offline_if_unreachable
from openflan.sources.read import SourceSettings, can_be_read, iter_rows, source_identity

FORMAT = 2
ROWS_FILE, ABOUT_FILE = "rows.arrow", "about.json"
BATCH_ROWS = 1_000
"""Rows that are decoded columns and text at one time while a store is written."""


@dataclass(frozen=True)
class RowStore(Sequence[ReadRow]):
    """The rows of one task and split, or some of them, in the order they were read; rows are decoded on demand."""

    file: Path
    num_rows: int
    """In the file."""
    content_sha: str
    """Names the rows by what they hold: equal rows in equal order have equal values."""
    chosen: npt.NDArray[np.int64] | None = None
    """Positions of the rows that are part of this view; None is all."""

    def __len__(self) -> int:
        return self.num_rows if self.chosen is None else len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> ReadRow: ...
    @overload
    def __getitem__(self, index: slice) -> "RowStore": ...
    def __getitem__(self, index: int | slice) -> "ReadRow | RowStore":
        if isinstance(index, slice):
            return self.choose(np.arange(len(self))[index])
        position = range(len(self))[index] if self.chosen is None else int(self.chosen[index])
        return _decode(self._mapped["id"][position].as_py(), self._mapped["row"][position].as_py())

    def __iter__(self) -> Iterator[ReadRow]:
        table = _map(self.file)  # its own, so that the pages it touches are given back at the end
        if self.chosen is not None:
            table = table.take(pa.array(self.chosen))
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            for row_id, row in zip(batch["id"].to_pylist(), batch["row"].to_pylist(), strict=True):
                yield _decode(row_id, row)

    def choose(self, positions: npt.NDArray[np.int64]) -> "RowStore":
        """The rows at these positions of this view, in this order."""
        chosen = positions if self.chosen is None else self.chosen[positions]
        return RowStore(self.file, self.num_rows, self.content_sha, np.ascontiguousarray(chosen, np.int64))

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file itself; the mapped rows would be sent to it whole.
        return {name: value for name, value in self.__dict__.items() if name != "_mapped"}

    @cached_property
    def _mapped(self) -> Any:
        return _map(self.file)

    @property
    def sha(self) -> str:
        """Names the rows of this view by their content."""
        if self.chosen is None:
            return self.content_sha
        return fingerprint([self.content_sha, hashlib.sha256(self.chosen.tobytes()).hexdigest()])


@dataclass(frozen=True, slots=True)
class StoreJob:
    """One task's split to be read."""

    task: Task
    split: Split
    settings: SourceSettings
    limit: int | None

    @property
    def folder(self) -> Path:
        """Where the store of this job is, or will be."""
        key = fingerprint([FORMAT, _code(), _task_content(self.task), self.split, self.limit, self._source()])
        return cache_folder() / "rows" / f"{self.task.name}-{self.split}-{key}"

    @property
    def on_hub(self) -> bool:
        """Whether the rows come from the hub."""
        return self._source()[0] == "hub"

    def _source(self) -> Any:
        return source_identity(self.task, self.split, self.settings)


def read_store(job: StoreJob, ledger: Ledger) -> RowStore:
    """The rows of a job, read now or in an earlier run; what was dropped on the way is counted in `ledger`.

    Raises SourceError if the rows cannot be found or read.
    """
    folder = _built(job)
    about = read_json(folder / ABOUT_FILE)
    ledger.merge([Ledger.from_json(about["ledger"])])
    return RowStore(folder / ROWS_FILE, about["rows"], about["sha"])


def _map(file: Path) -> Any:
    with pa.memory_map(str(file)) as mapped:
        return pa.ipc.open_file(mapped).read_all()


def build_stores(
    jobs: Iterable[StoreJob],
    *,
    workers: int,
    progress: Callable[[int, int, str], None] = lambda done, total, task: None,
) -> None:
    """Read what is not stored yet, in `workers` processes; what cannot be read is left for `read_store` to tell.

    `progress` is given the number of jobs done, of all jobs, and the name of the last task.
    """
    missing = [job for job in jobs if can_be_read(job.task, job.settings) and not _is_stored(job)]
    if workers < 2 or len(missing) < 2:
        return
    if any(job.on_hub for job in missing):
        go_offline_if_unreachable()
    # A forked child of a process that has used threads can hang.
    with ProcessPoolExecutor(min(workers, len(missing)), get_context("spawn")) as pool:
        names = {pool.submit(_try_build, job): job.task.name for job in missing}
        for done, future in enumerate(as_completed(names), 1):
            future.result()
            progress(done, len(names), names[future])


def _is_stored(job: StoreJob) -> bool:
    try:
        return is_done(job.folder)
    except SourceError:
        return True


def _try_build(job: StoreJob) -> None:
    with contextlib.suppress(SourceError):
        _built(job)


def _built(job: StoreJob) -> Path:
    return stage(job.folder, lambda work: _build(job, work))


def _build(job: StoreJob, work: Path) -> None:
    ledger = Ledger()
    rows = iter_rows(job.task, job.split, job.settings, ledger, limit=job.limit)
    keep_raw = any(isinstance(template.options, str) for template in job.task.templates)
    schema = pa.schema([("id", pa.string()), ("row", pa.large_string())])
    digest = hashlib.sha256()
    count = 0
    with pa.OSFile(str(work / ROWS_FILE), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            read_now = read_columns(job.task, batch, ledger)
            count += len(read_now)
            ids, encoded = [row.id for row in read_now], [_encode(row, keep_raw=keep_raw) for row in read_now]
            for row_id, text in zip(ids, encoded, strict=True):
                digest.update(f"{row_id}\n{text}\n".encode())
            writer.write_batch(
                pa.record_batch([pa.array(ids, pa.string()), pa.array(encoded, pa.large_string())], schema)
            )
    write_json(work / ABOUT_FILE, {"rows": count, "sha": digest.hexdigest()[:16], "ledger": ledger.to_json()})


def _encode(row: ReadRow, *, keep_raw: bool) -> str:
    raw = dict(row.raw) if keep_raw else {}
    value = [dict(row.columns), raw, row.options, row.gold, row.texts, row.group, row.grade]
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _decode(row_id: str, text: str) -> ReadRow:
    columns, raw, options, gold, texts, group, grade = json.loads(text)
    return ReadRow(row_id, columns, raw, tuple(options), tuple(gold), tuple(texts), group, grade)


def _task_content(task: Task) -> Any:
    content = task.content()
    own_options = any(isinstance(template["options"], str) for template in content.pop("templates"))
    return canonical_json([content, own_options])


@cache
def _code() -> str:
    """Names the code between a source and a `ReadRow`: a repaired prepare step makes a new store."""
    digest = hashlib.sha256()
    files = [Path(str(module.__file__)) for module in (hub, local, prepare, read, texts, environment, render)]
    for file in [*files, *sorted(Path(str(world.__file__)).parent.glob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
